"""A small datamodule and a tokeniser that can be read back, for the tests of the data room."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.datamodule import EpisodeDataModule
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from tests.data.builders import SPACE


def make_module(root: Path, **changes: Any) -> EpisodeDataModule:
    """A datamodule with small settings, bound to `tokenize`."""
    fields: dict[str, Any] = {
        "root": str(root),
        "action": SPACE,
        "normalizer": MinMaxNormalizer(),
        "sampler": EpisodeSampler(2),
        "split": SplitRule(train=0.5, val=0.25, test=0.25),
        "window": 3,
        "horizon": 2,
        "image_size": 8,
    }
    module = EpisodeDataModule(**{**fields, **changes})
    module.bind(tokenize)
    return module


def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
    """One token per character, padded with 1 on the right, as Kosmos-2 pads."""
    length = max(len(text) for text in texts)
    ids = torch.ones((len(texts), length), dtype=torch.int64)
    mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor([ord(c) for c in text])
        mask[row, : len(text)] = True
    return ids, mask


def detokenize(ids: Tensor, mask: Tensor) -> str:
    """The inverse of `tokenize` for one row."""
    return "".join(chr(i) for i in ids[mask].tolist())
