"""Kosmos-2 behind the backbone door, on unpatched transformers.

Token layout of one frame (see docs/method.md):

    <s> <image> [P image latents] </image> prompt words … [Q action queries] <pad> …

The sequence is merged out of place into `inputs_embeds` of the text transformer. Two facts of the library
decide the layout: with `inputs_embeds` its positions are sequential and blind to padding, so padding stands
last; and it multiplies embeddings by sqrt(D) itself, so everything merged here is unscaled.
There is one path and no fallback: a state is read at the explicit index of its query.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import ProjectError
from src.model.backbone.base import Backbone

PROMPT = "<grounding> An image of a robot {instruction}"
"""Prompt of RoboVLMs for Kosmos-2 (github.com/Robot-VLAs/RoboVLMs)."""

REPOSITORY = Path(__file__).resolve().parents[3]

SITES = {
    "vision": r"vision_model\.model\.encoder\.layers\.(\d+)\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])",
    "projector": r"image_to_text_projection\.(?:dense|x_attn\.(?:q|k|v|out)_proj)",
    "text_attention": r"text_model\.model\.layers\.(\d+)\.self_attn\.(?:q|k|v|out)_proj",
    "text_mlp": r"text_model\.model\.layers\.(\d+)\.ffn\.fc[12]",
}


class Kosmos2Backbone(Backbone):
    """`microsoft/kosmos-2-patch14-224`, or any folder of the same layout, read at Q action queries."""

    vlm: Any  # transformers builds its modules' attributes at run time; a static type would be wrong
    mean: Tensor
    std: Tensor
    frame_tags: Tensor

    def __init__(
        self,
        checkpoint: str,
        num_queries: int = 1,
        prompt: str = PROMPT,
        query_init: str | None = None,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        """
        Args:
            checkpoint: hub id or local folder with config, weights, tokenizer and image processor.
            num_queries: Q, action queries appended after the prompt.
            prompt: must contain `{instruction}`.
            query_init: token whose embedding the queries start from; null draws them at the size of a word.
            dtype: of the VLM's weights, `float32` or `bfloat16`; the queries stay float32.
            gradient_checkpointing: recompute activations in the backward pass: less memory, ~30 % slower.

        Raises:
            ProjectError: weights missing, the folder is no Kosmos-2, or the prompt has no `{instruction}`.
        """
        super().__init__()
        if "{instruction}" not in prompt:
            raise ProjectError(
                f"model.backbone.prompt: found {prompt!r} without '{{instruction}}', so no instruction would reach "
                "the model; add '{instruction}' where it belongs."
            )
        if num_queries < 1:
            raise ProjectError(
                f"model.backbone.num_queries: found {num_queries}, expected at least 1; set it to 1."
            )
        self.prompt = prompt
        self.vlm, processor = load_kosmos2(checkpoint, dtype)
        config = self.vlm.config
        self.tokenizer = processor.tokenizer
        self.hidden_size = config.text_config.embed_dim
        self.num_queries = num_queries
        self.latents_per_frame = config.latent_query_num
        self.image_size = config.vision_config.image_size
        self.sites = SITES
        image_processor = processor.image_processor
        self.register_buffer(
            "mean", torch.tensor(image_processor.image_mean).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(image_processor.image_std).view(1, 3, 1, 1), persistent=False
        )
        ids = self.tokenizer.convert_tokens_to_ids(["<s>", "<image>", "</image>"])
        self.register_buffer("frame_tags", torch.tensor(ids), persistent=False)
        self.queries = nn.Parameter(self._initial_queries(query_init))
        self.max_prompt = (
            config.text_config.max_position_embeddings - self.latents_per_frame - 3 - num_queries
        )
        if gradient_checkpointing:
            self.vlm.activation_checkpointing_enable()

    @property
    def embeddings(self) -> nn.Embedding:
        table: nn.Embedding = self.vlm.text_model.model.embed_tokens
        return table

    def _initial_queries(self, token: str | None) -> Tensor:
        weight = self.embeddings.weight.detach().float()
        # Word embeddings have this size; the text model scales queries and words alike by sqrt(D).
        queries = torch.randn(self.num_queries, self.hidden_size) * weight.std()
        if token is None:
            return queries
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index == self.tokenizer.unk_token_id:
            raise ProjectError(
                f"model.backbone.query_init: {token!r} is no token of this checkpoint; choose one, such as <object>, "
                "or null."
            )
        # Several queries must not start equal, or they would stay equal.
        return weight[index] + (0.1 if self.num_queries > 1 else 0.0) * queries

    def tokenize(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        rows = [self._prompt_ids(text) for text in instructions]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return ids, mask

    def _prompt_ids(self, instruction: str) -> list[int]:
        if not instruction.strip():
            raise ProjectError(
                "instruction: found an empty text, expected words; a policy without an instruction is a `deaf` arm "
                "and is asked for by name, not by an empty string."
            )
        text = self.prompt.format(instruction=instruction.strip())
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_prompt:
            raise ProjectError(
                f"instruction {instruction[:40]!r}…: found {len(ids)} tokens, the text window holds {self.max_prompt} "
                "beside the image and the action queries; shorten the instruction."
            )
        return ids

    def normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def encode_images(self, pixels: Tensor) -> Tensor:
        features = self.vlm.get_image_features(pixels.to(self.embeddings.weight.dtype))
        return features.pooler_output

    def encode(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        frames, latent_count, width = latents.shape
        queries = self.num_queries
        lengths = mask.sum(dim=1)
        tags = self.embeddings(self.frame_tags).to(latents.dtype)
        words = self.embeddings(ids).to(latents.dtype)
        # Behind the last word of each row come the queries, then padding: `order` picks them from [words, queries].
        tail = torch.cat([words, self.queries.to(latents.dtype).expand(frames, -1, -1)], dim=1)
        position = torch.arange(tail.shape[1], device=ids.device).expand(frames, -1)
        after = position - lengths[:, None]
        is_query = (after >= 0) & (after < queries)
        order = torch.where(is_query, ids.shape[1] + after, torch.where(after < 0, position, 0))
        tail = tail.gather(1, order[..., None].expand(-1, -1, width))
        opening = tags[:2].expand(frames, -1, -1)
        closing = tags[2:].expand(frames, -1, -1)
        embeds = torch.cat([opening, latents, closing, tail], dim=1)
        head = torch.ones(frames, latent_count + 3, dtype=torch.bool, device=ids.device)
        attention = torch.cat([head, after < queries], dim=1)
        hidden = self.vlm.text_model.model(
            inputs_embeds=embeds, attention_mask=attention.long(), use_cache=False
        ).last_hidden_state
        at = latent_count + 3 + lengths[:, None] + torch.arange(queries, device=ids.device)
        return hidden.gather(1, at[..., None].expand(-1, -1, width)).float()

    def flops(self, tokens: int) -> int:
        config = self.vlm.config
        vision, text = config.vision_config, config.text_config
        patches = (vision.image_size // vision.patch_size) ** 2
        seen = patches + 1
        patchify = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
        tower = vision.num_hidden_layers * _layer_flops(seen, vision.hidden_size, vision.intermediate_size)
        keys = seen + self.latents_per_frame
        d = text.embed_dim
        projector = 2 * seen * vision.hidden_size * d + 4 * keys * d * d + 4 * self.latents_per_frame * d * d
        projector += 4 * self.latents_per_frame * keys * d
        length = self.latents_per_frame + 3 + tokens + self.num_queries
        return patchify + tower + projector + text.layers * _layer_flops(length, d, text.ffn_dim)


def _layer_flops(tokens: int, width: int, ffn: int) -> int:
    """One transformer layer, multiply and add counted separately: projections, attention, feed-forward."""
    return 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * ffn


def load_kosmos2(checkpoint: str, dtype: str) -> tuple[Any, Any]:
    """The headless `Kosmos2Model` and its processor; the 65k-way LM head is not read (FACTS: ~10 % of a pass).

    Raises:
        ProjectError: no such folder, no weights and no network, or not a Kosmos-2 checkpoint.
    """
    from transformers import AutoConfig, AutoProcessor, Kosmos2Model

    if dtype not in ("float32", "bfloat16"):
        raise ProjectError(
            f"model.backbone.dtype: found {dtype!r}, expected float32 or bfloat16; choose one of them."
        )
    # A run remembers `assets/…` as written in the config; it must load from any working directory.
    shipped = REPOSITORY / checkpoint
    folder = shipped if shipped.is_dir() else Path(checkpoint).expanduser()
    written_as_path = checkpoint.startswith((".", "/", "~", "assets/")) or checkpoint.count("/") > 1
    looks_local = folder.exists() or written_as_path
    checkpoint = str(folder) if looks_local else checkpoint
    if looks_local and not (folder / "config.json").is_file():
        raise ProjectError(
            f"model.backbone.checkpoint: {checkpoint} holds no config.json, expected a Kosmos-2 folder as written by "
            "save_pretrained; point it to one, or use the hub id microsoft/kosmos-2-patch14-224."
        )
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "kosmos-2":
            raise ProjectError(
                f"model.backbone.checkpoint: {checkpoint} is a {config.model_type!r} model, expected 'kosmos-2'; "
                "choose the backbone of that family instead."
            )
        processor = AutoProcessor.from_pretrained(checkpoint)
        loaded: Any = Kosmos2Model.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except OSError as error:
        raise ProjectError(
            f"model.backbone.checkpoint: {checkpoint} is neither a local folder with weights nor reachable on the hub "
            f"({_first_line(error)}); run `hf download {checkpoint}` on a machine with network and set "
            "model.backbone.checkpoint=<folder>, or use model/backbone=kosmos2_tiny."
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ProjectError(
            f"model.backbone.checkpoint: {checkpoint} lacks {len(missing)} weights (first: {missing[0]}), expected a "
            "complete Kosmos-2; download it again."
        )
    return model, processor


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
