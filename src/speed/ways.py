"""Owns the ways that are compared: the same windows through the same policy, computed with or without doing work twice.

In: the name of a way and the run that is measured. Out: overrides of that run, what becomes of its batches, hooks.

    sliding       RoboVLMs' way: every frame of every window encoded anew, and the language model's logits computed at
                  all positions, though no loss reads them (github.com/Robot-VLAs/RoboVLMs)
    encode_once   this project: each distinct frame once, no logits
    cached        … and what lies below the lowest trained weight read from the feature cache, once it is filled
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import ProjectError
from src.data.batch import PADDING, Batch
from src.data.datamodule import EpisodeDataModule
from src.model.policy import Policy


@dataclass(frozen=True)
class Way:
    """One way to do a training step.

    Attributes:
        about: one line for people.
        against: the way it is measured against, where that one takes part; else the first way of the benchmark.
        overrides: of conf/train.yaml.
        unshared: every window gets frames of its own.
        logits: the language model's logits are computed at every position, and thrown away.
        features: the feature cache is on.
    """

    about: str
    against: str = "sliding"
    overrides: tuple[str, ...] = ()
    unshared: bool = False
    logits: bool = False
    features: bool = False


WAYS = {
    "sliding": Way("each window's frames anew, unread logits (RoboVLMs' way)", unshared=True, logits=True),
    "sliding_no_logits": Way("each window's frames anew, no logits", unshared=True),
    "encode_once": Way("each distinct frame once"),
    "cached": Way("each distinct frame once, frozen part from the cache", features=True),
    "shuffled": Way("windows at random (data/sampler=windows)", "encode_once", ("data/sampler=windows",)),
    "bf16": Way("bfloat16 arithmetic", "encode_once", ("trainer.precision=bf16-mixed",)),
    "compile": Way("torch.compile", "encode_once", ("model.compile=true",)),
    "checkpointing": Way(
        "activations computed again in the backward pass",
        "encode_once",
        ("model.backbone.gradient_checkpointing=true",),
    ),
    "no_checkpointing": Way(
        "activations kept for the backward pass",
        "encode_once",
        ("model.backbone.gradient_checkpointing=false",),
    ),
    "head_only": Way("only the head trains", "encode_once", ("model/lora=head_only",)),
    "head_only_cached": Way(
        "only the head trains, states from the cache", "head_only", ("model/lora=head_only",), features=True
    ),
}


def chosen(names: list[str]) -> dict[str, Way]:
    """The ways of these names, in this order.

    Raises:
        ProjectError: no name, one that is none, or one twice.
    """
    unknown = [name for name in names if name not in WAYS]
    if unknown or not names or len(set(names)) < len(names):
        raise ProjectError(
            f"benchmark.ways: found {names}, expected each of some of {', '.join(WAYS)} once; correct it."
        )
    return {name: WAYS[name] for name in names}


def references(names: list[str]) -> dict[str, str]:
    """Way -> the one it is measured against among those that take part."""
    return {name: WAYS[name].against if WAYS[name].against in names else names[0] for name in names}


def unshared(batch: Batch) -> Batch:
    """The same samples with frames of their own: S * W frames, none used twice.

    Where a window is padded, RoboVLMs puts the first frame of the episode in; so it is encoded here too, in vain, and
    stays out of what the head reads. So loss and gradients are those of the shared batch.
    """
    samples, width = batch.windows.shape
    first = batch.window_mask.int().argmax(dim=1)  # the oldest real frame
    filler = batch.windows.gather(1, first[:, None])
    rows = torch.where(batch.window_mask, batch.windows, filler).flatten()
    own = torch.arange(samples * width, device=rows.device).view(samples, width)
    return replace(
        batch,
        frames=batch.frames[rows],
        episode=batch.episode[rows],
        windows=torch.where(batch.window_mask, own, PADDING),
        origin=None if batch.origin is None else batch.origin[rows],
    )


@contextmanager
def applied(way: Way, policy: Policy, datamodule: EpisodeDataModule) -> Iterator[None]:
    """Within the block, fits of `policy` on `datamodule` go this way; the feature cache is the caller's."""
    hook = _compute_logits(policy) if way.logits else None
    if way.unshared:
        finish = datamodule.on_after_batch_transfer

        def on_after_batch_transfer(batch: Batch, dataloader_idx: int) -> Batch:
            return unshared(finish(batch, dataloader_idx))

        datamodule.__dict__["on_after_batch_transfer"] = on_after_batch_transfer
    try:
        yield
    finally:
        datamodule.__dict__.pop("on_after_batch_transfer", None)
        if hook is not None:
            hook()


def _compute_logits(policy: Policy) -> Callable[[], None]:
    """Multiply what leaves the text model's last norm with the word embeddings, the output layer they are tied to.

    Returns what undoes it.

    Raises:
        ProjectError: the backbone has no words.
    """
    norm = final_norm(policy)
    table: nn.Embedding = policy.backbone.embeddings  # type: ignore[assignment]

    def logits(_: nn.Module, __: Any, hidden: Tensor) -> None:
        nn.functional.linear(hidden.to(table.weight.dtype), table.weight)

    return norm.register_forward_hook(logits).remove


def final_norm(policy: Policy) -> nn.Module:
    """The last norm of the text model: its output is what an output layer would read.

    Raises:
        ProjectError: the backbone has none that is known here.
    """
    text = policy.backbone.parts[-1].split(".layers.")[0]
    for path in (f"{text}.layer_norm", f"{text}.norm"):
        try:
            return policy.backbone.network.get_submodule(path)
        except AttributeError:
            continue
    raise ProjectError(
        f"benchmark.ways: found sliding, but {type(policy.backbone).__name__} computes no words whose logits could be "
        "thrown away; use sliding_no_logits."
    )
