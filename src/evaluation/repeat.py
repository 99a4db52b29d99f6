"""Owns evaluating a finished run again, as it was evaluated or otherwise.

In: a run folder, the evaluation settings that the user changed, a checkpoint name. Out: the run's report again (same
settings, same figures) or, measured otherwise, another one in <run>/evaluations/<name>/: a run's own report never
changes its meaning. A run whose evaluation had failed is whole again once its own evaluation succeeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.evaluation.checks import check_same_data
from src.experiment.checkpoint import checkpoint_path, load_policy, read_checkpoint
from src.experiment.quiet import silence
from src.experiment.run_record import FILE as RECORD
from src.experiment.run_record import (
    amend,
    cost,
    evaluation_failed,
    facts_for_report,
    read_record,
    selected,
    told_by,
)


def evaluate_run(
    run: str | None,
    checkpoint: str,
    device: str,
    name: str | None,
    evaluation: DictConfig,
    overrides: Sequence[str],
) -> tuple[dict[str, Any], Path]:
    """Load the run's policy and data, measure, write the report; returns it and the folder it lies in.

    `evaluation` is the composed group, `overrides` the user's command line: what it does not mention is taken
    from the run's own configuration.
    """
    if not run:
        raise ProjectError(
            "evaluate: no run folder given; say which, e.g. python -m src.evaluate run=outputs/<name>"
        )
    folder = Path(run)
    if not (folder / RECORD).is_file():
        raise ProjectError(
            f"run={run}: {'no such folder' if not folder.is_dir() else f'this folder has no {RECORD}'}, "
            "so it is not a training run; pass the folder that python -m src.train printed"
        )
    if name is not None and (Path(name).name != name or name in (".", "..")):
        raise ProjectError(
            f"name={name}: expected the name of a folder below {folder}/evaluations, without slashes; choose another."
        )
    silence()
    target = chosen_device(device)
    policy, cfg = load_policy(folder, checkpoint)
    settings, changed = merged(cfg.get("evaluation"), evaluation, overrides)
    changed = changed or checkpoint != "best"
    out = _target(folder, name, settings if changed else None, checkpoint)
    datamodule = build(cfg.data)
    datamodule.prepare_data()
    datamodule.bind(policy.tokenize)
    datamodule.setup("fit")
    if cfg.data.get("max_frames_per_batch") == "auto":
        found = read_record(folder)["training"].get("max_frames_per_batch")
        if found is not None:  # what fitted into memory while it trained
            datamodule.limit_frames(int(found))
    path = checkpoint_path(folder, checkpoint)
    about = read_checkpoint(path)["about"]
    check_same_data(folder, about["data"], datamodule.manifest())
    facts = facts_for_report(read_record(folder), path.name)
    report = build(settings).run(out, policy.to(target), datamodule, facts, folder, path)
    if out == folder:
        mend(folder, report)
    return report, out


def _target(folder: Path, name: str | None, changed: DictConfig | None, checkpoint: str) -> Path:
    """Where the report goes: the run itself for its own evaluation; otherwise a folder of the user's name, or one per
    settings, so that no evaluation replaces another one."""
    if name is not None:
        return folder / "evaluations" / name
    if changed is None:
        return folder
    settings = f"{checkpoint} {OmegaConf.to_yaml(changed, resolve=True, sort_keys=True)}"
    return folder / "evaluations" / f"custom-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"


def mend(folder: Path, report: Mapping[str, Any]) -> None:
    """Note the figures of the run's own evaluation in its record, if the one after the training had failed."""
    fields = read_record(folder)
    if evaluation_failed(fields) and not report["failed"]:
        told = told_by(report)
        amend(
            folder,
            state="finished",
            error=None,
            metrics={**selected(fields), **report["metrics"]},
            verdict=told["verdict"],
            evaluation=told["evaluation"],
            cost=cost(fields, told["latency_p50_ms"]),
        )


def chosen_device(name: str) -> torch.device:
    """`auto` is what training would take: a GPU where there is one."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ProjectError(f"device={name} is unknown; choose auto, cpu, cuda or mps") from error
        there = {
            "cpu": 1,
            "cuda": torch.cuda.device_count(),
            "mps": int(torch.backends.mps.is_available()),
        }
        if (device.index or 0) >= there.get(device.type, 0):
            raise ProjectError(
                f"device={name}: torch {torch.__version__} sees no such device here; use device=auto, or see what "
                "is wrong with python -m src.doctor"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def merged(
    trained: DictConfig | None, composed: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, bool]:
    """The run's own evaluation settings with the user's changes on top, and whether there were any.

    A whole group on the command line (`evaluation=quick`) replaces them; single keys (`evaluation.episodes=20`)
    change only these.
    """
    mine = [text.lstrip("+~") for text in overrides]
    if trained is None or any(text.startswith("evaluation=") for text in mine):
        return composed, True
    if not any(part is not None for part in (trained.get("parts") or {}).values()):
        return composed, True  # trained with evaluation=none: its report says so, and goes on saying so
    settings = trained.copy()
    # `evaluation.episodes=20`, and `evaluation/part@evaluation.parts.mine=mine`
    typed = [text.split("=")[0].rpartition("@")[2] for text in mine]
    keys = [key.removeprefix("evaluation.") for key in typed if key.startswith("evaluation.")]
    for key in keys:
        OmegaConf.update(settings, key, OmegaConf.select(composed, key), force_add=True)
    return settings, settings != trained
