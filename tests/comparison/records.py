"""Run folders written by hand: real run.json and report.json with small, chosen content, and the plan they make."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.comparison.plan import Plan
from src.core.leaves import leaves
from src.experiment.run_record import config_hash

SUCCESS = "closed_loop/full1/layout/policy/success"
ERROR = "offline/error"
RANKS = {"small": 4, "large": 32, "text": 16}


def config(arm: str, seed: int, folder: str) -> dict[str, Any]:
    return {
        "trainer": {"max_epochs": 2},
        "data": {"root": "data/sim", "window": 8, "seed": seed},
        "model": {"lora": {"rank": RANKS.get(arm, 1)}, "backbone": {"checkpoint": "assets/kosmos2_tiny"}},
        "logger": {"file": f"{folder}/log"},
        "callbacks": {"checkpoint": {"folder": f"{folder}/checkpoints"}, "progress": {"quiet_s": 30}},
        "comparison": {"arms": {name: [f"model.lora.rank={rank}"] for name, rank in RANKS.items()}},
        "arm": arm,
        "seed": seed,
        "name": "ranks",
        "run_folder": folder,
    }


def record(arm: str, seed: int, folder: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {
        "format": 2,
        "name": "ranks",
        "experiment": "ranks",
        "arm": arm,
        "state": "finished",
        "error": None,
        "started": "2026-11-23T10:00:00+00:00",
        "seed": seed,
        "command": "python -m src.train --multirun experiment=ranks",
        "config_hash": "0" * 16,
        "config": config(arm, seed, folder),
        "overrides": ["experiment=ranks", f"model.lora.rank={RANKS.get(arm, 1)}", f"arm={arm}", f"seed={seed}"],
        "metrics": dict(metrics),
        "verdict": {"listens": "yes", "looks": "yes"},
        "cost": {"trainable_parameters": 250_000, "train_minutes": 2.0 + seed, "peak_memory_gb": 1.5,
                 "latency_p50_ms": 12.0},
        "evaluation": {"split": "val", "suites": [{"suite": "full1", "split": "layout", "episodes": 100}],
                       "suite_version": "1"},
        "data": {"data_hash": "d0", "split_hash": "s0", "instruction": {"hash": "w0"},
                 "splits": {"val": {"episodes": 80}, "test": {"episodes": 0}}},
        "training": {"epochs": 2, "steps": 720, "processes": 1, "step_seconds": 10.0 + seed + RANKS.get(arm, 1) / 100},
        "model": {"base_model": {"id": "assets/kosmos2_tiny", "revision": None, "fingerprint": f"f-{arm}"}},
        "code": {"sha": "abcdef0123456789", "branch": "main", "dirty": False, "diff_sha256": None},
        "machine": {"cpu": "AMD EPYC", "gpus": []},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6", "leaflet": "1"},
    }  # fmt: skip


def report(metrics: Mapping[str, float], trials: int | None) -> dict[str, Any]:
    """The figures as report.json nests them; with `trials`, shares of that many."""
    out: dict[str, Any] = {"schema_version": 2, "metrics": dict(metrics)}
    if SUCCESS in metrics and trials is not None:
        value = metrics[SUCCESS]
        figure = {"value": value, "low": max(0.0, value - 0.07), "high": min(1.0, value + 0.06), "n": trials,
                  "interval": "wilson"}  # fmt: skip
        out["closed_loop"] = {"full1/layout": {"policy": {"success": figure}}}
    if ERROR in metrics:
        value = metrics[ERROR]
        out["offline"] = {"error": {"value": value, "low": value * 0.9, "high": value * 1.1, "n": 1510,
                                    "interval": "bootstrap", "clusters": 80}}  # fmt: skip
    return out


def write(
    root: Path,
    arm: str,
    seed: int,
    metrics: Mapping[str, float],
    /,
    trials: int | None = 100,
    place: str | None = None,
    **changes: Any,
) -> Path:
    """A run folder; `changes`: dotted names with `__` for the dot → other values (`data__data_hash="d1"`)."""
    folder = root / (place or f"{arm},seed={seed}")
    folder.mkdir(parents=True)
    content = record(arm, seed, str(folder), metrics)
    for name, value in changes.items():
        node: Any = content
        *parents, last = name.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = copy.deepcopy(value)
    if "config_hash" not in changes:
        content["config_hash"] = config_hash(content["config"])
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report(metrics, trials)), encoding="utf-8")
    return folder


def plan(**changes: Any) -> Plan:
    """What the folders compare: three ranks against `text`."""
    settings: dict[str, Any] = {
        "name": "ranks",
        "question": "How large a rank?",
        "arms": {arm: (f"model.lora.rank={rank}",) for arm, rank in RANKS.items()},
        "reference": "text",
        "metrics": (SUCCESS, ERROR),
        "seeds": (0, 1, 2),
        "may_differ": (),
        "compared": ("model.lora.rank",),
        "expected": {arm: dict(leaves(config(arm, 0, "RUN"))) for arm in RANKS},
        "follows": frozenset({"data.seed"}),
        "overrides": (),
        "experiment": "ranks",
    }
    return Plan(**{**settings, **changes})
