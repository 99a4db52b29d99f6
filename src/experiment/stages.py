"""Owns the steps of a training run that src/train.py names: begin, announce, weights to start from, trainer, fit,
conclude.

In: the composed config and the objects built from it. Out: a started run record, a configured Lightning trainer,
a trained policy with its best weights, the figures of the report in run.json, W&B and the return value.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.core.memory import forget_earlier_runs, keep_freed_memory
from src.experiment import preemption, quiet, ranks
from src.experiment.adapter import export_adapter, has_adapter
from src.experiment.callbacks import build_parts
from src.experiment.callbacks.checkpoint import RunCheckpoint
from src.experiment.callbacks.step_seed import StepSeed
from src.experiment.checkpoint import (
    AtomicCheckpointIO,
    base_model,
    checkpoint_path,
    other_data,
    read_about,
    read_checkpoint,
    refuse_other_config,
    restore,
)
from src.experiment.early import refuse_half_an_arm
from src.experiment.frame_budget import FrameBudget
from src.experiment.provenance import reset_peak_memory
from src.experiment.resume import Start, where_to_start
from src.experiment.run_record import RunRecord, cost, read_record, selected, told_by
from src.experiment.signals import Pruned, StopRequest

if TYPE_CHECKING:
    from src.data.datamodule import EpisodeDataModule
    from src.experiment.wandb_media import Shown
    from src.model.policy import Policy


def begin(cfg: DictConfig) -> Start:
    """Decide where to start (see resume.py), make the process quiet, seed everything."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    ranks.refuse_foreign_start()
    post = ranks.post()
    if post is not None:  # rank 0 has decided
        quiet.silence()
        pl.seed_everything(int(post.cfg.seed), workers=True, verbose=False)
        return Start(post.cfg, post.folder, post.checkpoint)
    overrides: list[str] = []
    in_sweep = False
    if HydraConfig.initialized():
        overrides = list(HydraConfig.get().overrides.task)
        in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    refuse_half_an_arm(cfg, overrides if HydraConfig.initialized() else None)
    quiet.silence()
    forget_earlier_runs()
    keep_freed_memory()
    reset_peak_memory()
    _check_machine(cfg)
    start = where_to_start(cfg, overrides, in_sweep)
    if start.checkpoint is not None:
        print(f"Going on from {start.checkpoint}")
    elif not start.finished and start.cfg.get("init_from") is not None:
        path = _initial(start.cfg)
        refuse_other_config(read_about(path), path, OmegaConf.to_container(start.cfg, resolve=True))
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
    if precision.endswith("-true") and precision not in ("32-true", "64-true"):
        # Lightning would convert the policy in place: adapters, queries and head train in steps that vanish there,
        # and the frozen weights are then others than the checkpoint's.
        raise ProjectError(
            f"trainer.precision: found {precision!r}, which converts every weight and with them what trains, expected "
            "32-true, bf16-mixed or 16-mixed; use trainer.precision=bf16-mixed, and for smaller frozen weights "
            "model.backbone.dtype=bfloat16."
        )
    if precision.startswith("16") and (wanted == "cpu" or not has_gpu):
        raise ProjectError(
            f"trainer.precision: found {precision!r}, but a CPU has no float16 training; use 32-true."
        )
    if wanted not in ("auto", "gpu", "cuda"):
        _check_accelerator(wanted)
    epochs = cfg.trainer.get("max_epochs")
    if epochs is not None and epochs < 1:
        raise ProjectError(
            f"trainer.max_epochs: found {epochs}, expected at least 1, for the schedule is laid out over them; to "
            "measure without training use python -m src.evaluate run=<folder>."
        )
    if not 0 <= int(cfg.seed) < 2**32:
        raise ProjectError(f"seed: found {cfg.seed}, expected 0 to {2**32 - 1}; choose another one.")


def _check_accelerator(wanted: str) -> None:
    """One that Lightning knows and this machine has."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    known = ["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())]
    if wanted not in known:
        raise ProjectError(
            f"trainer.accelerator: found {wanted!r}, expected one of {', '.join(known)}; auto takes what is there."
        )
    if not AcceleratorRegistry[wanted]["accelerator"].is_available():
        raise ProjectError(
            f"trainer.accelerator: found {wanted!r}, but this computer has none (or torch lacks what it needs); use "
            "trainer.accelerator=auto."
        )


def announce(record: RunRecord, datamodule: "EpisodeDataModule", policy: "Policy") -> None:
    """Note in the record, and print, what is trained on what.

    Raises:
        ProjectError: a resumed run found other episodes, another split or other sentences than it began with.
    """
    manifest = datamodule.manifest()
    difference = other_data(record.fields["data"], manifest)
    if record.fields["data"] and difference is not None:
        raise ProjectError(f"{record.folder}: began {difference}, or start a new run.")
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    total = sum(p.numel() for p in policy.parameters())
    backbone = policy.backbone
    words = int(policy.tokenize([datamodule.episodes("train")[0].instructions[0]])[1].sum())
    record.note("data", **manifest)
    record.note(
        "model",
        parameters=total,
        trainable=trainable,
        base_model=base_model(policy),
        prompt=backbone.prompt,
        flops_per_frame=backbone.image_flops() + backbone.text_flops(words),
        prompt_tokens=words,
    )
    splits = manifest["splits"]
    counts = ", ".join(f"{name} {part['episodes']}" for name, part in splits.items() if part["episodes"])
    print(f"run     {record.folder}")
    print(
        f"data    {manifest['root']}: episodes {counts}; training windows {splits['train']['frames_used']:,}"
    )
    print(f"model   {total / 1e6:,.2f} M parameters, {trainable / 1e6:,.3f} M of them train")
    print(f"        {backbone.describe(words)}")
    for site, modules, trains in _placement(policy):
        print(f"          {site:<16} {modules:>4} modules {trains:>12,} trainable")


def _placement(policy: "Policy") -> list[tuple[str, int, int]]:
    """Site, modules with weights of their own, trainable parameters; the head last, so that the rows add up."""
    head = policy.head
    modules = sum(1 for module in head.modules() if any(True for _ in module.parameters(recurse=False)))
    trains = sum(p.numel() for p in head.parameters() if p.requires_grad)
    rows = [(row.site, row.modules, row.trainable) for row in policy.placement_report]
    return [*rows, ("head", modules, trains)]


def start_weights(record: RunRecord, policy: "Policy", start: Start) -> None:
    """Give a new run the weights it is to start from (`init_from`); a resumed run has its own.

    The action normaliser and the head's own statistics come along: the head answers in the units it was trained in,
    so statistics fitted anew would change what its weights mean. What was fitted to the data at hand is replaced, in
    the policy and in the data module alike.

    Raises:
        ProjectError: the checkpoint is of another configuration or base model.
    """
    if start.checkpoint is not None or start.cfg.get("init_from") is None:
        return
    path = _initial(start.cfg)
    content = read_checkpoint(path)
    fitted = _statistics(policy)
    restore(policy, content, path, start.cfg)
    about, kept = content["about"], _statistics(policy)
    record.note(
        "model",
        init_from={
            "checkpoint": str(path),
            "name": about["name"],
            "global_step": content["global_step"],
            "data_hash": about["data_hash"],
            "split_hash": about["split_hash"],
        },
    )
    print(f"start   {path}, step {content['global_step']}, of the run {about['name']!r}")
    print(
        "        its action normaliser comes along, for the head answers in its units"
        + _changed(fitted, kept)
    )


def _initial(cfg: DictConfig) -> Path:
    """The checkpoint that `init_from` names."""
    folder = Path(cfg.init_from)
    path = checkpoint_path(folder, "best")
    if not folder.is_dir():
        raise ProjectError(
            f"init_from: found {cfg.init_from}, expected the folder of a run whose weights to start from; correct it."
        )
    return path


def _statistics(policy: "Policy") -> dict[str, tuple[float, float]]:
    """Axis -> offset and scale of the normaliser, SI units."""
    offset, scale = policy.normalizer.offset.tolist(), policy.normalizer.scale.tolist()
    return dict(zip(policy.action_space.names, zip(offset, scale, strict=True), strict=True))


def _changed(fitted: dict[str, tuple[float, float]], kept: dict[str, tuple[float, float]]) -> str:
    if fitted == kept:
        return "; the data at hand have the same statistics."
    axes = [
        f"{axis} {kept[axis][0]:+.3f} ± {kept[axis][1]:.3f} ({value[0]:+.3f} ± {value[1]:.3f})"
        for axis, value in fitted.items()
    ]
    return f" (in brackets what these data would give): {', '.join(axes)}."


def build_trainer(
    cfg: DictConfig, record: RunRecord, stop: StopRequest, more: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """The Lightning trainer with the callbacks and loggers of the config, and `more` callbacks before these.

    Raises:
        ProjectError: checkpoints switched off, an accelerator that is not there, a way to share the work that is not
            ours, or another number of processes than a resumed run began with.
    """
    if (cfg.callbacks or {}).get("checkpoint") is None:
        raise ProjectError(
            "callbacks.checkpoint: found null, but a run without checkpoints leaves nothing; keep it."
        )
    trainer: pl.Trainer = build(
        cfg.trainer,
        callbacks=[
            StepSeed(int(cfg.seed)),
            FrameBudget(record),
            *more,
            *build_parts(cfg.callbacks, record=record, stop=stop),
        ],
        logger=build_parts(cfg.logger, record=record) if ranks.rank() == 0 else [],
        # One environment everywhere: Lightning's own for SLURM would wait for processes that srun never started.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        default_root_dir=record.folder,
    )
    size = ranks.sanctioned(trainer)
    if size > 1:  # all of them see the whole validation, so there is nothing to average
        warnings.filterwarnings("ignore", message=r".*when logging on epoch level in distributed setting.*")
    ranks.refuse_other_size(record.fields["training"], size, record.folder)
    record.note("training", processes=size)
    return trainer


def fit(
    trainer: pl.Trainer, policy: "Policy", datamodule: "EpisodeDataModule", checkpoint: Path | None
) -> None:
    """Train, from `checkpoint` on where there is one, in as many processes as the trainer has devices.

    Raises:
        SystemExit: in every process but rank 0, when the training is over: what follows is rank 0's alone.
        ProjectError: one of the other processes was lost.
    """
    if checkpoint is not None:
        restore(
            policy, read_checkpoint(checkpoint), checkpoint
        )  # refuses another base model before hours pass
    if isinstance(trainer.strategy, ModelParallelStrategy):
        # What is divided cannot be put together again; the whole one stays here, for the evaluation.
        policy = copy.deepcopy(policy)
    policy.train()
    watch = next(part for part in trainer.callbacks if isinstance(part, RunCheckpoint))  # type: ignore[attr-defined]
    with preemption.heeded(watch.stop), ranks.Crew(trainer.world_size, watch.record, checkpoint):
        trainer.fit(policy, datamodule=datamodule, ckpt_path=checkpoint)
    if ranks.rank() != 0:
        raise SystemExit(0)


def restore_best(policy: "Policy", record: RunRecord, device: torch.device) -> Path:
    """Give `policy` the weights of the best checkpoint, in eval mode on `device`; export its adapter if it has one.

    Returns the checkpoint's file.
    """
    path = checkpoint_path(record.folder, "best")
    restore(policy, read_checkpoint(path), path)
    policy.to(device).eval()
    figures = {
        checkpoint_path(record.folder, which).name: facts["bytes"]
        for which, facts in record.fields["checkpoints"].items()
        if which in ("best", "last")
    }
    if has_adapter(policy):
        size = export_adapter(policy, record.folder / "adapter")
        record.note("checkpoints", adapter={"bytes": size})
        figures["adapter/"] = size
    print("kept    " + ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in figures.items()))
    return path


def conclude(
    record: RunRecord,
    figures: dict[str, float],
    report: Mapping[str, Any] | None = None,
    shown: "Shown | None" = None,
) -> dict[str, float]:
    """Note the figures of the report in run.json and, where it runs, in W&B with what the report shows; return them."""
    everything = {**selected(record.fields), **figures}
    told = told_by(report or {})
    record.note("metrics", **everything)
    record.note("verdict", **told["verdict"])
    record.note("evaluation", **told["evaluation"])
    record.note("cost", **cost(record.fields, told["latency_p50_ms"]))
    if (record.folder / "tensorboard").is_dir():
        from src.experiment import tensorboard_logger

        steps = int(record.fields["training"].get("steps", 0))
        tensorboard_logger.summarise(record.folder, record.config, everything, steps)
    if record.uses_wandb:
        from src.experiment import wandb_logger

        wandb_logger.summarise(everything)
        if shown is not None:
            from src.experiment import wandb_media

            wandb_media.publish(shown)
    return everything


def figures_of(folder: Path) -> dict[str, float]:
    """The figures of a run that is over, as its sweep got them the first time."""
    record = read_record(folder)
    print(f"{folder}: {record['state']} before, not run again")
    figures: dict[str, float] = record["metrics"]
    return {**figures, **Pruned.figures} if record["state"] == "pruned" else figures


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
