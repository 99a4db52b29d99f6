"""Owns the decision where a run starts: fresh, or from the last checkpoint of a run that stopped.

In: the composed config, the overrides the user typed. Out: the config to run with and the checkpoint to start from.
A resumed run uses the config it was started with; an override that would change its result is refused by name.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.experiment import csv_logger
from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from src.experiment.run_record import FILE as RECORD
from src.experiment.run_record import read_record

FREE = (
    "resume",
    "run_folder",
    "logger",
    "callbacks.progress",
    "name",
    "comparison",
    "trial",
)  # these change what is shown, and to what the run belongs, not its result
_GLOBAL_GROUPS = ("experiment", "debug")


@dataclass(frozen=True)
class Start:
    """Where a run begins: its config, its folder, and the checkpoint to load (None: from the beginning)."""

    cfg: DictConfig
    folder: Path
    checkpoint: Path | None
    finished: bool = False


def where_to_start(cfg: DictConfig, overrides: Sequence[str], in_sweep: bool) -> Start:
    """Fresh, resumed on demand (`resume=<run>`), or, in a sweep, what is missing of this arm.

    Raises:
        ProjectError: nothing to resume there, a finished or living run, or a config that differs.
    """
    folder = Path(cfg.run_folder)
    if cfg.get("resume") is not None:
        return _resume(cfg, Path(cfg.resume), overrides)
    if in_sweep and (folder / "run.json").exists():
        return _missing_part(cfg, folder)
    return Start(cfg, folder, None)


def _resume(cfg: DictConfig, folder: Path, overrides: Sequence[str]) -> Start:
    if not (folder / RECORD).exists():
        _remove_trace(folder)
    record = read_record(folder)
    _refuse_living(folder, record)
    if record["state"] == "finished":
        raise ProjectError(
            f"resume={folder}: this run is finished; evaluate it with python -m src.evaluate run={folder}."
        )
    path = checkpoint_path(folder, "last")
    if not path.exists():
        raise ProjectError(
            f"resume={folder}: it stopped before its first checkpoint; start it anew, nothing is lost."
        )
    content = read_checkpoint(path)
    saved = OmegaConf.create(content["about"]["config"])
    differences = [line for line in _differences(saved, cfg) if _touched(line.key, overrides)]
    if differences:
        raise ProjectError(
            f"resume={folder}: {'; '.join(map(str, differences))}. A resumed run keeps the config it was started with; "
            "leave these out, or start a new run."
        )
    for key in FREE:
        if _touched(key, overrides) or key in ("resume", "run_folder"):
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False, force_add=True)
    saved.run_folder = str(folder)
    csv_logger.rewind(folder, int(content["global_step"]))
    return Start(saved, folder, path)


def _remove_trace(folder: Path) -> None:
    """Hydra makes the folder it is given, with a log file, before anybody can say that no run is there."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    if found and all(path.suffix == ".log" and path.stat().st_size == 0 for path in found):
        for path in found:
            path.unlink()
        folder.rmdir()


def _missing_part(cfg: DictConfig, folder: Path) -> Start:
    """An arm of a sweep that was here before: done, to be continued, or to be begun again."""
    record, path = read_record(folder), checkpoint_path(folder, "last")
    _refuse_living(folder, record)
    if not path.exists():
        (folder / "run.json").unlink()
        return Start(cfg, folder, None)
    content = read_checkpoint(path)
    differences = list(_differences(OmegaConf.create(content["about"]["config"]), cfg))
    if differences:
        raise ProjectError(
            f"{folder}: holds an arm with another config ({'; '.join(map(str, differences[:5]))}); "
            "give this sweep another name=…, or move the old one away."
        )
    if record["state"] in ("finished", "pruned"):
        return Start(cfg, folder, None, finished=True)
    csv_logger.rewind(folder, int(content["global_step"]))
    return Start(cfg, folder, path)


def _refuse_living(folder: Path, record: dict[str, Any]) -> None:
    """Before anything of the run is touched: nobody else may be writing to it."""
    if record["state"] == "running":
        raise ProjectError(f"{folder}: another process is writing to this run; wait for it or stop it.")


# ---------------------------------------------------------------- comparing configs


@dataclass(frozen=True)
class _Difference:
    key: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.was}, now {self.now}"


def _differences(saved: DictConfig, cfg: DictConfig) -> Iterator[_Difference]:
    """Dotted keys whose resolved values differ, except those that do not change the result."""
    was = dict(leaves(OmegaConf.to_container(saved, resolve=True)))
    now = dict(leaves(OmegaConf.to_container(cfg, resolve=True)))
    for key in sorted(was.keys() | now.keys()):
        free = any(key == name or key.startswith(f"{name}.") for name in FREE)
        if not free and _spelt(was.get(key, "absent")) != _spelt(now.get(key, "absent")):
            yield _Difference(key, was.get(key, "absent"), now.get(key, "absent"))


def _spelt(value: Any) -> str:
    """1 and 1.0 are equal to Python, but one batch and all batches to `trainer.limit_train_batches`."""
    return json.dumps(value, sort_keys=True, default=str)


def _touched(key: str, overrides: Sequence[str]) -> bool:
    """Did the user type an override that reaches this key? A group choice reaches the whole group."""
    for override in overrides:
        name = override.lstrip("+~").split("=", 1)[0].split("@")[-1].replace("/", ".")
        if name in _GLOBAL_GROUPS or key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."):
            return True
    return False
