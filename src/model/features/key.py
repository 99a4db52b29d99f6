"""Owns what a frozen part's results depend on: two runs may share them exactly where all of this is equal.

In: a policy with its stage, the data module, the trainer. Out: plain facts, long ones as SHA-256, and the name of the
folder they belong into. What belongs to it and why:

    weights, structure   all that `lower` reads, by value; not where they came from
    code, libraries      another way of computing gives other last bits or other values; filling anew costs one epoch
    precision, device    autocast gives other types, a GPU other last bits; cheap to keep apart, so nothing is assumed
    data                 the recordings by content, and how frames are made of them
    words                only where the instruction takes part: prompt, tokens, and who is told what
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import transformers
from torch import Tensor

if TYPE_CHECKING:
    from src.model.policy import Policy

_SOURCE = Path(__file__).resolve().parents[2]
_CODE = (
    "model/backbone/*.py", "model/features/stages.py", "model/history.py", "model/senses.py", "data/frames.py",
    "data/frame_cache.py", "data/jpeg.py", "data/planes.py", "data/layouts.py", "data/lab_hdf5.py",
    "data/own_hdf5.py",
)  # fmt: skip
"""Files that make frames of recordings, or features of frames."""


class Told(Protocol):
    """An episode, as far as it matters here."""

    @property
    def id(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def instructions(self) -> tuple[str, ...]: ...


class Data(Protocol):
    """A data module that was set up, as far as it matters here."""

    image_size: int
    lab: Any
    augmentation: Any
    paraphrase: str

    def manifest(self) -> dict[str, Any]: ...
    def episodes(self, split: str) -> Sequence[Any]: ...
    def spare_frames(self, kept: Callable[[Tensor], bool] | None, splits: Sequence[str] = ...) -> None: ...


def told(data: Data) -> list[Told]:
    """The episodes of all splits that the run uses."""
    return [episode for split in data.manifest()["splits"] for episode in data.episodes(split)]


def describe(policy: Policy, data: Data, precision: str, device: str) -> dict[str, Any]:
    """What the results of the frozen part depend on.

    Args:
        precision: of the trainer, such as `bf16-mixed`.
        device: `cpu` or `cuda`.
    """
    backbone, stage = policy.backbone, policy.stage
    network: Any = backbone.network
    config = getattr(network, "config", None)
    frozen = {str(p.dtype) for p in network.parameters() if not p.requires_grad}
    facts = {
        "kept": stage.name,
        "layer": stage.layer,
        "weights": weights_hash(stage.weights(backbone)),
        "structure": {
            "backbone": type(backbone).__name__,
            "config": None if config is None else _hash([_sizes(config)]),
            "attention": getattr(config, "_attn_implementation", None),
            "dtypes": sorted(frozen),
            "quantized": backbone.quantized,
            "image_size": backbone.image_size,
            "blind": not policy.senses.image,
        },
        "code": _code(),
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "precision": {"trainer": precision, "matmul": torch.get_float32_matmul_precision(), "device": device},
        "data": {
            "hash": data.manifest()["data_hash"],
            "image_size": data.image_size,
            "read_as": repr(data.lab),
        },
    }
    return facts | ({"words": _words(policy, data)} if stage.heard else {})


def folder_name(facts: Mapping[str, Any]) -> str:
    """Of these facts: `latents-0123456789abcdef`."""
    return f"{facts['kept']}-{_hash([json.dumps(facts, sort_keys=True)])[:16]}"


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and every value; 1.5 GB/s with the CPU's own instructions."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sizes(config: Any) -> str:
    """A model's config as text, without the place it was loaded from."""
    content = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    return json.dumps(content, sort_keys=True, default=str)


def _words(policy: Policy, data: Data) -> dict[str, Any]:
    episodes = told(data)
    texts = sorted({text for episode in episodes for text in episode.instructions})
    ids, mask = policy.tokenize(texts)
    backbone: Any = policy.backbone
    return {
        "prompt": backbone.prompt,
        "around": _hash([repr((getattr(backbone, "prefix", None), getattr(backbone, "frame_tokens", None)))]),
        "tokens": _hash([repr(ids.tolist()), repr(mask.tolist())]),
        "longest": ids.shape[1],
        "queries": backbone.num_queries,
        "told": _hash(sorted(repr((episode.id, episode.instructions)) for episode in episodes)),
        "wordings": max(len(episode.instructions) for episode in episodes),
    }


@cache
def _code() -> str:
    files = sorted(path for pattern in _CODE for path in _SOURCE.glob(pattern))
    return _hash(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files)


def _hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()
