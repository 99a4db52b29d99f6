"""What is seen of the keys of `trainer`, `logger`, `callbacks` and the root: a real run's files, rows and lines."""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from src.core.errors import ProjectError
from src.experiment import stages
from src.experiment.callbacks import build_parts
from src.experiment.checkpoint import read_checkpoint
from src.experiment.run_record import RunRecord, read_record
from src.experiment.signals import StopRequest
from src.train import train
from tests.live.model_leaves import fresh_weights
from tests.live.scene import Case, Observer, View, digest, files_below

# ---------------------------------------------------------------- Lightning's trainer

TRAINER: dict[str, Callable[[Any], Any]] = {
    "devices": lambda t: t.num_devices,
    "strategy": lambda t: type(t.strategy).__name__,
    "precision": lambda t: type(t.precision_plugin).__name__,
    "max_epochs": lambda t: t.max_epochs,
    "max_time": lambda t: [type(c).__name__ for c in t.callbacks],
    "accumulate_grad_batches": lambda t: t.accumulate_grad_batches,
    "gradient_clip_val": lambda t: t.gradient_clip_val,
    "deterministic": lambda _: torch.are_deterministic_algorithms_enabled(),
    "limit_train_batches": lambda t: t.limit_train_batches,
    "limit_val_batches": lambda t: t.limit_val_batches,
    "overfit_batches": lambda t: t.overfit_batches,
    "val_check_interval": lambda t: t.val_check_interval,
    "log_every_n_steps": lambda t: t.log_every_n_steps,
    "profiler": lambda t: type(t.profiler).__name__,
    "detect_anomaly": lambda t: t._detect_anomaly,
    "num_sanity_val_steps": lambda t: t.num_sanity_val_steps,
    "enable_progress_bar": lambda t: t.progress_bar_callback is not None,
    "enable_model_summary": lambda t: [type(c).__name__ for c in t.callbacks],
    "enable_checkpointing": lambda t: [type(c).__name__ for c in t.checkpoint_callbacks],
}
"""Lightning's own attribute for each key: that Lightning acts on it is Lightning's to test."""


def trainer_built(view: View) -> dict[str, str]:
    """The attributes of `TRAINER`, of the trainer that a run would build."""
    view.cfg.logger.wandb = None
    record = RunRecord(view.folder / "run", view.cfg)
    try:
        with warnings.catch_warnings(), StopRequest() as stop, record:
            warnings.simplefilter("ignore")  # Lightning's advice about settings that only a test has
            trainer = stages.build_trainer(view.cfg, record, stop)
            return {key: repr(read(trainer)) for key, read in TRAINER.items()}
    finally:
        torch.use_deterministic_algorithms(False)


def start(view: View) -> str:
    """A run begins, or is refused."""
    return str(stages.begin(view.cfg).folder.name)


def start_says(view: View) -> str:
    """The same, a refusal in words."""
    try:
        return start(view)
    except ProjectError as error:
        return str(error)


# ---------------------------------------------------------------- real runs


class Watch(Callback):
    """A callback that a run gets by its config: notes when `last` was written."""

    def __init__(self, file: str) -> None:
        self.file, self.seen = Path(file), [-1]

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        record = read_record(self.file.parent / "run")
        self.seen.append(record["checkpoints"].get("last", {}).get("step", -1))
        self.file.write_text(json.dumps(sorted(set(self.seen))))


def _run(view: View) -> Path:
    """Train without an evaluation; the run folder."""
    view.cfg.evaluation = view.cfg.logger.wandb = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(view.cfg)
    return Path(view.cfg.run_folder)


def run_files(view: View) -> list[str]:
    """Where a run puts what, below the observation's folder."""
    _run(view)
    # Whether there is uncommitted code is the working tree's matter, not the config's.
    return [name for name in files_below(view.folder) if not name.endswith("changes.diff")]


def best_checkpoint(view: View) -> dict[str, Any]:
    """Which checkpoint was chosen, and by which figure."""
    best: dict[str, Any] = read_record(_run(view))["checkpoints"]["best"]
    return {key: value for key, value in best.items() if key != "bytes"}


def writes_of_last(view: View) -> list[int]:
    """The optimizer steps after which `last` was written."""
    file = view.folder / "writes.json"
    view.cfg.trial = {"_target_": "tests.live.run_leaves.Watch", "file": str(file)}
    _run(view)
    steps: list[int] = json.loads(file.read_text())
    return steps


def screen(view: View) -> list[str]:
    """The lines of a run, numbers left out."""
    with redirect_stdout(io.StringIO()) as text:
        _run(view)
    return [
        re.sub(r"[\d.:,]+", "#", line).replace(str(view.folder), "") for line in text.getvalue().splitlines()
    ]


def kept(view: View) -> dict[str, Any]:
    """What the feature cache held, and where."""
    features: dict[str, Any] = read_record(_run(view))["training"]["features"]
    return {key: value for key, value in features.items() if key != "known_at_start"}


def pruned_or_not(view: View) -> str:
    """The state that a run ends in."""
    state: str = read_record(_run(view))["state"]
    return state


def second_start(view: View) -> Any:
    """Start from, or go on with, a run that was stopped after its first epoch."""
    first, cfg = view.folder / "first", view.cfg.copy()
    view.cfg.run_folder, view.cfg.trainer.max_epochs = str(first), 1
    view.cfg.resume = view.cfg.init_from = None
    _run(view)
    path = first / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "interrupted"}))
    cfg.trainer.max_epochs = 1
    view.cfg = cfg
    _run(view)
    done = sorted(path.parent.name for path in view.folder.glob("*/run.json"))
    last = view.folder / done[-1] / "checkpoints" / "best.safetensors"
    return done, digest(read_checkpoint(last)["state_dict"])


class Stop(Callback):
    """Gives a run up at its first validation."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from src.experiment.signals import Pruned

        raise Pruned("seen enough")


# ---------------------------------------------------------------- W&B


def wandb_run(view: View) -> dict[str, str]:
    """What W&B itself says of a run that was opened offline, and what is said when it ends."""
    view.cfg.logger.csv = None
    record = RunRecord(view.folder / "run", view.cfg)
    model = record.folder / "checkpoints" / "best.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"0" * 2_000_000)
    nobody = {"NETRC": str(view.folder / "none"), "WANDB_API_KEY": "", "WANDB_MODE": "offline"}
    own = patch.dict(os.environ, nobody)  # whoever is logged in here: no test asks the real server
    with own, redirect_stdout(io.StringIO()) as text, record, stages.loggers_closed(record):
        (logger,) = build_parts(view.cfg.logger, record=record)
        run = logger.experiment
        seen = {key: repr(getattr(run, key)) for key in ("project", "entity", "group", "tags", "offline")}
        seen["patience"] = repr(run.settings.init_timeout)
    seen["artifact"] = str(any(b"model-" in p.read_bytes() for p in view.folder.rglob("*.wandb")))
    return {**seen, "said": text.getvalue().replace(str(view.folder), "")}


SLOW: set[Observer] = {
    run_files, best_checkpoint, writes_of_last, screen, pruned_or_not, second_start, wandb_run,
}  # fmt: skip

EXCEPTIONS: dict[str, str] = {}

_COMPARISON = {"_target_": "src.comparison.definition.Comparison"}
_TRAINER: dict[str, Any] = {
    "devices": 2, "strategy": "ddp", "precision": "bf16-mixed", "max_epochs": 3, "max_time": "00:00:10:00",
    "accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "deterministic": True, "limit_train_batches": 1,
    "limit_val_batches": 1, "overfit_batches": 1, "val_check_interval": 0.5, "log_every_n_steps": 2,
    "profiler": "simple", "detect_anomaly": True, "num_sanity_val_steps": 1, "enable_progress_bar": True,
    "enable_model_summary": True, "enable_checkpointing": True,
}  # fmt: skip

CASES: dict[str, Case] = {
    **{f"trainer.{key}": Case(value, trainer_built) for key, value in _TRAINER.items()},
    "trainer.accelerator": Case("abacus", start, refused="after"),  # a GPU is not everywhere
    "logger.wandb.project": Case("another", wandb_run),
    "logger.wandb.entity": Case("a-team", wandb_run),
    "logger.wandb.group": Case("another", wandb_run),
    "logger.wandb.tags": Case(["a"], wandb_run),
    "logger.wandb.mode": Case("online", wandb_run, refused="after"),  # nobody is logged in
    "logger.wandb.log_model": Case(True, wandb_run),
    "logger.wandb.log_model_limit_mb": Case(1, wandb_run, {"logger.wandb.log_model": True}),
    "logger.wandb.patience_s": Case(20, wandb_run),
    "callbacks.checkpoint.monitor": Case("val/mae/linear_x", best_checkpoint),
    "callbacks.checkpoint.mode": Case("max", best_checkpoint),
    "callbacks.checkpoint.every_n_steps": Case(1, writes_of_last),
    "callbacks.progress.quiet_s": Case(0.0, screen),
    "callbacks.progress.monitor": Case("val/mae/linear_x", screen),
    "name": Case("another", wandb_run),
    "seed": Case(1, fresh_weights),
    "resume": Case("{folder}/first", second_start),
    "init_from": Case("{folder}/first", second_start),
    "comparison": Case(_COMPARISON, start_says),
    "arm": Case("a", start, {"comparison": _COMPARISON}, refused="before"),
    "features.folder": Case("{folder}/elsewhere", kept),
    "features.limit_gb": Case(1e-6, kept),
    "trial": Case({"_target_": "tests.live.run_leaves.Stop"}, pruned_or_not),
    "run_folder": Case("{folder}/elsewhere", run_files),
}
