"""Owns what differs between decoder-style vision-language models, a dozen lines for each.

In: a family's name. Out: a `Family`: how a frame stands in the text, where its parts are, how pixels become latents
and latents become what the library's own `forward` takes as ready image features. Everything else is in `vlm.py`.

A new family of this kind is one entry of `FAMILIES` and one YAML in `conf/model/backbone/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from src.model.backbone.sequence import Packed

Sizes = Literal["fixed", "up to", "any"]
"""Image sizes a vision tower accepts: one; multiples of a latent's side up to the checkpoint's; or any multiple."""


def _none_unread(config: Any) -> int:
    return 0


@dataclass(frozen=True)
class Family:
    """One kind of vision-language model, as it is built in transformers 5.23.

    Attributes:
        model_types: `model_type`s of its checkpoints.
        frame: text of one frame as the family's own processor writes it, the latents at `{latents}`.
        vision, text: module paths of the vision tower and of the text transformer below the headless model.
        vision_modules: pattern of the adaptable matrices of the vision tower; group 1 is the layer.
        projector: pattern of the projector's matrices; None where it has no module that peft could wrap.
        sizes: see `Sizes`.
        merge: config -> patches along one side of a latent.
        class_tokens: tokens of the vision tower beside the patches.
        features: network, `(N, 3, S, S)` -> latents `(N, P, C)`.
        image_output: config, `(M, P, C)` -> the object `get_image_features` would have returned.
        extras: network, packed sequence, S -> the family's further arguments of `forward`.
        unread: config -> last layers of the vision tower whose output is not used.
        attended: config, S -> sum over vision layers and windows of (tokens in the window)²; None: all see all.
    """

    model_types: tuple[str, ...]
    frame: str
    vision: str
    text: str
    vision_modules: str
    projector: str | None
    sizes: Sizes
    merge: Callable[[Any], int]
    class_tokens: int
    features: Callable[[Any, Tensor], Tensor]
    image_output: Callable[[Any, Tensor], Any]
    extras: Callable[[Any, Packed, int], dict[str, Any]]
    attended: Callable[[Any, int], int] | None = None
    unread: Callable[[Any], int] = _none_unread

    @property
    def sites(self) -> dict[str, str]:
        """LoRA site -> pattern over full module paths below the headless model."""
        text = self.text
        sites = {
            "vision": rf"{self.vision}\.{self.vision_modules}",
            "projector": self.projector,
            "text_attention": rf"{text}\.layers\.(\d+)\.self_attn\.[qkvo]_proj",
            "text_mlp": rf"{text}\.layers\.(\d+)\.mlp\.(?:gate|up|down)_proj",
        }
        return {name: pattern for name, pattern in sites.items() if pattern is not None}


CLIP_LIKE = r"encoder\.layers\.(\d+)\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"


def side(value: Any) -> int:
    """A size in pixels that configs write as a number or as a pair."""
    return int(value[0] if isinstance(value, (list, tuple)) else value)


# ---- what most families share


def _one(config: Any) -> int:
    return 1


def _features(network: Any, pixels: Tensor) -> Tensor:
    pooled = network.get_image_features(pixels).pooler_output
    return torch.stack(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled


def _as_tensor(config: Any, latents: Tensor) -> Any:
    return BaseModelOutputWithPooling(pooler_output=latents)


def _as_list(config: Any, latents: Tensor) -> Any:
    return BaseModelOutputWithPooling(pooler_output=tuple(latents))  # type: ignore[arg-type]


def _nothing(network: Any, packed: Packed, size: int) -> dict[str, Any]:
    return {}


# ---- PaliGemma, Gemma 3: some tokens see what comes after them


def _paligemma_extras(network: Any, packed: Packed, size: int) -> dict[str, Any]:
    # Image and words are PaliGemma's prefix (0): all of it sees all of it. Queries stand where its answer does (1).
    prefix = packed.attention & ~packed.is_query
    return {"token_type_ids": (~prefix).long()}


def _gemma3_extras(network: Any, packed: Packed, size: int) -> dict[str, Any]:
    return {
        "token_type_ids": packed.is_latent.long()
    }  # latents of one frame see each other; all else is causal


def _gemma3_merge(config: Any) -> int:
    vision = config.vision_config
    per_side: int = side(vision.image_size) // side(vision.patch_size)
    return per_side // int(config.mm_tokens_per_image**0.5)


# ---- LLaVA


def _llava_unread(config: Any) -> int:
    layer = config.vision_feature_layer  # -2: the output of the last layer but one; a list takes several
    highest = max(
        value if value < 0 else value - config.vision_config.num_hidden_layers - 1 for value in _list(layer)
    )
    return -1 - highest


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [int(value)]


# ---- SmolVLM, Idefics 3


def _smolvlm_features(network: Any, pixels: Tensor) -> Tensor:
    # (batch, images, …): the library would leave out images of zeros, which no normalised uint8 frame is.
    return _features(network, pixels[:, None])


# ---- Qwen-VL: patches in rows, 3-D positions


def _qwen_grid(network: Any, count: int, size: int, device: torch.device) -> Tensor:
    per_side = size // side(network.config.vision_config.patch_size)
    return torch.tensor([[1, per_side, per_side]], device=device).expand(count, -1)


def qwen_patches(config: Any, pixels: Tensor) -> Tensor:
    """`(N, 3, S, S)` -> `(N * patches, 3 * t * p * p)`, in the order of `Qwen2VLImageProcessor`.

    Patches that become one latent stand together; a still is repeated t times along time.
    """
    vision = config.vision_config
    patch, merge = side(vision.patch_size), vision.spatial_merge_size
    count, channels, height, _ = pixels.shape
    cells = height // patch // merge
    rows = pixels.view(count, channels, cells, merge, patch, cells, merge, patch)
    rows = rows.permute(0, 2, 5, 3, 6, 1, 4, 7)  # image, cell row, cell column, patch row, patch column, …
    rows = rows.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, vision.temporal_patch_size, -1, -1)
    return rows.reshape(count * (cells * merge) ** 2, -1)


def _qwen_output(network: Any, pixels: Tensor) -> Any:
    grid = _qwen_grid(network, len(pixels), pixels.shape[-1], pixels.device)
    return network.get_image_features(qwen_patches(network.config, pixels), grid)


def _qwen_features(network: Any, pixels: Tensor) -> Tensor:
    return torch.stack(list(_qwen_output(network, pixels).pooler_output))


def _qwen_extras(network: Any, packed: Packed, size: int) -> dict[str, Any]:
    # The library counts M-RoPE positions row by row in Python; on the CPU this needs no wait for each row.
    kinds = packed.is_latent.long().cpu()
    frames = int(kinds.sum()) // (size // _qwen_side(network.config)) ** 2
    positions, _ = network.get_rope_index(
        packed.ids.cpu(),
        mm_token_type_ids=kinds,
        image_grid_thw=_qwen_grid(network, frames, size, torch.device("cpu")),
        attention_mask=packed.attention.long().cpu(),
    )
    return {"position_ids": positions.to(packed.ids.device)}


def _qwen_merge(config: Any) -> int:
    return int(config.vision_config.spatial_merge_size)


def _qwen_side(config: Any) -> int:
    return side(config.vision_config.patch_size) * _qwen_merge(config)


def _qwen2_5_attended(config: Any, size: int) -> int:
    vision = config.vision_config
    cells, window = size // _qwen_side(config), vision.window_size // _qwen_side(config)
    lengths = [min(window, cells - first) for first in range(0, cells, window)]
    unit = vision.spatial_merge_size**2
    windowed = sum((rows * columns * unit) ** 2 for rows in lengths for columns in lengths)
    full = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
    return full * (cells**2 * unit) ** 2 + (vision.depth - full) * windowed


def _qwen3_features(network: Any, pixels: Tensor) -> Tensor:
    # Deepstack: features of K earlier vision layers are added in the first K text layers; they travel as channels.
    output = _qwen_output(network, pixels)
    levels = [output.pooler_output, *output.deepstack_features]
    return torch.cat([torch.stack(list(level)) for level in levels], dim=-1)


def _qwen3_image_output(config: Any, latents: Tensor) -> Any:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    first, *deeper = latents.split(config.text_config.hidden_size, dim=-1)
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=tuple(first),  # type: ignore[arg-type]
        deepstack_features=[tuple(level) for level in deeper],  # type: ignore[misc]
    )


FAMILIES = {
    "paligemma": Family(
        model_types=("paligemma",),
        frame="{latents}",
        vision="vision_tower",
        text="language_model",
        vision_modules=CLIP_LIKE,
        projector=r"multi_modal_projector\.linear",
        sizes="fixed",
        merge=_one,
        class_tokens=0,
        features=_features,
        image_output=_as_tensor,
        extras=_paligemma_extras,
    ),
    "gemma3": Family(
        model_types=("gemma3",),
        frame="\n\n<start_of_image>{latents}<end_of_image>\n\n",
        vision="vision_tower",
        text="language_model",
        vision_modules=CLIP_LIKE,
        projector=None,  # a bare matrix of the projector module, which peft cannot wrap as a layer
        sizes="fixed",
        merge=_gemma3_merge,
        class_tokens=0,
        features=_features,
        image_output=_as_tensor,
        extras=_gemma3_extras,
    ),
    "llava": Family(
        model_types=("llava",),
        frame="{latents}",
        vision="vision_tower",
        text="language_model",
        vision_modules=CLIP_LIKE,
        projector=r"multi_modal_projector\.linear_[12]",
        sizes="fixed",
        merge=_one,
        class_tokens=1,
        features=_features,
        image_output=_as_list,
        extras=_nothing,
        unread=_llava_unread,
    ),
    "internvl": Family(
        model_types=("internvl",),
        frame="<img>{latents}</img>",
        vision="vision_tower",
        text="language_model",
        vision_modules=r"encoder\.layer\.(\d+)\.(?:attention\.(?:[qkv]_proj|projection_layer)|mlp\.fc[12])",
        projector=r"multi_modal_projector\.linear_[12]",
        sizes="any",  # position embeddings are interpolated
        merge=lambda config: round(1 / config.downsample_ratio),
        class_tokens=1,
        features=_features,
        image_output=_as_tensor,
        extras=_nothing,
    ),
    "smolvlm": Family(
        model_types=("smolvlm", "idefics3"),
        frame="<fake_token_around_image><global-img>{latents}<fake_token_around_image>",
        vision="vision_model",
        text="text_model",
        vision_modules=CLIP_LIKE,
        projector=r"connector\.modality_projection\.proj",
        sizes="up to",  # a smaller grid is spread over the learned one
        merge=lambda config: int(config.scale_factor),
        class_tokens=0,
        features=_smolvlm_features,
        image_output=_as_tensor,
        extras=_nothing,
    ),
    "qwen2_5_vl": Family(
        model_types=("qwen2_5_vl",),
        frame="<|vision_start|>{latents}<|vision_end|>",
        vision="visual",
        text="language_model",
        vision_modules=r"blocks\.(\d+)\.(?:attn\.(?:qkv|proj)|mlp\.(?:gate|up|down)_proj)",
        projector=r"visual\.merger\.mlp\.[02]",
        sizes="any",
        merge=_qwen_merge,
        class_tokens=0,
        features=_qwen_features,
        image_output=_as_list,
        extras=_qwen_extras,
        attended=_qwen2_5_attended,
    ),
    "qwen3_vl": Family(
        model_types=("qwen3_vl",),
        frame="<|vision_start|>{latents}<|vision_end|>",
        vision="visual",
        text="language_model",
        vision_modules=r"blocks\.(\d+)\.(?:attn\.(?:qkv|proj)|mlp\.linear_fc[12])",
        projector=r"visual\.(?:merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
        sizes="any",
        merge=_qwen_merge,
        class_tokens=0,
        features=_qwen3_features,
        image_output=_qwen3_image_output,
        extras=_qwen_extras,
    ),
}
"""Family name, as in `model.backbone.family` -> what is particular about it."""
