"""Owns the list of runs: what lies below outputs/ and multirun/, in which state, with which figure.

In: folders with run.json (any format) and filters from conf/runs.yaml. Out: a table, JSON lines, one run on a screen,
or why two runs differ. Reads run.json alone, so that hundreds of runs take a second; never writes.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property
from json import dumps
from pathlib import Path
from typing import Any

from src.comparison.listing.where import Condition, parse, refuse_unknown
from src.core.config import did_you_mean
from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.experiment.run_record import FILE, read_record, selected

STATES = ("finished", "failed", "interrupted", "killed", "running", "pruned", "imported")
SORTS = ("started", "run", "state", "arm", "seed", "metric", "minutes")
SECTIONS = (
    "metrics", "verdict", "cost", "evaluation", "training", "checkpoints", "data", "model", "code", "machine",
    "packages", "config",
)  # fmt: skip
NUMBERS = ("wall_s",)
"""Fields of run.json that are a number, or null."""
NOT_YET = ("outputs", "multirun")
"""Folders that the first run makes; any other one that is not there is a typing error."""
_SUCCESS = re.compile(r"closed_loop/.+/policy/success")
_BEST_LOSS = re.compile(r"best/.*loss.*")


class Entry:
    """One run folder and what its run.json says; `problem` is a sentence where that cannot be used."""

    def __init__(self, folder: Path, record: Mapping[str, Any], problem: str | None = None) -> None:
        self.folder, self.record, self.problem = folder, record, problem

    def __getitem__(self, key: str) -> Any:
        """A field of run.json, None where it is not there."""
        return self.record.get(key)

    def section(self, key: str) -> Mapping[str, Any]:
        """A section of run.json, empty where it is not there or null."""
        return self.record.get(key) or {}

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Dotted key → value of every leaf; None where neither run.json nor .hydra/config.yaml tells."""
        if self["config"] is not None:
            return dict(leaves(self["config"]))
        return _composed(self.folder / ".hydra" / "config.yaml")

    @cached_property
    def figures(self) -> dict[str, float]:
        """Everything that can be a metric: `metrics`, the chosen checkpoint's figures, `cost/…`; what is null or no
        number was not measured."""
        cost = {f"cost/{key}": value for key, value in self.section("cost").items()}
        best = self.section("checkpoints").get("best")
        best = selected({"checkpoints": {"best": best if isinstance(best, Mapping) else {}}})
        found = {**cost, **best, **self.section("metrics")}
        return {key: value for key, value in found.items() if isinstance(value, (int, float))}

    @property
    def headline(self) -> str | None:
        """The figure that stands for the run: success on its first suite, else its best loss on validation."""
        suites = self.section("evaluation").get("suites")
        for suite in suites if isinstance(suites, list) else []:
            if isinstance(suite, Mapping):
                name = f"closed_loop/{suite.get('suite')}/{suite.get('split')}/policy/success"
                if name in self.figures:
                    return name
        found = [name for name in self.figures if _SUCCESS.fullmatch(name)]
        found += ["best/val/loss"] if "best/val/loss" in self.figures else []
        found += [name for name in self.figures if _BEST_LOSS.fullmatch(name)]
        return found[0] if found else None

    @property
    def minutes(self) -> float | None:
        """Wall time of all starts together."""
        seconds = self["wall_s"]
        return None if seconds is None else float(seconds) / 60

    @cached_property
    def started(self) -> datetime | None:
        """When its first start began."""
        try:
            at = datetime.fromisoformat(self["started"])
        except (TypeError, ValueError):
            return None
        return at if at.tzinfo else at.replace(tzinfo=timezone.utc)

    @property
    def path(self) -> str:
        """As a command takes it: relative to the working directory where it lies below."""
        return shown(self.folder)


def runs(
    folders: list[str],
    state: str | list[str] | None,
    comparison: str | None,
    arm: str | None,
    seed: int | None,
    where: str | list[str] | None,
    since: float | None,
    metric: str | None,
    sort: str,
    limit: int | None,
    errors: bool,
    json: bool,
    show: str | None,
    diff: list[str] | None,
) -> None:
    """List the runs below `folders`, or show one of them, or how two differ; see conf/runs.yaml for the arguments.

    Raises:
        ProjectError: an unknown state, key, metric or order; a run or folder that is not there; a limit below 0.
    """
    if limit is not None and limit < 0:
        raise ProjectError(f"limit: found {limit}, expected 0 or more lines; limit=null shows all.")
    for folder in folders:
        if folder not in NOT_YET and not Path(folder).is_dir():
            raise ProjectError(f"folders: there is no folder {folder}; correct it, or leave it out.")
    entries = list(find([Path(folder) for folder in folders]))
    if diff is not None:
        from src.comparison.listing.pair import compare

        if len(diff) != 2:
            raise ProjectError(f"diff: found {len(diff)} runs, expected two; write diff=[<run>,<run>].")

        return compare(*(resolve(name, entries) for name in diff))
    chosen = choose(entries, state, comparison, arm, seed, where, since)
    if show is not None:
        from src.comparison.listing.one import screen

        return screen(resolve(show, chosen))
    if metric is not None:
        metric = known_metric(metric, chosen)
    ordered = order(chosen, sort, metric)
    kept = ordered if limit is None else ordered[:limit]
    broken = [entry for entry in entries if entry.problem]
    if json:
        for entry in [*kept, *broken]:
            print(dumps(as_json(entry, metric), ensure_ascii=False))
        if len(kept) < len(ordered):
            print(f"{len(kept)} of {len(ordered)} runs; limit=null gives all.", file=sys.stderr)
        return None
    from src.comparison.listing.screen import table

    return table(kept, broken, len(ordered), metric, errors, folders)


# ---------------------------------------------------------------- finding


def find(folders: Sequence[Path]) -> Iterator[Entry]:
    """Every run below `folders`; a run folder's own subfolders and hidden ones are not looked into."""
    seen: set[Path] = set()
    for top in folders:
        for name, below, files in os.walk(top, followlinks=True):
            folder = Path(name)
            real = folder.resolve()
            if real in seen:  # listed already, or a link in a circle
                below.clear()
                continue
            seen.add(real)
            if FILE in files:
                below.clear()
                yield read(folder)
            below[:] = sorted(part for part in below if not part.startswith("."))


def read(folder: Path) -> Entry:
    """The run of a folder; an unusable record becomes its `problem`."""
    try:
        record = read_record(folder)
    except (ProjectError, AttributeError) as error:  # the latter: JSON, but no object
        sentence = str(error) if isinstance(error, ProjectError) else _odd(folder, "no JSON object")
        return Entry(folder, {}, sentence)
    if not isinstance(record.get("state"), str):
        return Entry(folder, {}, _odd(folder, f"state {record.get('state')!r}"))
    for key in SECTIONS:
        if record.get(key) is not None and not isinstance(record[key], Mapping):
            return Entry(folder, {}, _odd(folder, f"{key} {str(record[key])[:40]!r}"))
    for key in NUMBERS:
        if record.get(key) is not None and not _is_number(record[key]):
            return Entry(folder, {}, _odd(folder, f"{key} {str(record[key])[:40]!r}"))
    return Entry(folder, record)


def resolve(name: str, entries: Sequence[Entry]) -> Entry:
    """The run that `name` means: a folder, or a part of exactly one path among `entries`.

    Raises:
        ProjectError: none, several, or one whose record cannot be used.
    """
    if (Path(name) / FILE).exists():
        entry = read(Path(name))
    else:
        paths = {entry.path: entry for entry in entries}
        ends = [path for path in paths if path == name or path.endswith(f"/{name}")]
        found = ends or [path for path in paths if name in path]
        if len(found) != 1:
            nearest = found[:5] or _nearest(name, list(paths))
            near = f": {', '.join(nearest)}." if found else f"; nearest are {', '.join(nearest)}."
            raise ProjectError(
                f"{name}: found {len(found)} such runs, expected one{near if nearest else '; the list is empty.'}"
            )
        entry = paths[found[0]]
    if entry.problem:
        raise ProjectError(entry.problem)
    return entry


def _nearest(name: str, paths: Sequence[str]) -> list[str]:
    """The three paths that are most like `name`, as a whole or by their last folders."""

    def likeness(path: str) -> float:
        tail = "/".join(path.split("/")[-name.count("/") - 1 :])
        return max(SequenceMatcher(None, name, text).ratio() for text in (path, tail))

    return sorted(paths, key=likeness, reverse=True)[:3]


def _is_number(value: object) -> bool:
    """A number that can be ordered: neither a boolean nor NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _odd(folder: Path, found: str) -> str:
    return f"{folder / FILE}: found {found}, expected the record of a run; it was edited or damaged."


def _composed(path: Path) -> dict[str, Any] | None:
    """Flat config of a run whose record keeps none, from what Hydra wrote; a leaf that only Hydra knows stays text."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not path.exists():
        return None
    try:
        cfg = OmegaConf.load(path)
    except Exception:  # whatever a YAML parser says of a damaged file: then the config is not known
        return None
    flat: dict[str, Any] = {}
    for key, raw in leaves(OmegaConf.to_container(cfg)) if isinstance(cfg, DictConfig) else ():
        try:
            value = OmegaConf.select(cfg, key)
            flat.update(
                leaves(OmegaConf.to_container(value), key) if OmegaConf.is_config(value) else [(key, value)]
            )
        except OmegaConfBaseException:
            flat[key] = raw
    return flat


# ---------------------------------------------------------------- choosing and ordering


def choose(
    entries: Sequence[Entry],
    state: str | list[str] | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    seed: int | None = None,
    where: str | list[str] | None = None,
    since: float | None = None,
    now: datetime | None = None,
) -> list[Entry]:
    """The readable runs that pass every filter; `since`: started within so many days before `now`.

    Raises:
        ProjectError: a state, arm or experiment that no run has, or a condition that nobody could meet.
    """
    usable = [entry for entry in entries if not entry.problem]
    states = [state] if isinstance(state, str) else list(state or [])
    for word in states:
        if word not in STATES:
            raise ProjectError(
                f"state={word}: expected one of {', '.join(STATES)}{did_you_mean(word, STATES) or '.'}"
            )
    for key, value in (("experiment", experiment), ("arm", arm)):
        known = sorted({str(entry[key]) for entry in usable if entry[key] is not None})
        if value is not None and usable and value not in known:
            advice = did_you_mean(value, known) or f"; there are {', '.join(known[:12]) or 'none'}."
            raise ProjectError(f"{key}={value}: no run has it{advice}")
    conditions = [parse(text) for text in ([where] if isinstance(where, str) else where or [])]
    if conditions and usable:
        refuse_unknown(conditions, {key for entry in usable for key in entry.config or {}})
    since_when = None if since is None else (now or datetime.now(timezone.utc)) - timedelta(days=since)

    def passes(entry: Entry) -> bool:
        return (
            (not states or entry["state"] in states)
            and (experiment is None or entry["experiment"] == experiment)
            and (arm is None or entry["arm"] == arm)
            and (seed is None or entry["seed"] == seed)
            and (since_when is None or (entry.started is not None and entry.started >= since_when))
            and _meets(entry, conditions)
        )

    return [entry for entry in usable if passes(entry)]


def _meets(entry: Entry, conditions: Sequence[Condition]) -> bool:
    return not conditions or all(condition.holds(entry.config or {}) for condition in conditions)


def known_metric(name: str, entries: Sequence[Entry]) -> str:
    """`name`, where some run has it.

    Raises:
        ProjectError: no run has it; the nearest names are offered.
    """
    known = sorted({key for entry in entries for key in entry.figures})
    if name in known or not known:
        return name
    ends = [key for key in known if key.endswith(f"/{name}")]
    near = ends or get_close_matches(name, known, n=4, cutoff=0.4)
    near += [key for key in known if name.rsplit("/", 1)[-1] in key and key not in near]
    raise ProjectError(f"metric={name}: no run has it; near are {', '.join(near[:5] or known[:5])}.")


def order(entries: Sequence[Entry], sort: str, metric: str | None = None) -> list[Entry]:
    """Sorted by one of `SORTS`, downwards with a minus before it; what has no value, or NaN, comes last either way.

    Raises:
        ProjectError: another order.
    """
    key, down = sort.lstrip("-"), sort.startswith("-")
    if key not in SORTS:
        raise ProjectError(
            f"sort={sort}: expected one of {', '.join(SORTS)}, or with - for downwards{did_you_mean(key, SORTS) or '.'}"
        )

    def value(entry: Entry) -> Any:
        if key == "metric":
            name = metric or entry.headline
            figure = entry.figures.get(name) if name else None
            # Success and loss do not mix: each figure's runs stand together.
            return None if not _is_number(figure) else (figure if metric else (name, figure))
        found = {"started": entry.started, "run": entry.path, "minutes": entry.minutes}.get(key, entry[key])
        if key not in ("seed", "minutes"):
            return found if found is None or key == "started" else str(found)
        if _is_number(found):
            return (0, found, "")
        # A seed that somebody else's run wrote as a word stands after the numbers; NaN is no value.
        return None if found is None or isinstance(found, float) else (1, 0, str(found))

    with_value = [entry for entry in entries if value(entry) is not None]
    without = [entry for entry in entries if value(entry) is None]
    return [*sorted(with_value, key=lambda entry: (value(entry), entry.path), reverse=down), *without]


# ---------------------------------------------------------------- plain forms


def as_json(entry: Entry, metric: str | None = None) -> dict[str, Any]:
    """One line for scripts."""
    if entry.problem:
        return {"run": entry.path, "state": None, "problem": entry.problem}
    name = metric or entry.headline
    code, data = entry.section("code"), entry.section("data")
    fields = (
        "name",
        "experiment",
        "arm",
        "seed",
        "state",
        "stage",
        "error",
        "started",
        "ended",
        "config_hash",
    )
    return {
        "run": entry.path,
        **{key: entry[key] for key in fields},
        "minutes": entry.minutes,
        "metric": name,
        "value": entry.figures.get(name) if name else None,
        "metrics": dict(entry.section("metrics")),
        "cost": dict(entry.section("cost")),
        "verdict": dict(entry.section("verdict")),
        "code": {key: code.get(key) for key in ("sha", "dirty", "diff_sha256")},
        "data": {key: data.get(key) for key in ("data_hash", "split_hash")},
    }


def shown(path: Path) -> str:
    """Relative to the working directory where it lies below, else absolute."""
    full, here = Path(os.path.abspath(path)), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)
