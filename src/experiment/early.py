"""Owns what a training run refuses before torch is imported: folders that are not there, half an arm, a bad seed.

In: the composed config. Out: nothing, or a ProjectError. Everything here is asked again, with all the rest, by those
who own it (resume.py, stages.py); here it only comes first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import ProjectError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_WANDB = "src.experiment.wandb_logger."


def before_imports(cfg: "DictConfig") -> None:
    """What comes before torch is imported: the refusals, and W&B where it is the logger.

    Opening a W&B run imports pydantic models that each look through all modules there are (inspect.getmodule): 2.2 s
    of CPU after torch, Lightning and transformers, 1.2 s before them (measured, wandb 0.31, with its own import).

    Raises:
        ProjectError: see `refuse`.
    """
    refuse(cfg)
    logger = cfg.get("logger") or {}
    if any(str(part.get("_target_", "")).startswith(_WANDB) for part in logger.values() if part is not None):
        import wandb.sdk.launch.inputs.internal  # noqa: F401  what wandb.init imports


def refuse(cfg: "DictConfig") -> None:
    """What the config alone, and a look at the named folders, can tell.

    Raises:
        ProjectError: see the sentences.
    """
    from hydra.core.hydra_config import HydraConfig

    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None
    refuse_half_an_arm(cfg, overrides)
    resume, initial = cfg.get("resume"), cfg.get("init_from")
    if resume is not None and not (Path(resume) / "run.json").exists():
        raise ProjectError(
            f"{Path(resume) / 'run.json'}: not found, expected the record of a run; give the folder of a run."
        )
    if resume is None and initial is not None and not Path(initial).is_dir():
        raise ProjectError(
            f"init_from: found {initial}, expected the folder of a run whose weights to start from; correct it."
        )
    if not 0 <= int(cfg.seed) < 2**32:
        raise ProjectError(f"seed: found {cfg.seed}, expected 0 to {2**32 - 1}; choose another one.")


def refuse_half_an_arm(cfg: "DictConfig", overrides: Sequence[str] | None) -> None:
    """A run that calls itself an arm was made by the overrides of that arm, which only the sweep adds.

    `overrides`: as typed or added by the sweep; None where there was no command line.
    """
    if cfg.get("comparison") is None:
        return
    arm = cfg.get("arm")
    wanted = [str(text) for text in cfg.comparison.arms.get(arm, [])] if arm is not None and overrides else []
    missing = [] if overrides is None else [text for text in wanted if text not in overrides]
    if arm is None or missing:
        lacks = f"arm={arm} without its {' '.join(missing)}" if missing else "no arm"
        raise ProjectError(
            f"name={cfg.name}: this experiment compares arms, and this run has {lacks}; add --multirun (arm=<name> "
            "for one of them), or comparison=null for a single run."
        )
