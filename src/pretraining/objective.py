"""What pre-training minimises: next-token loss on the targets, and dense labels for the vision tower.

In: pictures, labels and token ids. Out: named losses. The two dense terms go through linear probes that are thrown
away afterwards. They exist because next-token targets alone left a model of this size unable to tell *which* thing is
named (docs/lab-notes.md): a patch must know what it shows, and an image latent what stands in its column, before
attention can match a word with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.backbone.tiny import LOCATION_GRID
from src.pretraining.scenes import BOX_CLASS
from src.sim.scene import COLOURS, SHAPES

IGNORE = -100


@dataclass
class PretrainBatch:
    """`pixels (B, 3, S, S)` float; `ids`, `targets (B, L)` int64, targets -100 where nothing is to be predicted;
    `patches (B, g*g)`, `columns (B, P)` int64 classes from 0 = nothing; `column_box (B, P)` float, 1/m."""

    pixels: Tensor
    ids: Tensor
    targets: Tensor
    patches: Tensor
    columns: Tensor
    column_box: Tensor


class Objective(nn.Module):
    """A Kosmos-2 with two linear probes."""

    def __init__(self, model: Any, tags: Tensor) -> None:
        """
        Args:
            model: `Kosmos2ForConditionalGeneration`.
            tags: ids of `<s> <image> </image>`, (3,) int64.
        """
        super().__init__()
        self.model = model
        self.register_buffer("tags", tags)
        vision, text = model.config.vision_config.hidden_size, model.config.text_config.embed_dim
        classes = BOX_CLASS + 2  # nothing, the objects, a box
        self.patch_probe = nn.Linear(vision, classes)
        # The columns' probe is shared by all latents: "red ball" must look alike in each, so that words can match it.
        self.column_probe = nn.Linear(text, len(COLOURS) + len(SHAPES) + 2 + 1)

    def forward(self, batch: PretrainBatch, with_text: bool = True) -> dict[str, Tensor]:
        """Named losses, scalars."""
        features = self._features(batch.pixels)
        losses = {
            "patches": F.cross_entropy(
                self.patch_probe(features[:, 1:]).flatten(0, 1), batch.patches.flatten()
            )
        }
        latents, _ = self.model.image_to_text_projection(F.normalize(features, dim=-1))
        losses |= self._column_losses(latents, batch)
        if with_text:
            losses["tokens"] = self.token_loss(latents, batch.ids, batch.targets)
        return losses

    def latents(self, pixels: Tensor) -> Tensor:
        """`(B, 3, S, S)` float -> image latents `(B, P, D)`."""
        latents: Tensor = self.model.image_to_text_projection(F.normalize(self._features(pixels), dim=-1))[0]
        return latents

    def _features(self, pixels: Tensor) -> Tensor:
        vision = self.model.vision_model.model
        features: Tensor = vision.post_layernorm(vision(pixel_values=pixels).last_hidden_state)
        return features

    def _column_losses(self, latents: Tensor, batch: PretrainBatch) -> dict[str, Tensor]:
        width = latents.shape[-1]
        guess = self.column_probe(latents * width**0.5)
        colours, shapes, box = guess.split([len(COLOURS) + 1, len(SHAPES) + 1, 1], dim=-1)
        empty = batch.columns == 0
        colour = torch.where(empty, 0, (batch.columns - 1) // len(SHAPES) + 1)
        shape = torch.where(empty, 0, (batch.columns - 1) % len(SHAPES) + 1)
        return {
            "colours": F.cross_entropy(colours.flatten(0, 1), colour.flatten()),
            "shapes": F.cross_entropy(shapes.flatten(0, 1), shape.flatten()),
            "boxes": F.smooth_l1_loss(box[..., 0], batch.column_box),
        }

    def token_loss(self, latents: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        """Next-token loss: latents `(B, P, D)`, `ids (B, L)`, `targets (B, L)` with -100 where nothing is predicted."""
        hidden = self._hidden(latents, ids)[:, latents.shape[1] + 3 : -1]
        wanted = targets[:, 1:] != IGNORE
        return F.cross_entropy(self.model.text_model.lm_head(hidden[wanted]), targets[:, 1:][wanted])

    def ask(self, pixels: Tensor, ids: Tensor, first_location: int) -> int:
        """The grid column in which the next token, a location, most likely lies; one picture `(1, 3, S, S)`."""
        hidden = self._hidden(self.latents(pixels), ids[None])[:, -1]
        cells = LOCATION_GRID**2
        logits = self.model.text_model.lm_head(hidden)[0, first_location : first_location + cells]
        return int(logits.softmax(0).view(LOCATION_GRID, LOCATION_GRID).sum(dim=0).argmax())

    def _hidden(self, latents: Tensor, ids: Tensor) -> Tensor:
        embed = self.model.text_model.model.embed_tokens
        tags = embed(self.tags).expand(len(latents), -1, -1)
        inputs = torch.cat([tags[:, :2], latents, tags[:, 2:], embed(ids)], dim=1)
        # Padding stands on the right and attention is causal, so nothing real ever sees it.
        hidden: Tensor = self.model.text_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return hidden
