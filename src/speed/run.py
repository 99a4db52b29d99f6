"""Owns one benchmark from its options to its result: which parts are measured, on what, and where the figures go.

In: conf/benchmark.yaml. Out: tables on the screen, outputs/benchmarks/<time>-<name>.json, the same JSON as the last
line of the screen; where asked, the tables in README.md, README.ko.md and docs/performance.md.
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.core.memory import keep_freed_memory
from src.experiment import quiet
from src.experiment.provenance import command, machine, main_packages
from src.speed import inference, memory, pipeline, report, startup, training
from src.speed.ways import WAYS, chosen
from src.speed.weights import RandomKosmos2

Part = Literal["training", "memory", "inference", "pipeline", "start_up", "sweep"]


class Benchmark:
    """What is measured, and how long."""

    def __init__(
        self,
        name: str,
        train: list[str],
        parts: list[Part],
        ways: list[str],
        rounds: int,
        warmup: int,
        steps: int,
        latency_steps: int,
        memory_ways: list[str],
        memory_episodes: list[int],
        trials: int,
        needs_gpu: bool,
        weights: RandomKosmos2 | None,
        out: str,
        write: list[str],
    ) -> None:
        """
        Args:
            name: of the benchmark, in the name of its file.
            train: overrides of conf/train.yaml: the run that is measured.
            parts: what is measured.
            ways: what `training` compares; ratios are taken against the first, unless a way names another (ways.py).
            rounds: how often each way, the loader and each process is timed.
            warmup, steps: batches of a fit that are not timed, and that are.
            latency_steps: control steps that are timed.
            memory_ways, memory_episodes: what `memory` measures: each way at each number of episodes per batch.
            trials: of the short search.
            needs_gpu: refuse a machine without one.
            weights: a random Kosmos-2 to load; None takes the checkpoint of `train`.
            out: folder of the JSON files.
            write: files that get the tables between their markers.

        Raises:
            ProjectError: an unknown way, or a count below 1.
        """
        chosen(ways)
        chosen(memory_ways)
        for key, value in (("rounds", rounds), ("warmup", warmup), ("steps", steps)):
            if value < 1:
                raise ProjectError(f"benchmark.{key}: found {value}, expected at least 1; correct it.")
        if latency_steps < 2:
            raise ProjectError(f"benchmark.latency_steps: found {latency_steps}, expected at least 2.")
        self.name, self.train, self.parts, self.ways = name, train, parts, ways
        self.rounds, self.warmup, self.steps, self.latency_steps = rounds, warmup, steps, latency_steps
        self.memory_ways, self.memory_episodes, self.trials = memory_ways, memory_episodes, trials
        self.needs_gpu, self.weights, self.out = needs_gpu, weights, Path(out)
        self.write = [Path(path) for path in write]

    def run(self) -> dict[str, Any]:
        """Measure, show, keep; returns the result.

        Raises:
            ProjectError: there is no GPU where one is needed, or a file to write has no markers.
        """
        if self.needs_gpu and not torch.cuda.is_available():
            raise ProjectError(
                f"benchmark={self.name}: found no GPU (torch {torch.__version__}), expected one, because the "
                "full-size model takes minutes per step without; use benchmark=default."
            )
        for path in self.write:
            report.require_markers(path)
        quiet.silence()
        keep_freed_memory()
        train = list(self.train)
        if self.weights is not None:
            train.append(f"model.backbone.checkpoint={self.weights.place()}")
        began = datetime.now(timezone.utc)
        result: dict[str, Any] = {
            "benchmark": self.name,
            "date": began.isoformat(timespec="seconds"),
            "command": command(),
            "machine": machine(),
            "packages": main_packages(),
            "threads": torch.get_num_threads(),
            "train": train,
        }
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            folder = Path(name)
            with training.Workshop(train, folder) as shop:
                measured = self._measured(shop, train, folder)
                for part in self.parts:
                    result[part] = measured[part]()
        path = self.out / f"{began:%Y-%m-%d-%H-%M-%S}-{self.name}.json"
        atomic_write_json(path, result)
        result = json.loads(path.read_text(encoding="utf-8"))
        report.show(result)
        for target in self.write:
            report.write(target, result)
        print(f"written  {', '.join(str(one) for one in (path, *self.write))}")
        print(json.dumps(result, ensure_ascii=False))
        return result

    def _measured(self, shop: training.Workshop, train: list[str], folder: Path) -> dict[str, Any]:
        """Part -> what measures it."""

        def plain() -> training.Arm:
            return shop.arm("encode_once", WAYS["encode_once"])

        return {
            "training": lambda: training.measure(shop, self.ways, self.rounds, self.warmup, self.steps),
            "memory": lambda: memory.measure(shop, self.memory_ways, self.memory_episodes),
            "inference": lambda: inference.measure(plain(), self.latency_steps, 20),
            "pipeline": lambda: pipeline.measure(plain(), self.rounds, self.steps),
            "start_up": lambda: startup.measure(train, self.rounds, folder),
            "sweep": lambda: startup.sweep(train, self.trials, folder),
        }
