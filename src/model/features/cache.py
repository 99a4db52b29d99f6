"""Owns the use of kept features in a training run: whether there are any, where they lie, and what it tells about them.

In: config node `features`, the policy, the data module, the trainer. Out: `Policy.features` while the training runs:
each frame of the data set goes through the frozen part of the policy once, in this run or an earlier one with the same
frozen part. Where the features of a whole batch are known, its frames are not even read. Evaluation and a robot have no
cache; they take the same way (`Policy.lower`, `Policy.upper`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from src.core.errors import ProjectError
from src.model.features.key import Data, describe, folder_name, told
from src.model.features.store import FeatureStore

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from src.model.policy import Policy


class FeatureCache:
    """Where features are kept, and how many."""

    def __init__(self, folder: str, limit_gb: float) -> None:
        """
        Args:
            folder: one store below it for each frozen part and data set; shared by all runs.
            limit_gb: what all stores may take on disk together, 10^9 bytes.

        Raises:
            ProjectError: a limit of 0 or below.
        """
        if limit_gb <= 0:
            raise ProjectError(
                f"features.limit_gb: found {limit_gb}, expected more than 0; features=null keeps nothing."
            )
        self.folder, self.limit_gb = Path(folder), limit_gb

    @contextmanager
    def attached(self, policy: Policy, data: Data, trainer: Trainer) -> Iterator[dict[str, Any]]:
        """While the block runs, `policy` keeps what its frozen part gives; a line on the screen says what, or why not.

        Args:
            policy: with the weights that the training starts from.
            data: set up, and bound to the policy's tokeniser.
            trainer: the one that will train it.

        Yields:
            Facts for the run record: what is kept, where, and how much of it was there.
        """
        kept, line, facts = self._prepare(policy, data, trainer)
        if trainer.is_global_zero:
            print(f"features {line}")
        policy.features = kept
        if kept is not None:
            # Asked at each batch: while the policy is judged (Glance) it has no cache and needs the frames.
            splits = ("train", "val") if kept.in_training else ("val",)
            data.spare_frames(lambda origin: policy.features is kept and kept.holds(origin), splits)
        try:
            yield facts
        finally:
            policy.features = None
            data.spare_frames(None)
            if kept is not None:
                kept.store.close()

    def _prepare(
        self, policy: Policy, data: Data, trainer: Trainer
    ) -> tuple[KeptFeatures | None, str, dict[str, Any]]:
        stage = policy.stage
        if not stage.frozen:
            return _off(f"nothing is kept: {stage.why}")
        if isinstance(trainer.strategy, ModelParallelStrategy):
            return _off(
                "nothing is kept: trainer=fsdp divides the frozen weights; trainer=ddp shares a cache"
            )
        device = trainer.strategy.root_device
        precision = trainer.precision_plugin
        facts = describe(policy, data, str(precision.precision), device.type)
        wordings = facts["words"]["wordings"] if stage.heard else 1
        with precision.forward_context():
            sample = _sample(policy.to(device), data, device)
        frames = sum(part["frames_present"] for part in data.manifest()["splits"].values())
        used = sum(one.length * (len(one.instructions) if stage.heard else 1) for one in told(data))
        place = self.folder / folder_name(facts)
        row_bytes = sample.numel() * sample.element_size()
        problem = self._no_room(place, used * row_bytes)
        if problem is not None:
            return _off(f"nothing is kept: {stage.name} of {used:,} frames (x wordings) would take {problem}")
        store = FeatureStore(place, facts, frames * wordings, tuple(sample.shape[1:]), sample.dtype)
        augmented = bool(data.augmentation.active)
        known = store.known
        line = (
            f"{stage.name}: {used:,} {'frames x wordings' if wordings > 1 else 'frames'} of {row_bytes / 1e3:,.1f} kB, "
            f"{known:,} of them known, in {place} ({stage.why})"
        )
        if wordings > 1 and data.paraphrase == "random" and known < used and not augmented:
            line += "; data.paraphrase=random shows one wording an epoch, so it takes several epochs to know them all"
        if augmented:
            line += (
                "; off in training, for data.augmentation shows other frames in every epoch: validation only"
            )
        told_facts = {
            "kept": stage.name,
            "folder": str(place),
            "rows": used,
            "row_bytes": row_bytes,
            "known_at_start": known,
            "in_training": not augmented,
        }
        return KeptFeatures(store, wordings, not augmented), line, told_facts

    def _no_room(self, place: Path, needed: int) -> str | None:
        """Why `needed` bytes cannot be kept in `place`; None where they can."""
        others = (
            [one for one in self.folder.glob("*/") if one.name != place.name] if self.folder.is_dir() else []
        )
        taken, own = sum(map(_on_disk, others)), _on_disk(place)
        if taken + needed > self.limit_gb * 1e9:
            return (
                f"{needed / 1e9:.1f} GB beside {taken / 1e9:.1f} GB of other features in {self.folder}, and "
                f"features.limit_gb is {self.limit_gb:g}; delete old folders there, or raise it"
            )
        exists = next(
            one for one in (self.folder.absolute(), *self.folder.absolute().parents) if one.exists()
        )
        free = shutil.disk_usage(exists).free
        if needed - own > free:
            return f"{needed / 1e9:.1f} GB and {exists} has {free / 1e9:.1f} GB left; choose another features.folder"
        return None


class KeptFeatures:
    """A store in use: batches in, kept features out."""

    def __init__(self, store: FeatureStore, wordings: int, in_training: bool) -> None:
        """
        Args:
            store: row `frame * wordings + wording`, or `frame` where words play no part.
            wordings: most wordings of an episode; 1 where they play no part.
            in_training: false where training batches are augmented, so that no frame comes twice.
        """
        self.store, self.wordings, self.in_training = store, wordings, in_training

    def holds(self, origin: Tensor) -> bool:
        """Whether `get` needs to compute none of `origin (N, 2)`, so that nobody will look at these frames."""
        return self.store.holds(self._rows(origin))

    def get(self, origin: Tensor, compute: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
        """Features `(N, …)` on `device`; those that are not there yet are computed and kept.

        Args:
            origin: `(N, 2)` int64, `Batch.origin`.
            compute: numbers within the batch `(n,)` int64 on `device` -> their features `(n, …)`.
        """
        rows = self._rows(origin)
        values, known = self.store.read(rows)
        missing = torch.from_numpy(~known).nonzero()[:, 0]
        if not len(missing):
            return _to(values, device)
        fresh = compute(missing.to(device))
        self.store.write(rows[~known], _padded(fresh, self.store.shape))
        if len(missing) == len(rows):
            return fresh
        values = _to(values, device)
        values[missing.to(device)] = _padded(fresh, self.store.shape)
        return values

    def _rows(self, origin: Tensor) -> np.ndarray:
        number, wording = origin.cpu().numpy().T
        if self.wordings == 1:
            return number
        if int(wording.max()) >= self.wordings:
            raise IndexError(f"wording {wording.max()} of an episode; at most {self.wordings} were announced")
        rows: np.ndarray = number * self.wordings + wording
        return rows


def attached(features: FeatureCache | None, policy: Policy, data: Data, trainer: Trainer) -> Any:
    """`features.attached(…)`; with None (features=null) a block that keeps nothing."""
    return _nothing() if features is None else features.attached(policy, data, trainer)


@contextmanager
def _nothing() -> Iterator[dict[str, Any]]:
    yield {"kept": None, "why": "features=null"}


def _off(line: str) -> tuple[None, str, dict[str, Any]]:
    return None, line, {"kept": None, "why": line}


@torch.no_grad()
def _sample(policy: Policy, data: Data, device: torch.device) -> Tensor:
    """Features of one grey frame in the longest words: their shape and type."""
    texts = sorted({text for one in told(data) for text in one.instructions})
    texts = texts if policy.stage.heard else texts[:1]
    ids, mask = policy.tokenize(texts)
    longest = mask.sum(dim=1).argmax()[None]
    frame = torch.full((1, 3, data.image_size, data.image_size), 127, dtype=torch.uint8, device=device)
    words = ids[longest].to(device), mask[longest].to(device)
    if not policy.compiled:
        return policy.lower(frame, *words)
    with torch.compiler.set_stance(
        "force_eager"
    ):  # one frame alone is no shape to compile for; the import takes 2 s
        return policy.lower(frame, *words)


def _padded(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Hidden states of shorter words: surplus positions on the right, which `encode_above` cuts off again."""
    if values.shape[1:] == shape or values.dim() != 3 or values.shape[1] > shape[0]:
        return values
    return torch.nn.functional.pad(values, (0, 0, 0, shape[0] - values.shape[1]))


def _to(values: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _on_disk(folder: Path) -> int:
    """Bytes that the files of a store really take."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += os.stat(path).st_blocks * 512
        except OSError:  # just deleted
            continue
    return total
