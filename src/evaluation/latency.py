"""Owns the question how long one control step takes: one robot, one new frame, one command.

In: the policy and recorded camera frames. Out: the section `latency`. Times belong to the machine and its load, so they
are the one section in which two evaluations of a run differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from src.core.errors import ProjectError
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.statistics import POSITIVE, Estimate, bootstrap

QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}


class Latency(Part):
    """Times the step of the predictor that a robot uses, resizing of the camera frame included."""

    def __init__(self, steps: int, warmup: int) -> None:
        """
        Args:
            steps: control steps that are timed.
            warmup: steps before them that are not: the first ones allocate memory and choose kernels.

        Raises:
            ProjectError: fewer than 2 steps, or a negative warm-up.
        """
        super().__init__()
        if steps < 2 or warmup < 0:
            raise ProjectError(
                f"evaluation.parts.latency: found {steps} steps after a warmup of {warmup}, expected "
                "at least 2 after 0 or more; "
                "correct evaluation.parts.latency."
            )
        self.steps, self.warmup = steps, warmup

    def measure(self, bench: Bench) -> Figures:
        predictor = bench.driver().predictor
        drive = self._frames(bench)
        milliseconds, encoded = [], 0
        with bench.timed("latency"):
            for step in range(self.warmup + self.steps):
                instruction, frame = next(drive)
                if instruction is not None:
                    predictor.reset([instruction])
                before, started = predictor.encoded_frames, time.perf_counter()
                predictor.step(frame[None])  # gives a NumPy array, so a GPU has finished
                took = time.perf_counter() - started
                if step >= self.warmup:
                    milliseconds.append(1000 * took)
                    encoded += predictor.encoded_frames - before
        times = np.array(milliseconds)
        return {
            **{name: quantile(times, share, bench.seed) for name, share in QUANTILES.items()},
            "frames_per_step": encoded / self.steps,
            "device": _device_name(predictor.device),
            "threads": torch.get_num_threads(),
            "steps": self.steps,
            "window": bench.policy.window,
            "execute": bench.execute,
            "control_period_ms": 1000 * bench.space.control_period,
        }

    @staticmethod
    def _frames(bench: Bench) -> Iterator[tuple[str | None, np.ndarray]]:
        """Training frames (H, W, 3) as the camera gave them, drive after drive, each with its sentence at the start.

        Of the training split, because time does not depend on what was learned, and the test split is not for this.
        """
        while True:
            for episode in bench.datamodule.episodes("train"):
                for t, frame in enumerate(episode.frames()):
                    yield (episode.instructions[0] if t == 0 else None), frame


def quantile(values: np.ndarray, share: float, seed: int = 0) -> Estimate:
    """The smallest of `values` (n,) that at least `share` of them do not exceed, with a bootstrap interval over values.

    That is NumPy's method `inverted_cdf`. Of 200 values the 99 % quantile is the third largest: look at its interval.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))

    def statistic(weights: np.ndarray) -> np.ndarray:
        reached = np.cumsum(weights, axis=1, dtype=np.float64)
        return ordered[(reached >= share * reached[:, -1:] - 1e-9).argmax(axis=1)]

    return bootstrap(statistic, len(ordered), len(ordered), seed, bounds=POSITIVE)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
