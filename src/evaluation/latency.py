"""Owns the question how long one control step takes: one robot, one new frame, one command.

In: the policy and recorded camera frames. Out: the section `latency`: times, and how far they are from the time that
reading the weights takes (src/deploy/floor.py). Times belong to the machine and its load, so they are the one section
in which two evaluations of a run differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from src.core.errors import ProjectError
from src.deploy.floor import bandwidth, bytes_per_step
from src.deploy.predictor import BatchedPredictor
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.statistics import POSITIVE, Estimate, bootstrap

QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}


class Latency(Part):
    """Times the step of the predictor that a robot uses, resizing of the camera frame included."""

    def __init__(self, steps: int, warmup: int, accelerate: str = "none") -> None:
        """
        Args:
            steps: control steps that are timed.
            warmup: steps before them that are not, beside the warm-up that a robot makes at load.
            accelerate: how the predictor runs a step: `none`, `compile` or `cuda_graph`, see src/deploy/engine.py.

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
        self.steps, self.warmup, self.accelerate = steps, warmup, accelerate

    def measure(self, bench: Bench) -> Figures:
        predictor = BatchedPredictor(
            bench.policy, bench.datamodule.image_size, bench.execute, bench.temporal_ensemble, self.accelerate
        )
        drive = self._frames(bench)
        milliseconds, encoded, first = [], 0, 0.0
        with bench.timed("latency"):
            predictor.warm_up()
            for step in range(self.warmup + self.steps):
                instruction, frame = next(drive)
                if instruction is not None:
                    predictor.reset([instruction])
                before, started = predictor.encoded_frames, time.perf_counter()
                predictor.step(frame[None])  # gives a NumPy array, so a GPU has finished
                took = time.perf_counter() - started
                if step == 0:
                    first = 1000 * took
                if step >= self.warmup:
                    milliseconds.append(1000 * took)
                    encoded += predictor.encoded_frames - before
        times = np.array(milliseconds)
        quantiles = {name: quantile(times, share, bench.seed) for name, share in QUANTILES.items()}
        median = quantiles["p50_ms"].value
        memory, weights = bandwidth(predictor.device), bytes_per_step(bench.policy)
        floor = 1000 * weights / memory.bytes_per_s
        return {
            **quantiles,
            "first_step_ms": first,
            "floor_ms": floor,
            "times_floor": None if median is None else median / floor,
            "weights_mb": weights / 1e6,
            "bandwidth_gb_per_s": memory.bytes_per_s / 1e9,
            "bandwidth_source": memory.source,
            "accelerate": self.accelerate,
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
