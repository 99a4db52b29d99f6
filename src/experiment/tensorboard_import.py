"""Owns turning old TensorBoard folders (Lightning's version_N) into run folders, so that lists and tables show them.

In: folders with events.out.tfevents.* and hparams.yaml. Out: one run folder each, with run.json in state `imported` and
metrics.csv with the curves. Nothing is invented: code, data, packages, machine and whatever else the old folder does
not tell are null. The old folders are only read.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from src.core.config import did_you_mean
from src.core.errors import ProjectError
from src.core.files import atomic_path, atomic_write_json
from src.experiment.csv_logger import FILE as CURVES
from src.experiment.run_record import FILE, config_hash, read_record
from src.experiment.tensorboard_events import Curves, Point, digest, event_files, read_curves
from src.experiment.tensorboard_hparams import json_number, read_hparams
from src.experiment.tensorboard_logger import require_tensorboard

_VALIDATION_LOSS = re.compile(
    r"(.*[/_.])?val(id(ation)?)?[/_.](.*[/_.])?loss([/_.].*)?|(.*[/_.])?loss[/_.]val(id(ation)?)?"
)
"""Names that labs give to it: val_loss, val/loss, valid_loss_epoch, loss/val …"""
_NONE = ("code", "data", "packages", "machine", "model", "verdict", "evaluation", "cost", "memory", "wall_s", "command",
         "overrides", "error", "stage")  # fmt: skip
"""Fields of run.json of which an event file says nothing."""


@dataclass(frozen=True)
class Imported:
    """What became of one old folder."""

    version: str
    """Its path below the source."""
    run: Path
    outcome: str
    """imported | updated | there already | refused"""
    scalars: int
    steps: int | None
    """The last step."""
    note: str = ""


def import_runs(
    source: str,
    to: str,
    names: dict[str, str] | None,
    arms: dict[str, str] | None,
    of: str | None,
    rename: dict[str, str] | None,
) -> list[Imported]:
    """Make a run folder below `to` of every folder below `source` that holds event files.

    Importing the same files again changes nothing; files that have grown, or other options, update the run.

    Args:
        source: a folder with version_* folders at any depth, or one of these.
        to: where the runs go.
        names: old folder (as the table names it) → name of its run; null: the old folder's path.
        arms: old folder → arm of a comparison.
        of: the experiment that all of them belong to.
        rename: old name of a scalar → ours.

    Raises:
        ProjectError: no event files there, a folder or scalar that nothing is called, or two runs of one name.
    """
    require_tensorboard("src.import_tensorboard")
    top, names, arms, rename = Path(source), dict(names or {}), dict(arms or {}), dict(rename or {})
    folders = old_runs(top)
    if not folders:
        raise ProjectError(
            f"source={source}: found no events.out.tfevents.* files, expected a folder with version_* folders."
        )
    versions = {str(f.relative_to(top)) if f != top else top.resolve().name: f for f in folders}
    for option, given in (("names", names), ("arms", arms)):
        for key in given:
            if key not in versions:
                advice = did_you_mean(key, versions) or f"; there are {', '.join(list(versions)[:8])}."
                raise ProjectError(f"{option}.{key}: there is no such folder below {source}{advice}")
    targets = {version: Path(to) / names.get(version, version) for version in versions}
    twice = [str(run) for run in targets.values() if list(targets.values()).count(run) > 1]
    if twice:
        raise ProjectError(
            f"names: {twice[0]} is named twice, expected one folder per run; choose another name."
        )
    known = _imported_before(Path(to))
    done, tags = [], set()
    for version, folder in versions.items():
        try:
            outcome, found = _import_one(
                folder, version, targets[version], known, arms.get(version), of, rename
            )
            tags |= found
        except ProjectError as error:
            outcome = Imported(version, targets[version], "refused", 0, None, str(error))
        done.append(outcome)
    unknown = [old for old in rename if old not in tags]
    if unknown and tags:
        raise ProjectError(
            f"rename.{unknown[0]}: no run has this scalar{did_you_mean(unknown[0], tags) or '.'}"
        )
    return done


def old_runs(top: Path) -> list[Path]:
    """Folders at or below `top` that hold event files; not those inside another such folder (its sub-writers)."""
    if event_files(top):
        return [top]
    below = sorted((path for path in top.glob("*") if path.is_dir()), key=_natural)
    return [folder for path in below for folder in old_runs(path)]


def _natural(path: Path) -> list[Any]:
    """version_2 before version_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _import_one(
    folder: Path,
    version: str,
    run: Path,
    known: Mapping[str, Path],
    arm: str | None,
    experiment: str | None,
    rename: Mapping[str, str],
) -> tuple[Imported, set[str]]:
    """Returns what became of it, and the scalars under their old names.

    Raises:
        ProjectError: damaged or empty files, or another run in the way.
    """
    files = event_files(folder)
    origin = {
        "source": str(folder.resolve()),
        "events_sha256": digest(files),
        "event_files": [path.name for path in files],
        "rename": dict(rename),
    }
    before = read_record(run) if (run / FILE).exists() else None
    old = (before or {}).get("imported_from") or {}
    if before is not None and before["state"] != "imported":
        raise ProjectError(
            f"{run}: holds a run that was trained here; choose another folder with to=<folder>."
        )
    if old and old.get("source") != origin["source"] and old.get("events_sha256") != origin["events_sha256"]:
        raise ProjectError(
            f"{run}: holds the import of {old.get('source')}; name this one with names.{version}=<name>."
        )
    twin = known.get(str(origin["events_sha256"]))
    if twin is not None and twin != run and before is None:
        return Imported(version, twin, "there already", 0, None, "the same event files"), set(rename)
    curves = read_curves(folder)
    scalars = _renamed(curves.scalars, rename, folder)
    record = _record(folder, run, curves, scalars, origin, arm, experiment)
    steps = record["training"]["last_step"]
    note = f"cut at its end: {', '.join(curves.cut)}" if curves.cut else ""
    outcome = "imported" if before is None else "updated"
    if before == record and (run / CURVES).exists():
        outcome = "there already"
    else:
        _write_curves(run / CURVES, _rows(scalars))
        atomic_write_json(run / FILE, record)  # last: a run is there when its record is
    return Imported(version, run, outcome, len(scalars), steps, note), set(curves.scalars)


def _imported_before(to: Path) -> dict[str, Path]:
    """Digest of event files → the run that they became."""
    found: dict[str, Path] = {}
    for path in sorted(to.rglob(FILE)):
        try:
            origin = read_record(path.parent).get("imported_from") or {}
        except ProjectError:
            continue  # the list of runs names it
        if "events_sha256" in origin:
            found.setdefault(str(origin["events_sha256"]), path.parent)
    return found


def show(done: Sequence[Imported]) -> None:
    """One line per old folder, sentences below, and how to look at the runs."""
    rows = [("old folder", "run", "outcome", "scalars", "last step")]
    for one in done:
        rows.append((one.version, str(one.run), one.outcome, str(one.scalars or "–"), str(one.steps or "–")))
    size = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        cells = [text.rjust(size[i]) if i > 2 else text.ljust(size[i]) for i, text in enumerate(row)]
        print("  ".join(cells).rstrip())
    for one in done:
        if one.note:
            print(f"{one.version}: {one.note}")
    if any(one.outcome != "refused" for one in done):
        print("See them with: python -m src.runs state=imported")


# ---------------------------------------------------------------- what the files say


def _renamed(
    scalars: Mapping[str, list[Point]], rename: Mapping[str, str], folder: Path
) -> dict[str, list[Point]]:
    """Under our names; without `hp_metric` where it is the -1 that Lightning puts there for want of a figure."""
    if not any(scalars.values()):
        raise ProjectError(
            f"{folder}: its event files hold no scalars, expected curves; it ended before it logged, leave it out."
        )
    named: dict[str, list[Point]] = {}
    for tag, points in scalars.items():
        if tag == "hp_metric" and all(point.value == -1 for point in points):
            continue
        name = rename.get(tag, tag)
        if name in named or name == "step":
            raise ProjectError(
                f"rename.{tag}: {name} is taken by another column of {folder}; choose another name."
            )
        named[name] = points
    return named


def _record(
    folder: Path,
    run: Path,
    curves: Curves,
    scalars: Mapping[str, list[Point]],
    origin: Mapping[str, Any],
    arm: str | None,
    experiment: str | None,
) -> dict[str, Any]:
    """run.json of an imported run: a function of the old folder and the options alone, so that it can be compared."""
    config, unread = read_hparams(folder / "hparams.yaml")
    points = [point for series in curves.scalars.values() for point in series]
    times = [point.wall_time for point in points]
    metrics: dict[str, Any] = {tag: series[-1].value for tag, series in scalars.items()}
    losses = {tag: _lowest(series) for tag, series in scalars.items() if _VALIDATION_LOSS.fullmatch(tag)}
    best = next((tag for tag in ("val/loss", "val_loss", *losses) if losses.get(tag)), None)
    for tag, lowest in losses.items():
        if lowest is not None:
            metrics[f"best/{tag}"] = lowest.value
    if best is not None and (at := losses[best]) is not None:
        metrics["best/step"] = at.step
        epochs = {point.step: point.value for point in scalars.get("epoch", [])}
        if at.step in epochs:
            metrics["best/epoch"] = int(epochs[at.step])
    checkpoints = sorted(
        str(path.relative_to(folder)) for path in folder.glob("checkpoints/*") if path.is_file()
    )
    return {
        "format": 2,
        "name": run.name,
        "experiment": experiment,
        "arm": arm,
        "state": "imported",
        **dict.fromkeys(_NONE),
        "started": _iso(min(times)),
        "ended": _iso(max(times)),
        "seed": _seed(config),
        "config_hash": config_hash(config) if config else None,
        "config": config,
        "metrics": {key: json_number(value) for key, value in metrics.items()},
        "training": {"last_step": max(point.step for point in points), "monitor": best},
        "checkpoints": {},  # of ours; the old ones stand in imported_from
        "starts": [],
        "imported_from": {
            **origin,
            "cut_files": list(curves.cut),
            "hparams": (folder / "hparams.yaml").exists(),
            "unread_hparams": unread,
            "checkpoints": checkpoints,
            "times": "of the first and last logged value",
        },
    }


def _lowest(series: Sequence[Point]) -> Point | None:
    """The first of the smallest finite values."""
    finite = [point for point in series if abs(point.value) < float("inf")]
    return min(finite, key=lambda point: point.value) if finite else None


def _rows(scalars: Mapping[str, list[Point]]) -> list[dict[str, Any]]:
    """Rows of metrics.csv by step: values logged several times at a step take further rows; `epoch` goes with each."""
    table: dict[int, list[dict[str, Any]]] = {}
    for tag, series in scalars.items():
        if tag == "epoch":
            continue
        for point in series:
            rows = table.setdefault(point.step, [])
            free = next((row for row in rows if tag not in row), None)
            if free is None:
                free = {"step": point.step}
                rows.append(free)
            free[tag] = point.value
    epochs: dict[int, list[float]] = {}
    for point in scalars.get("epoch", []):
        epochs.setdefault(point.step, []).append(point.value)
        table.setdefault(point.step, [{"step": point.step}])
    for step, values in epochs.items():
        for index, row in enumerate(table[step]):
            value = values[min(index, len(values) - 1)]
            row["epoch"] = int(value) if float(value).is_integer() else value
    return [row for step in sorted(table) for row in table[step]]


def _write_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """In the form of csv_logger: `step`, `epoch`, one column per scalar, empty where it was not logged."""
    columns = list(dict.fromkeys(["step", "epoch", *(key for row in rows for key in row)]))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _seed(config: Mapping[str, Any]) -> int | None:
    """`seed` of the hparams, wherever it stands, if it stands at one place."""
    below = [value for key, value in _leaves(config) if key.rsplit(".", 1)[-1] == "seed"]
    found = [config["seed"]] if "seed" in config else below
    return found[0] if len(found) == 1 and type(found[0]) is int else None


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, node)]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
