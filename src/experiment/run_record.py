"""Owns run.json, the provenance of a run, and the state it is in.

In: the composed config, what the data module says of its data, figures as they become known.
Out: <run>/run.json (and <run>/changes.diff for uncommitted code), replaced atomically, so that a kill at any
instant leaves a readable record. A lock held by the living process tells a killed run from a running one.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, atomic_write_text, exclusive
from src.experiment import preemption, provenance, ranks
from src.experiment.signals import Interrupted, Pruned

FILE = "run.json"
UNHASHED = ("run_folder", "resume")
"""Root keys that a run's hash leaves out: the same run elsewhere, or going on, is the same run."""
_REPOSITORY = Path(__file__).resolve().parents[2]


class RunRecord:
    """The record of one run as a context manager: running inside, then finished, failed, interrupted or pruned.

    A resumed run keeps its record; every start is one entry of `starts`.
    """

    def __init__(self, folder: Path, cfg: DictConfig, resumed: bool = False) -> None:
        """
        Args:
            folder: the run folder.
            cfg: the composed config; stored resolved.
            resumed: continue the record that is there.

        Raises:
            ProjectError: the folder belongs to another run, or a living process writes to it.
        """
        self.folder = folder
        self.config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        self._age_s = provenance.seconds_before_first_run()
        self._began = time.perf_counter()
        self._lock: IO[str] | None = None
        if ranks.rank() != 0:  # rank 0 holds the run; the others read what it wrote, and write nothing
            self.fields: dict[str, Any] = read_record(folder)
            return
        self._lock = _lock(folder)
        if not resumed and (folder / FILE).exists():
            self._lock.close()
            raise ProjectError(
                f"{folder}: holds a run already, expected a new folder; continue that run with resume={folder}, "
                "or choose another folder with hydra.run.dir=<folder>."
            )
        code, changes = provenance.code_version(_REPOSITORY)
        this = {"started": _now(), "command": provenance.command(), "code": code}
        previous = read_record(folder) if resumed else {}
        self._earlier_s = float(previous.get("wall_s", 0.0))
        self.fields = {
            "format": 2,
            "name": self.config.get("name"),
            "experiment": _chosen("experiment"),
            "arm": self.config.get("arm"),
            "state": "running",
            "error": None,
            "stage": "training",
            "started": previous.get("started", this["started"]),
            "ended": None,
            "wall_s": self._earlier_s,
            "seed": self.config.get("seed"),
            "command": previous.get("command", this["command"]),
            "config_hash": config_hash(self.config),
            "config": self.config,
            "overrides": _overrides(),
            "metrics": {},
            "verdict": {},
            "cost": {},
            "evaluation": {},
            "training": {},
            "checkpoints": {},
            "data": {},
            "model": {},
            **{key: previous[key] for key in ("training", "checkpoints", "data", "model") if key in previous},
            "memory": {},
            "code": code,
            "machine": provenance.machine(),
            "starts": [*previous.get("starts", []), this],
            "packages": provenance.packages(),
        }
        if changes:
            atomic_write_text(folder / "changes.diff", changes)

    def __enter__(self) -> "RunRecord":
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._lock is None:
            return
        state, text = ending(error)
        self.fields.update(state=state, ended=_now(), error=text)
        self.fields["starts"][-1].update(ended=self.fields["ended"], state=state)
        try:
            self.write()
        finally:
            self._lock.close()
        preemption.hand_on(error)

    def enter(self, stage: str) -> None:
        """Note what the run is at from here on, `training` at first and then `evaluation`: a killed run says so."""
        self.fields["stage"] = stage
        self.write()

    def note(self, section: str, **figures: Any) -> None:
        """Add figures to a section (`training`, `checkpoints`, `data`, `model`, `metrics`) and write the file."""
        self.fields[section] = {**self.fields[section], **figures}
        self.write()

    @property
    def age_s(self) -> float:
        """Seconds since this run began; the imports before count where it is the process's first."""
        return self._age_s + time.perf_counter() - self._began

    def write(self) -> None:
        """Replace run.json; rank 0 alone does."""
        if self._lock is None:
            return
        self.fields["wall_s"] = round(self._earlier_s + time.perf_counter() - self._began, 2)
        self.fields["memory"] = provenance.peak_memory()
        atomic_write_json(self.folder / FILE, self.fields)

    @property
    def uses_wandb(self) -> bool:
        """Has this process loaded W&B? Asking must not cost its import."""
        return "wandb" in sys.modules

    def about(self) -> dict[str, Any]:
        """What a checkpoint says about itself: plain values only, so that it loads without running code."""
        code, data, model = self.fields["code"] or {}, self.fields["data"], self.fields["model"]
        about = {
            "format": 1,
            "name": self.fields["name"],
            "config": self.config,
            "base_model": model.get("base_model"),
            "prompt": model.get("prompt"),
            "data": data,
            "data_hash": data.get("data_hash"),
            "split_hash": data.get("split_hash"),
            "init_from": model.get("init_from"),
            "seed": self.fields["seed"],
            "code": code.get("sha"),
            "packages": provenance.main_packages(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(about, default=str))
        return plain


def ending(error: BaseException | None) -> tuple[str, str | None]:
    """State and text that the record keeps of a run which ended with `error`."""
    if error is None:
        return "finished", None
    state = "failed"
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        state = "interrupted"
    if isinstance(error, Pruned):
        state = "pruned"
    if isinstance(error, ProjectError):
        return state, str(error).strip() or None
    return state, "".join(traceback.format_exception_only(error)).strip() or None


def config_hash(config: Mapping[str, Any]) -> str:
    """A name for a resolved config: two runs with the same hash were asked to do the same.

    Every leaf counts except `UNHASHED`, which say where a run lies and not what it does.
    """
    kept = {key: value for key, value in config.items() if key not in UNHASHED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _chosen(group: str) -> str | None:
    """The option of a config group that this process was started with, e.g. `experiment` → `lora_placement`."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    choice = HydraConfig.get().runtime.choices.get(group)
    return None if choice is None else str(choice)


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return [str(text) for text in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def facts_for_report(fields: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """What a reader of the report should know of the run; `fields`: of its record, `checkpoint`: the file measured."""
    data, model = fields["data"], fields["model"]
    return {
        "name": fields["name"],
        "command": fields["command"],
        "started": fields["started"],
        "seed": fields["seed"],
        "code": fields["code"],
        "machine": fields["machine"],
        "packages": {k: v for k, v in fields["packages"].items() if k in provenance.MAIN_PACKAGES},
        "checkpoint": {"file": checkpoint, **fields["checkpoints"].get(checkpoint.split(".")[0], {})},
        "data": {
            key: data.get(key)
            for key in ("root", "data_hash", "split_hash", "split_file", "splits", "left_out")
        },
        "model": {
            key: model.get(key)
            for key in ("parameters", "trainable", "flops_per_frame", "prompt", "base_model", "init_from")
        },
        "training": fields["training"],
        "memory": fields["memory"],
    }


def told_by(report: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json keeps of a report beside its figures: the answers, what was measured, the time of a control step.

    So that a list of runs and a table need one small file of each run.
    """
    verdict = report.get("verdict") or {}
    answers = {key: item["answer"] for key, item in verdict.items() if isinstance(item, Mapping)}
    lists = {key: verdict[key] for key in ("not_beaten", "too_few", "failed") if key in verdict}
    latency = (report.get("latency") or {}).get("p50_ms") or {}
    return {
        "verdict": {**answers, **lists, "line": verdict.get("line")},
        "evaluation": dict(report.get("settings") or {}),
        "latency_p50_ms": latency.get("value"),
    }


def cost(fields: Mapping[str, Any], latency_p50_ms: float | None = None) -> dict[str, float | None]:
    """What a run took: counts of parameters, minutes, GB, ms. None where nobody measured it.

    `train_minutes` are the optimizer steps alone, without validation and set-up, so that they compare between a quiet
    and a slow disk; `total_minutes` are everything. `peak_memory_gb` is that of the GPUs where the run used one, else
    that of the process.
    """
    model, training, memory = fields["model"], fields["training"], fields["memory"]
    seconds = training.get("step_seconds")
    return {
        "parameters": model.get("parameters"),
        "trainable_parameters": model.get("trainable"),
        "train_minutes": None if seconds is None else round(seconds / 60, 3),
        "total_minutes": round(fields["wall_s"] / 60, 3),
        "peak_memory_gb": memory.get("gpu_gb") or memory.get("process_gb"),
        "latency_p50_ms": latency_p50_ms,
    }


def selected(fields: Mapping[str, Any]) -> dict[str, float]:
    """`best/<figure>`: what the record says of the checkpoint that was chosen."""
    best = fields["checkpoints"].get("best", {})
    return {f"best/{key}": value for key, value in best.items() if isinstance(value, (int, float))}


def evaluation_failed(fields: Mapping[str, Any]) -> bool:
    """Whether the training went well, and what came after it failed, was stopped or killed."""
    return fields["state"] in ("failed", "interrupted", "killed") and fields.get("stage") == "evaluation"


def amend(folder: Path, **fields: Any) -> None:
    """Change fields in the record of a run that nobody is writing to.

    Raises:
        ProjectError: a living process writes to the run.
    """
    with exclusive(folder / FILE):
        if is_alive(folder):
            raise ProjectError(f"{folder}: another process is writing to this run; wait for it or stop it.")
        atomic_write_json(folder / FILE, {**read_record(folder), **fields})


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.json, with state `killed` where it says running but no process holds the run."""
    path = folder / FILE
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProjectError(
            f"{path}: not found, expected the record of a run; give the folder of a run."
        ) from error
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path}: cannot be read as JSON ({error}); it was edited or damaged.") from error
    if fields.get("state") == "running" and not is_alive(folder):
        fields["state"] = "killed"
    return fields


def is_alive(folder: Path) -> bool:
    """Does a living process write to this run folder?"""
    path = folder / ".lock"
    if not path.exists():
        return False
    try:
        import fcntl
    except ImportError:  # not on Windows
        return False
    with path.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _lock(folder: Path) -> IO[str]:
    """Hold the run folder for this process; the system lets go of it however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+")
    except OSError as error:
        raise ProjectError(
            f"{folder}: cannot be written ({error.strerror}); choose another place with hydra.run.dir=<folder>."
        ) from error
    try:
        import fcntl
    except ImportError:
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise ProjectError(
            f"{folder}: another process is writing to this run; wait for it or stop it."
        ) from error
    os.set_inheritable(handle.fileno(), False)
    return handle


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
