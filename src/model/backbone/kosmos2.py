"""Kosmos-2 behind the backbone door, on unpatched transformers.

Token layout of one frame (see docs/method.md):

    <s> <image> [P image latents] </image> prompt words … [Q action queries] <pad> …

The sequence is merged out of place into `inputs_embeds` of the text transformer. Two facts of the library
decide the layout: with `inputs_embeds` its positions are sequential and blind to padding, so padding stands
last; and it multiplies embeddings by sqrt(D) itself, so everything merged here is unscaled.
There is one path and no fallback: a state is read at the explicit index of its query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.model.backbone.loading import at, load_network, open_checkpoint, unreachable
from src.model.backbone.sequence import Packed, SequenceBackbone

PROMPT = "<grounding> An image of a robot {instruction}"
"""Prompt of RoboVLMs for Kosmos-2 (github.com/Robot-VLAs/RoboVLMs)."""

SITES = {
    "vision": r"vision_model\.model\.encoder\.layers\.(\d+)\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])",
    "projector": r"image_to_text_projection\.(?:dense|x_attn\.(?:q|k|v|out)_proj)",
    "text_attention": r"text_model\.model\.layers\.(\d+)\.self_attn\.(?:q|k|v|out)_proj",
    "text_mlp": r"text_model\.model\.layers\.(\d+)\.ffn\.fc[12]",
}


class Kosmos2Backbone(SequenceBackbone):
    """`microsoft/kosmos-2-patch14-224`, or any folder of the same layout, read at Q action queries."""

    def __init__(
        self,
        checkpoint: str,
        num_queries: int = 1,
        prompt: str = "<s>{image}" + PROMPT,
        query_init: str | None = None,
        dtype: str = "float32",
        quantization: str | None = None,
        gradient_checkpointing: bool = False,
        revision: str | None = None,
    ) -> None:
        """
        Args:
            checkpoint: hub id or local folder with config, weights, tokenizer and image processor.
            num_queries: Q, action queries appended after the prompt.
            prompt: template of the sequence: `{image}` stands for `<image> latents </image>`.
            query_init: token whose embedding the queries start from; null draws them at the size of a word.
            dtype: of the VLM's weights, `float32` or `bfloat16`; the queries stay float32.
            quantization: null, `nf4` (4 bits, QLoRA) or `int8`; needs the extra `qlora`.
            gradient_checkpointing: recompute activations in the backward pass: less memory, ~30 % slower.
            revision: commit, branch or tag of a hub checkpoint; null is its newest. A run loads the one it recorded.

        Raises:
            ProjectError: weights missing, the folder is no Kosmos-2, or the prompt lacks a place.
        """
        from transformers import AutoProcessor, Kosmos2Model

        place, config, commit = open_checkpoint(checkpoint, ["kosmos-2"], "Kosmos-2", revision)
        try:
            processor = AutoProcessor.from_pretrained(place, **at(commit))
        except (OSError, ValueError) as error:
            raise unreachable(place, error) from error
        # Headless: the 65k-way language-model head is not read (about 10 % of a forward pass).
        network = load_network(Kosmos2Model, place, commit, dtype, quantization)
        text = config.text_config
        tokenizer = processor.tokenizer
        opening, closing = tokenizer.convert_tokens_to_ids(["<image>", "</image>"])
        super().__init__(
            network,
            tokenizer,
            prompt,
            num_queries,
            query_init,
            frame_open=[opening],
            frame_close=[closing],
            image_token=tokenizer.pad_token_id,
            hidden_size=text.embed_dim,
            latents_per_frame=config.latent_query_num,
            image_size=config.vision_config.image_size,
            max_tokens=text.max_position_embeddings,
            image_mean=processor.image_processor.image_mean,
            image_std=processor.image_processor.image_std,
        )
        self.sites = SITES
        self.text_path = "text_model"
        self.parts = ("vision_model", "image_to_text_projection", "text_model.model")
        self.quantized = quantization is not None
        self.checkpoint, self.revision = checkpoint, commit
        if gradient_checkpointing:
            # Its default is the non-reentrant kind; the other leaves adapters without gradient (measured).
            network.activation_checkpointing_enable()

    @property
    def embeddings(self) -> nn.Embedding:
        network: Any = self.network
        table: nn.Embedding = network.text_model.model.embed_tokens
        return table

    def encode_images(self, pixels: Tensor) -> Tensor:
        network: Any = self.network
        latents: Tensor = network.get_image_features(pixels.to(self.embeddings.weight.dtype)).pooler_output
        return latents

    def run(self, packed: Packed, seen: Tensor) -> Tensor:
        network: Any = self.network
        hidden: Tensor = network.text_model.model(
            inputs_embeds=self.merge(packed, seen), attention_mask=packed.mask, use_cache=False
        ).last_hidden_state
        return hidden

    @property
    def text_layers(self) -> Sequence[nn.Module]:
        network: Any = self.network
        text = network.text_model.model
        layers: Sequence[nn.Module] = text.layers
        return () if text.layerdrop > 0 else layers  # whole layers left out at random cannot be kept

    def encode_below(self, layer: int, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        network: Any = self.network
        text = network.text_model.model
        alone = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        packed = self.pack(alone, ids, mask)
        embeds = self.merge(packed, latents) * text.embed_scale
        hidden = embeds + text.embed_positions(inputs_embeds=embeds).to(embeds.device)
        return self._pass(text.layers[:layer], hidden, packed)

    def encode_above(self, layer: int, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        network: Any = self.network
        text = network.text_model.model
        packed = self.pack(mask.new_ones(len(ids), 1), ids, mask)
        hidden = self._pass(text.layers[layer:], hidden[:, : packed.ids.shape[1]], packed)
        return self.read(text.layer_norm(hidden), packed)

    def _pass(self, layers: Sequence[nn.Module], hidden: Tensor, packed: Packed) -> Tensor:
        """The library's own layers, as its `forward` calls them."""
        network: Any = self.network
        visible = network.text_model.model._prepare_decoder_attention_mask(
            packed.attention.long(), hidden.shape[:2], hidden, 0
        )
        for layer in layers:
            hidden = layer(hidden, visible, use_cache=False)
        return hidden

    def image_flops(self) -> int:
        network: Any = self.network
        vision, text = network.config.vision_config, network.config.text_config
        patches = (vision.image_size // vision.patch_size) ** 2
        seen = patches + 1
        patchify = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
        tower = vision.num_hidden_layers * _layer_flops(seen, vision.hidden_size, vision.intermediate_size)
        keys = seen + self.latents_per_frame
        d = text.embed_dim
        projector = 2 * seen * vision.hidden_size * d + 4 * keys * d * d + 4 * self.latents_per_frame * d * d
        projector += 4 * self.latents_per_frame * keys * d
        return patchify + tower + projector

    def text_flops(self, tokens: int, frames: int = 1) -> int:
        network: Any = self.network
        text = network.config.text_config
        length = self.sequence_length(tokens, frames)
        return text.layers * _layer_flops(length, text.embed_dim, text.ffn_dim)


def _layer_flops(tokens: int, width: int, ffn: int) -> int:
    """One transformer layer, multiply and add counted separately: projections, attention, feed-forward."""
    return 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * ffn
