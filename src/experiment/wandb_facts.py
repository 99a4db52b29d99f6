"""Owns what W&B is told of a run, and the local note of how much of it the server has.

In: the record of a run (content of run.json). Out: its name, group, tags, config and summary in W&B; and
<run>/wandb/sync.json, which says under what name the run goes, which local segments it has (one per start), and what
of it the server got. The logger writes it and src.sync goes on from it. Imports no W&B.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.experiment.provenance import MAIN_PACKAGES

NOTE = "wandb/sync.json"
AXIS = "trainer/global_step"
RECORD = "run_json"
"""Key of W&B's config with the whole run.json as text. W&B drops empty mappings and nulls of a nested config, so the
text is what a run is rebuilt from; the nested config beside it is for people and filters."""
REPORT = "report_json"
"""Key of W&B's config with those parts of report.json that give figures their intervals, as text."""
_FIGURE = ("value", "low", "high", "n", "clusters", "interval")
_LATE = ("state", "error", "metrics", "verdict", "cost", "evaluation")
"""Sections of run.json that change after the training, e.g. when a failed evaluation is repeated."""
_TAG = 64  # characters; W&B refuses longer tags


@dataclass
class Note:
    """How a run goes in W&B, and what the server has of it; `<run>/wandb/sync.json`."""

    init: dict[str, Any]
    """Arguments of `wandb.init`: project, entity, id, name, group, job_type, tags."""
    folder: str
    """Where the run lay when its segments were written: they hold full paths of tables and artifacts."""
    segments: list[str] = field(default_factory=list)
    """Names of the folders below wandb/, one per start of the run."""
    ended: bool = False
    """The last segment was closed, so that its file is complete."""
    lost: str | None = None
    """Why W&B stopped in the middle of the run; null: it did not."""
    written: str | None = None
    """Fingerprint of the figures that the last segment holds."""
    pushed: str | None = None
    """Fingerprint of the figures that the server has; null: not sent, or not known to have arrived."""
    model: dict[str, Any] | None = None
    """Settings of the model artifact; null: none was asked for."""

    def write(self, folder: Path) -> None:
        atomic_write_json(folder / NOTE, asdict(self))

    def is_whole(self, folder: Path) -> bool:
        """Does one local segment hold all of the run, so that it can be sent as it is?"""
        unmoved = self.folder == str(folder.resolve())
        return self.ended and self.lost is None and len(self.segments) == 1 and unmoved


def read_note(folder: Path) -> Note | None:
    """The note of a run; None where W&B was not used, or by an older version."""
    path = folder / NOTE
    if not path.exists():
        return None
    try:
        return Note(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ProjectError(
            f"{path}: cannot be read ({error}); delete it, then src.sync sends the run anew from its files."
        ) from error


def identity(folder: Path, fields: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `wandb.init` that say where a run belongs.

    Args:
        folder: of the run; its path gives the id, so that every start of a run has the same one.
        fields: of the record.
        node: settings of the logger: project, entity, group, tags.
    """
    config = fields["config"]
    model = (config.get("model") or {}).get("backbone") or {}
    tags = [
        *(node.get("tags") or []),
        *[text for text in (fields.get("experiment"), fields.get("arm")) if text],
        *([Path(str(model["checkpoint"])).name] if model.get("checkpoint") else []),
    ]
    return {
        "project": node["project"],
        "entity": node.get("entity"),
        "id": hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12],
        "name": folder.name,
        "group": node.get("group"),
        "job_type": "trial" if config.get("trial") else "train",
        "tags": list(dict.fromkeys(str(tag)[:_TAG] for tag in tags)),
    }


def config(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """W&B's config of a run: the resolved one nested, its provenance as `record`, run.json and intervals as text."""
    data, code, machine = (fields.get(key) or {} for key in ("data", "code", "machine"))
    main = {k: v for k, v in (fields.get("packages") or {}).items() if k in MAIN_PACKAGES}
    record = {
        "experiment": fields.get("experiment"),
        "config_hash": fields.get("config_hash"),
        "data_hash": data.get("data_hash"),
        "split_hash": data.get("split_hash"),
        "instruction_hash": (data.get("instruction") or {}).get("hash"),
        "code_sha": code.get("sha"),
        "code_dirty": code.get("dirty"),
        "command": fields.get("command"),
        "started": fields.get("started"),
        "machine": machine,
        "packages": main,
    }
    text = json.dumps({**fields, "packages": main}, ensure_ascii=False)
    return {**fields["config"], "record": record, RECORD: text, REPORT: json.dumps(_intervals(folder))}


def row(metrics: Mapping[str, float], step: float | None) -> dict[str, float]:
    """A row of W&B's history: the metrics, and the optimizer step that they belong to."""
    return dict(metrics) if step is None else {**metrics, AXIS: int(step)}


def catch_up(run: Any, rows: Sequence[Mapping[str, float]]) -> None:
    """Send those rows of metrics.csv, numbered from 0, that an open W&B run lacks."""
    for number, kept in enumerate(rows):
        if number >= run.starting_step:
            values = {key: value for key, value in kept.items() if key != "step"}
            run.log(row(values, kept.get("step")), step=number, commit=True)


def define_axis(run: Any) -> None:
    """Curves over optimizer steps, as Lightning's logger has them."""
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS, step_sync=True)


def summary(fields: Mapping[str, Any]) -> dict[str, Any]:
    """W&B's summary of a run: its figures under the names of run.json, `cost/…`, `verdict/…`, `state`."""
    out: dict[str, Any] = dict(fields.get("metrics") or {})
    out |= {f"cost/{key}": value for key, value in (fields.get("cost") or {}).items()}
    out |= {f"verdict/{key}": value for key, value in (fields.get("verdict") or {}).items()}
    out |= {"state": fields["state"], "error": fields.get("error")}
    return {key: value for key, value in out.items() if value is not None and not _is_undefined(value)}


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A name for the late figures of a record: equal ones need not be sent again."""
    late = {key: fields.get(key) for key in _LATE}
    return hashlib.sha256(json.dumps(late, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _intervals(folder: Path) -> dict[str, Any]:
    """report.json of a run with nothing but its figures; empty where there is none."""
    path = folder / "report.json"
    if not path.is_file():
        return {}
    try:
        return _figures(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ProjectError(f"{path}: cannot be read as JSON ({error}); it was edited or damaged.") from error


def _figures(node: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in node.items():
        if isinstance(item, Mapping):
            is_figure = "interval" in item and "n" in item
            kept = {k: item[k] for k in _FIGURE if k in item} if is_figure else _figures(item)
            out |= {key: kept} if kept else {}
    return out


def _is_undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
