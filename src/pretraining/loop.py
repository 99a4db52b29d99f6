"""The three stages of pre-training, one after the other.

In: a `SceneSet` and sizes. Out: a folder that `from_pretrained` loads, and a record of how it came about.

    see    vision tower and projector learn the dense labels; no text is computed
    read   the text model learns captions and grounding on the latents of the finished vision tower, computed once
    join   everything together at a smaller learning rate
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from src.core.errors import ProjectError
from src.pretraining.objective import IGNORE, Objective, PretrainBatch
from src.pretraining.scenes import SceneSet
from src.pretraining.text import Scribe

_LOG_STEPS = 50
_QUIET_STEPS = 250
"""Steps between two lines when the output is a file and has no progress bar."""
_CHUNK = 128
"""Pictures per forward pass when latents are computed once."""


@dataclass(frozen=True)
class Stage:
    """Optimizer steps and peak learning rate of one stage."""

    steps: int
    lr: float


@dataclass
class Trainer:
    """Runs the stages; every random choice comes from `seed`.

    Attributes:
        objective: model and probes.
        scribe: writes the texts.
        scenes: training pictures.
        batch_size: pictures per step.
        mean, std: (3,) of the image processor.
        log: called with (stage, step, averages since the last call).
    """

    objective: Objective
    scribe: Scribe
    scenes: SceneSet
    batch_size: int
    mean: list[float]
    std: list[float]
    seed: int
    log: Callable[[str, int, dict[str, float]], None]

    def run(self, see: Stage, read: Stage, join: Stage) -> dict[str, float]:
        """Trains; returns the minutes each stage took."""
        minutes = {}
        with Progress(
            TextColumn("{task.description:5}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[losses]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        ) as progress:  # fmt: skip
            for number, (name, stage) in enumerate({"see": see, "read": read, "join": join}.items()):
                started = time.monotonic()
                rng = np.random.default_rng([self.seed, number])
                steps = (
                    self._read_losses(rng)
                    if name == "read"
                    else self._joint_losses(rng, with_text=name == "join")
                )
                self._optimize(name, stage, steps, progress)
                minutes[name] = (time.monotonic() - started) / 60
        return minutes

    def _optimize(
        self, name: str, stage: Stage, losses: Iterator[dict[str, Tensor]], progress: Progress
    ) -> None:
        if not stage.steps:
            return
        parameters = list(self.objective.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.02)
        task = progress.add_task(name, total=stage.steps, losses="")
        sums: dict[str, list[float]] = defaultdict(list)
        for step in range(stage.steps):
            warm = min(1.0, (step + 1) / 100)
            cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * warm * cosine
            terms = next(losses)
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise ProjectError(
                    f"pre-training: the loss of stage {name!r} is not finite at step {step}; lower its lr."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            for term, value in terms.items():
                sums[term].append(value.item())
            if (step + 1) % _LOG_STEPS == 0 or step + 1 == stage.steps:
                means = {term: float(np.mean(values)) for term, values in sums.items()}
                sums.clear()
                self.log(name, step + 1, means)
                losses_text = " ".join(f"{term} {value:.3f}" for term, value in means.items())
                progress.update(task, losses=losses_text)
                if not progress.console.is_terminal and (step + 1) % _QUIET_STEPS < _LOG_STEPS:
                    print(f"{name} {step + 1}/{stage.steps}  {losses_text}", flush=True)
            progress.advance(task)

    def _joint_losses(self, rng: np.random.Generator, with_text: bool) -> Iterator[dict[str, Tensor]]:
        while True:
            rows, flipped = self._draw(rng)
            yield self.objective(self._batch(rows, flipped, rng), with_text=with_text)

    def _read_losses(self, rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
        latents = [self._latents(flipped) for flipped in (False, True)]
        while True:
            rows, flipped = self._draw(rng)
            mirrored = torch.from_numpy(flipped)[:, None, None]
            ids, targets = self._text(rows, flipped, rng)
            seen = torch.where(mirrored, latents[1][rows], latents[0][rows])
            yield {"tokens": self.objective.token_loss(seen, ids, targets)}

    def _draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return rng.integers(0, len(self.scenes), self.batch_size), rng.random(self.batch_size) < 0.5

    @torch.no_grad()
    def _latents(self, flipped: bool) -> Tensor:
        chunks = []
        for start in range(0, len(self.scenes), _CHUNK):
            frames = self.scenes.frames[start : start + _CHUNK]
            chunks.append(self.objective.latents(self.pixels(frames[:, :, ::-1] if flipped else frames)))
        return torch.cat(chunks)

    def pixels(self, frames: NDArray[np.uint8]) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) normalised float."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        return (images - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def _batch(
        self, rows: NDArray[np.int64], flipped: NDArray[np.bool_], rng: np.random.Generator
    ) -> PretrainBatch:
        chosen = {f.name: getattr(self.scenes, f.name)[rows] for f in fields(SceneSet)}
        for name in ("frames", "patches"):
            chosen[name][flipped] = chosen[name][flipped][:, :, ::-1]
        for name in ("columns", "column_box"):
            chosen[name][flipped] = chosen[name][flipped][:, ::-1]
        ids, targets = self._text(rows, flipped, rng)
        return PretrainBatch(
            pixels=self.pixels(chosen["frames"]),
            ids=ids,
            targets=targets,
            patches=torch.from_numpy(chosen["patches"].reshape(len(rows), -1).astype(np.int64) + 1),
            columns=torch.from_numpy(chosen["columns"].astype(np.int64) + 1),
            column_box=torch.from_numpy(chosen["column_box"].astype(np.float32)),
        )

    def _text(
        self, rows: NDArray[np.int64], flipped: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        bounds = self.scenes.bounds[rows]
        left, right = 1 - bounds[flipped][..., 2], 1 - bounds[flipped][..., 0]
        bounds[flipped, :, 0], bounds[flipped, :, 2] = left, right
        written = [self.scribe.write(self.scenes.items[row], bounds[i], rng) for i, row in enumerate(rows)]
        length = max(len(ids) for ids, _ in written)
        ids = np.full((len(rows), length), self.scribe.tokenizer.pad_token_id)
        targets = np.full((len(rows), length), IGNORE)
        for i, (row_ids, learn) in enumerate(written):
            ids[i, : len(row_ids)] = row_ids
            targets[i, : len(row_ids)] = np.where(learn, row_ids, IGNORE)
        return torch.from_numpy(ids), torch.from_numpy(targets)


@torch.no_grad()
def grounding_accuracy(trainer: Trainer, scenes: SceneSet, count: int) -> dict[str, Any]:
    """Asks for one named object in up to `count` pictures with at least two.

    Returns:
        `named`: share in which the predicted left edge lies nearest the named object's;
        `within_one_cell`: share within one sixteenth of the image width of the truth; `chance` of `named`; `n`.
    """
    objective, scribe = trainer.objective, trainer.scribe
    rng = np.random.default_rng(1)
    named, close, chance, n = 0, 0, 0.0, 0
    for row in range(len(scenes)):
        seen = scribe.objects(scenes.items[row], scenes.bounds[row])
        if len(seen) < 2 or n == count:
            continue
        kind = list(seen)[int(rng.integers(len(seen)))]
        cell = objective.ask(
            trainer.pixels(scenes.frames[row][None]), scribe.question(kind), scribe.first_location
        )
        distances = {other: abs(left - cell) for other, left in seen.items()}
        named += min(distances, key=lambda other: distances[other]) == kind
        close += distances[kind] <= 1
        chance += 1 / len(seen)
        n += 1
    return {"named": named / n, "within_one_cell": close / n, "chance": chance / n, "n": n}
