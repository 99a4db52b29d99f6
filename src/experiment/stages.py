"""Owns the steps of a training run that src/train.py names: begin, announce, trainer, fit, conclude.

In: the composed config and the objects built from it. Out: a started run record, a configured Lightning trainer,
a trained policy with its best weights, the figures of the report in run.json, W&B and the return value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from src.core.config import build
from src.core.errors import ProjectError
from src.core.memory import keep_freed_memory
from src.experiment import quiet
from src.experiment.callbacks import build_parts
from src.experiment.callbacks.step_seed import StepSeed
from src.experiment.checkpoint import (
    AtomicCheckpointIO,
    checkpoint_path,
    fingerprint,
    read_checkpoint,
    restore,
)
from src.experiment.resume import Start, where_to_start
from src.experiment.run_record import RunRecord, read_record
from src.experiment.signals import StopRequest

if TYPE_CHECKING:
    from src.data.datamodule import EpisodeDataModule
    from src.model.policy import Policy


def begin(cfg: DictConfig) -> Start:
    """Decide where to start (see resume.py), make the process quiet, seed everything."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    overrides: list[str] = []
    in_sweep = False
    if HydraConfig.initialized():
        overrides = list(HydraConfig.get().overrides.task)
        in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    quiet.silence()
    keep_freed_memory()
    _check_machine(cfg)
    start = where_to_start(cfg, overrides, in_sweep)
    if start.checkpoint is not None:
        print(f"Going on from {start.checkpoint}")
    pl.seed_everything(int(start.cfg.seed), workers=True, verbose=False)
    return start


def _check_machine(cfg: DictConfig) -> None:
    """What can be refused at once, before data are collected or weights are fetched."""
    wanted, precision = (
        str(cfg.trainer.get("accelerator", "auto")),
        str(cfg.trainer.get("precision", "32-true")),
    )
    has_gpu = torch.cuda.is_available()
    if wanted in ("gpu", "cuda") and not has_gpu:
        raise ProjectError(
            f"trainer.accelerator: found {wanted!r}, but torch {torch.__version__} sees no GPU; "
            "use trainer.accelerator=auto, or see what is wrong with python -m src.doctor."
        )
    if precision.startswith("16") and (wanted == "cpu" or not has_gpu):
        raise ProjectError(
            f"trainer.precision: found {precision!r}, but a CPU has no float16 training; use 32-true."
        )
    if not 0 <= int(cfg.seed) < 2**32:
        raise ProjectError(f"seed: found {cfg.seed}, expected 0 to {2**32 - 1}; choose another one.")


def _same_data(record: RunRecord, manifest: dict[str, Any]) -> None:
    """A resumed run goes on with the very episodes and split it began with."""
    for key in ("data_hash", "split_hash"):
        before = record.fields["data"].get(key)
        if before is not None and before != manifest[key]:
            raise ProjectError(
                f"{record.folder}: began with {key} {before}, found {manifest[key]} in {manifest['root']}; restore "
                "that folder and its split file, or start a new run."
            )


def announce(record: RunRecord, datamodule: "EpisodeDataModule", policy: "Policy") -> None:
    """Note in the record, and print, what is trained on what."""
    manifest = datamodule.manifest()
    _same_data(record, manifest)
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    total = sum(p.numel() for p in policy.parameters())
    record.note("data", **manifest)
    record.note("model", parameters=total, trainable=trainable, base=fingerprint(policy))
    splits = manifest["splits"]
    counts = ", ".join(f"{name} {part['episodes']}" for name, part in splits.items() if part["episodes"])
    print(f"run     {record.folder}")
    print(
        f"data    {manifest['root']}: episodes {counts}; training windows {splits['train']['frames_used']:,}"
    )
    print(f"model   {total / 1e6:,.2f} M parameters, {trainable / 1e6:,.3f} M of them train")
    for row in policy.placement_report:
        print(f"          {row.site:<16} {row.modules:>4} modules {row.trainable:>12,} trainable")


def build_trainer(cfg: DictConfig, record: RunRecord, stop: StopRequest) -> pl.Trainer:
    """The Lightning trainer with the callbacks and loggers of the config.

    Raises:
        ProjectError: checkpoints switched off, or an accelerator that is not there.
    """
    if (cfg.callbacks or {}).get("checkpoint") is None:
        raise ProjectError(
            "callbacks.checkpoint: found null, but a run without checkpoints leaves nothing; keep it."
        )
    trainer: pl.Trainer = build(
        cfg.trainer,
        callbacks=[StepSeed(int(cfg.seed)), *build_parts(cfg.callbacks, record=record, stop=stop)],
        logger=build_parts(cfg.logger, record=record),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=record.folder,
    )
    if trainer.world_size != 1:
        raise ProjectError(
            f"trainer.devices: found {trainer.world_size} processes, expected 1; a run keeps one record and one "
            "order of batches, so use one device per run and let a sweep fill the others."
        )
    return trainer


def fit(
    trainer: pl.Trainer, policy: "Policy", datamodule: "EpisodeDataModule", checkpoint: Path | None
) -> None:
    """Train, from `checkpoint` on where there is one."""
    if checkpoint is not None:
        restore(
            policy, read_checkpoint(checkpoint), checkpoint
        )  # refuses another base model before hours pass
    policy.train()
    trainer.fit(policy, datamodule=datamodule, ckpt_path=checkpoint)


def restore_best(policy: "Policy", record: RunRecord, device: torch.device) -> None:
    """Give `policy` the weights of the best checkpoint, in eval mode on `device`."""
    path = checkpoint_path(record.folder, "best")
    restore(policy, read_checkpoint(path), path)
    policy.to(device).eval()
    kept = {which: figures for which, figures in record.fields["checkpoints"].items() if figures}
    print(
        "kept    "
        + ", ".join(f"{which}.ckpt {figures['bytes'] / 1e6:.2f} MB" for which, figures in kept.items())
    )


def conclude(record: RunRecord, figures: dict[str, float]) -> dict[str, float]:
    """Note the figures of the report in run.json and, where it runs, in W&B; return them."""
    best = record.fields["checkpoints"].get("best", {})
    selected = {f"best/{key}": value for key, value in best.items() if isinstance(value, (int, float))}
    everything = {**selected, **figures}
    record.note("metrics", **everything)
    if record.uses_wandb:
        from src.experiment import wandb_logger

        wandb_logger.summarise(everything)
    return everything


def figures_of(folder: Path) -> dict[str, float]:
    """The figures of a finished run, as `conclude` returned them."""
    print(f"{folder}: finished before, not run again")
    figures: dict[str, float] = read_record(folder)["metrics"]
    return figures


@contextmanager
def loggers_closed(record: RunRecord) -> Iterator[None]:
    """However the block ends, W&B is closed; an open run would swallow the next one of this process."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        if record.uses_wandb:
            from src.experiment import wandb_logger

            wandb_logger.finish(exit_code)
