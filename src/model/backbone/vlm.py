"""Owns one adapter for every decoder-style vision-language model of transformers' auto classes.

In: a family of `families.py`, its checkpoint, frames and instructions. Out: states at the action queries.

    pixels ─ get_image_features ─► latents ─┐
    prompt, frames, words, queries ─ pack ─► ids ─► the library's own forward ─► last hidden state at the queries

The headless model gets token ids, and the latents as image features that are ready (`mm_encoder_outputs`), so
positions, masks and embedding scales are the library's. Only the queries are ours: a hook on the word embeddings
writes them, out of place, at their positions. It must run exactly once in a forward pass; there is no other path.
One crop per frame: the square picture itself, no tiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from src.core.errors import ProjectError
from src.model.backbone.families import FAMILIES, Family, side
from src.model.backbone.loading import at, load_network, open_checkpoint, unreachable
from src.model.backbone.sequence import Packed, SequenceBackbone


class VLMBackbone(SequenceBackbone):
    """PaliGemma, Qwen-VL, SmolVLM, InternVL, Gemma 3 or LLaVA, read at Q action queries."""

    adapter_prefix = "model."  # where the headless model sits in AutoModelForImageTextToText

    def __init__(
        self,
        family: str,
        checkpoint: str,
        prompt: str,
        image_size: int | None = None,
        num_queries: int = 1,
        query_init: str | None = None,
        dtype: str = "float32",
        quantization: str | None = None,
        gradient_checkpointing: bool = False,
        revision: str | None = None,
    ) -> None:
        """
        Args:
            family: name in `families.FAMILIES`.
            checkpoint: hub id or local folder with config, weights, tokenizer and image processor.
            prompt: template of the sequence, special tokens included; `{image}` once, then `{instruction}`.
            image_size: side of the square model input, pixels; null takes the checkpoint's own.
            num_queries: Q, action queries appended after the prompt.
            query_init: token whose embedding the queries start from; null draws them at the size of a word.
            dtype: of the VLM's weights, `float32` or `bfloat16`; the queries stay float32.
            quantization: null, `nf4` (4 bits, QLoRA) or `int8`; needs the extra `qlora`.
            gradient_checkpointing: recompute activations in the backward pass: less memory, ~30 % slower.
            revision: commit, branch or tag of a hub checkpoint; null is its newest. A run loads the one it recorded.

        Raises:
            ProjectError: no such family, a checkpoint of another one, weights missing, an image size it cannot
                read, or a prompt without its places.
        """
        from transformers import AutoModel

        if family not in FAMILIES:
            raise ProjectError(
                f"model.backbone.family: found {family!r}, expected one of {', '.join(FAMILIES)}; choose one."
            )
        kind = FAMILIES[family]
        place, config, commit = open_checkpoint(checkpoint, kind.model_types, family, revision)
        size = _image_size(kind, config, image_size, place)
        tokenizer, mean, std = _load_processing(place, commit)
        frame_open, frame_close = _frame_tokens(kind, config, tokenizer, place)
        # Headless: the language-model head is never read, nor are logits computed.
        network = load_network(AutoModel, place, commit, dtype, quantization)
        text = config.get_text_config()
        per_side = size // _latent_side(kind, config)
        super().__init__(
            network,
            tokenizer,
            prompt,
            num_queries,
            query_init,
            frame_open=frame_open,
            frame_close=frame_close,
            image_token=config.image_token_id,
            hidden_size=text.hidden_size,
            latents_per_frame=per_side**2,
            image_size=size,
            max_tokens=text.max_position_embeddings,
            image_mean=mean,
            image_std=std,
        )
        if self.image_token in self.prefix:
            raise ProjectError(
                f"model.backbone.prompt: found the image token in {prompt!r}, expected {{image}}, which stands "
                "for it; delete the token."
            )
        self.kind = kind
        self.sites = kind.sites
        self.text_path = kind.text
        self.unread_layers = {"vision": kind.unread(config)}
        # Text layers one by one: equal layers are compiled once, and what Qwen3-VL does between them, never.
        self.parts = (kind.vision, *(f"{kind.text}.layers.{i}" for i in range(text.num_hidden_layers)))
        self.quantized = quantization is not None
        self.checkpoint, self.revision = checkpoint, commit
        # Counted now: adapters and quantisation later change what the modules look like.
        self._weights = _count_weights(network, kind)
        if gradient_checkpointing:
            network.activation_checkpointing_enable()

    def _tokens(self, text: str) -> list[int]:
        # A tokenizer of the Llama kind puts a space before a text; what stands behind an image begins no text.
        return super()._tokens(self.tokenizer.convert_ids_to_tokens(self.image_token) + text)[1:]

    # ---- the two halves of the pass

    def encode_images(self, pixels: Tensor) -> Tensor:
        latents = self.kind.features(self.network, pixels.to(self.embeddings.weight.dtype))
        expected = (len(pixels), self.latents_per_frame)
        if latents.shape[:2] != expected:
            raise ProjectError(
                f"model.backbone.checkpoint: {self.checkpoint} gives image features {tuple(latents.shape)}, expected "
                f"{expected} and channels; this checkpoint is not built as its family is, choose another."
            )
        return latents

    def run(self, packed: Packed, seen: Tensor) -> Tensor:
        network: Any = self.network
        with self._queries_written(packed):
            hidden: Tensor = network(
                input_ids=packed.ids,
                attention_mask=packed.mask,
                mm_encoder_outputs={"image": self.kind.image_output(network.config, seen)},
                use_cache=False,
                **self.kind.extras(network, packed, self.image_size),
            ).last_hidden_state
        return hidden

    @contextmanager
    def _queries_written(self, packed: Packed) -> Iterator[None]:
        runs = 0

        def write(module: nn.Module, arguments: Any, words: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            queries = self.queries.to(words.dtype)
            scale = getattr(module, "embed_scale", None)  # Gemma's embeddings arrive here scaled by sqrt(D)
            if scale is not None:
                queries = queries * scale.to(words.dtype)
            return words.masked_scatter(packed.is_query[..., None], queries.expand(len(words), -1, -1))

        handle = self.embeddings.register_forward_hook(write)
        try:
            yield
        finally:
            handle.remove()
        if runs != 1:
            raise ProjectError(
                f"{type(self.network).__name__}: its word embeddings were computed {runs} times in one forward pass, "
                "expected once, so the action queries are not where they belong; use transformers 5.23."
            )

    # ---- cost

    def image_flops(self) -> int:
        network: Any = self.network
        vision = network.config.vision_config
        patches = (self.image_size // side(vision.patch_size)) ** 2
        seen = patches + self.kind.class_tokens
        if self.kind.attended is None:
            attended = vision.num_hidden_layers * seen**2
        else:
            attended = self.kind.attended(network.config, self.image_size)
        weights = self._weights
        matrices = patches * weights["patches"] + seen * weights["vision"]
        matrices += self.latents_per_frame * weights["projector"]
        return 2 * matrices + 4 * attended * vision.hidden_size

    def text_flops(self, tokens: int, frames: int = 1) -> int:
        network: Any = self.network
        text = network.config.get_text_config()
        length = self.sequence_length(tokens, frames)
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        return 2 * length * self._weights["text"] + 4 * text.num_hidden_layers * length**2 * heads * head


def _latent_side(family: Family, config: Any) -> int:
    """Side of the picture's square that becomes one latent, pixels."""
    return side(config.vision_config.patch_size) * family.merge(config)


def _image_size(family: Family, config: Any, wanted: int | None, place: str) -> int:
    unit = _latent_side(family, config)
    learned = getattr(config.vision_config, "image_size", None)  # size its position table was learned at
    own = None if learned is None else side(learned)
    size = own if wanted is None else wanted
    if size is None:
        raise ProjectError(
            f"model.backbone.image_size: found null, but {place} reads pictures of any size; choose a multiple of "
            f"{unit}, such as {8 * unit}."
        )
    fits, sizes = size > 0 and size % unit == 0, f"a multiple of {unit}"
    if family.sizes == "fixed":
        fits, sizes = size == own, f"{own} only (or null)"
    elif family.sizes == "up to" and own is not None:
        fits, sizes = fits and size <= own, f"{sizes} up to {own}"
    if not fits:
        raise ProjectError(
            f"model.backbone.image_size: found {size}, {place} reads {sizes}; choose such a size."
        )
    return size


def _load_processing(place: str, revision: str | None) -> tuple[Any, list[float], list[float]]:
    """Tokenizer, and mean and deviation of the image channels in [0, 1].

    The processor classes are not used: several need torchvision, and all of them tile or resize in their own way.
    """
    from transformers import AutoTokenizer
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **at(revision))
        settings, _ = ImageProcessingMixin.get_image_processor_dict(place, **at(revision))
    except (OSError, ValueError) as error:
        raise unreachable(place, error) from error
    missing = [key for key in ("image_mean", "image_std") if key not in settings]
    if missing:
        raise ProjectError(
            f"model.backbone.checkpoint: preprocessor_config.json of {place} has no {missing[0]}, expected the "
            "normalisation of pixels there; download the checkpoint again."
        )
    return tokenizer, list(settings["image_mean"]), list(settings["image_std"])


def _frame_tokens(family: Family, config: Any, tokenizer: Any, place: str) -> tuple[list[int], list[int]]:
    """Token ids before and behind the latents of a frame."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    text = family.frame.replace("{latents}", token or "")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids.count(config.image_token_id) != 1:
        raise ProjectError(
            f"model.backbone.checkpoint: the tokenizer of {place} reads {text!r} as {ids}, expected the config's image "
            f"token {config.image_token_id} once; tokenizer and weights do not belong together, download both again."
        )
    at = ids.index(config.image_token_id)
    return ids[:at], ids[at + 1 :]


def _count_weights(network: Any, family: Family) -> dict[str, int]:
    """Entries of the matrices by what they are multiplied with: patches, vision tokens, latents, text tokens."""
    projector = re.compile(family.projector or "$^")
    counts = {"patches": 0, "vision": 0, "projector": 0, "text": 0}
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            counts["patches"] += module.weight.numel()
            continue
        if isinstance(module, nn.Linear):
            weights = module.in_features * module.out_features  # quantised weights are stored packed
        elif isinstance(module, nn.Embedding):
            continue
        else:
            weights = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() == 2)
        if projector.fullmatch(path) or not path.startswith((f"{family.vision}.", f"{family.text}.")):
            counts["projector"] += weights
        else:
            counts["text" if path.startswith(f"{family.text}.") else "vision"] += weights
    return counts
