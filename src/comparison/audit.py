"""Owns the refusal of records that contradict themselves: a table prints no figure that its own run disowns.

In: the plan and the runs chosen for its table. Out: a ProjectError that names run and figure, or sentences on what was
allowed. Against whom: the run's report, the hash of its config, what was typed to start it, and the other runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.comparison import figures
from src.comparison.differences import label
from src.comparison.plan import Plan
from src.comparison.run import IMPORTED, Run, is_number
from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.experiment.run_record import config_hash

ALLOWED = ("report", "config_hash", "overrides", "resume")
"""Words of `allow` that this module heeds."""


def audit(plan: Plan, runs: Sequence[Run], allow: Collection[str] = ()) -> list[str]:
    """Sentences on what is allowed or missing; everything else that does not fit stops the table.

    Raises:
        ProjectError: a figure that is no number, is out of its bounds or not the report's; a config that is not the
            one of its hash or of what was typed; a run without its report; a run that is a copy of another.
    """
    for run in runs:
        for name in plan.metrics:
            _figure(run, name)
        _costs(run)
    _copies(runs)
    sentences = []
    for key, found in (("report", _reports(runs)), ("config_hash", _hashes(runs)), ("overrides", _typed(runs)),
                       ("resume", _resumed(runs))):  # fmt: skip
        for sentence in found:
            if key not in allow:
                raise ProjectError(
                    f"{sentence}; run it again, or say that it does not matter with allow=[{key}]."
                )
            sentences.append(f"Allowed: {sentence}.")
    return [*sentences, *_without(plan, runs)]


def unused(allow: Collection[str], accepted: Sequence[str], known: Collection[str]) -> list[str]:
    """A sentence for every word of `allow` that no sentence of `accepted` and no name of `known` has."""
    idle = [
        word
        for word in allow
        if word not in known and not any(f"{word}:" in one or f"{word}." in one for one in accepted)
    ]
    return (
        [f"allow: nothing here differs in {', '.join(idle)}; leave it out, or check the name."]
        if idle
        else []
    )


def _figure(run: Run, name: str) -> None:
    value = run.metrics.get(name)
    where = f"{run.id}/run.json: {name} is {json.dumps(value)}"
    if isinstance(value, (bool, str, list, dict)):
        raise ProjectError(f"{where}, expected a number; it was edited, run it again.")
    if name in run.contradicted:
        said = run.contradicted[name]
        has = where if name in run.metrics else f"{run.id}/run.json: has no {name}"
        raise ProjectError(
            f"{has}, but its report.json says {json.dumps(said)}, expected one figure; one was edited, evaluate "
            f"again with python -m src.evaluate run={run.id}."
        )
    if value is None or not is_number(value):
        return  # came out as no number in the report as well: it is left out, and said
    low, high = figures.bounds(name)
    if not low <= value <= high:
        raise ProjectError(
            f"{where}, expected a figure between {low:g} and {high:g}; it was edited, run it again."
        )


def _costs(run: Run) -> None:
    for column in figures.COSTS:
        value = run.cost.get(column.key)
        if value is not None and (not is_number(value) or value < 0):
            raise ProjectError(
                f"{run.id}/run.json: cost {column.key} is {json.dumps(value)}, expected a number of 0 or more; it was "
                "edited, run it again."
            )


def _copies(runs: Sequence[Run]) -> None:
    """Two trainings never took the same time to the last digit and gave the same figures; a copy does."""
    seen: dict[str, Run] = {}
    for run in runs:
        if run.started is None or not run.metrics or not run.training:
            continue
        same = json.dumps([run.started, run.metrics, run.cost, run.training], sort_keys=True)
        if same in seen:
            raise ProjectError(
                f"{seen[same].id} and {run.id}: both began at {run.started} and have the same times and figures to the "
                "last digit, expected two trainings; one is a copy of the other, move it out of the folder."
            )
        seen[same] = run


def _reports(runs: Sequence[Run]) -> Iterator[str]:
    made = [run for run in runs if run.state != IMPORTED]
    if any(run.has_report for run in made):
        for run in made:
            if not run.has_report:
                yield (
                    f"{run.id}/report.json ({label(run)}): found none that can be read, expected one as the other runs "
                    "have; it says how many trials stand behind a share"
                )


def _hashes(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        if run.config and run.state != IMPORTED and config_hash(run.config) != run.config_hash:
            yield (
                f"{run.id}/run.json: config_hash is {run.config_hash}, expected {config_hash(run.config)}, that of its "
                "config; the config was edited after the run"
            )


def _typed(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        for key, typed, has in _untrue(run):
            yield (
                f"{run.id}/run.json: overrides say {key}={json.dumps(typed)}, its config {json.dumps(has)}, expected "
                "the same; one of them was edited"
            )


def _untrue(run: Run) -> Iterator[tuple[str, Any, Any]]:
    """(key, typed, in the config) of every plain `key=value` that the config does not have."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    flat = dict(leaves(run.config))
    typed: dict[str, Any] = {}
    for word in run.overrides:
        try:
            one = OverridesParser.create().parse_override(str(word))
        except HydraException:
            continue
        if not one.is_delete() and not one.is_sweep_override():
            typed[one.key_or_group] = one.value()
    for key, value in typed.items():
        plain = isinstance(value, (int, float, bool, str)) or value is None
        text = str(getattr(value, "text", value))  # a quoted string
        if key in ("resume", "run_folder") or key not in flat or "${" in text:
            continue
        if (plain or hasattr(value, "text")) and not isinstance(flat[key], (Mapping, list)):
            has = flat[key]
            alike = value == has and isinstance(value, bool) == isinstance(has, bool)
            if not alike and text != str(has):
                yield key, text if hasattr(value, "text") else value, has


def _resumed(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        source, own = run.config.get("resume"), run.config.get("run_folder")
        if source is not None and own and not _is_below(Path(str(source)), Path(str(own))):
            yield (
                f"{run.id}/run.json: resume is {source}, expected null or its own folder {own}; it goes on from "
                "another run's training"
            )


def _is_below(short: Path, whole: Path) -> bool:
    """Do both end alike? One may be relative."""
    count = min(len(short.parts), len(whole.parts))
    return short.parts[-count:] == whole.parts[-count:]


def _without(plan: Plan, runs: Sequence[Run]) -> Iterator[str]:
    """A finished run that lacks a figure which its arm has otherwise."""
    for name in plan.metrics:
        for run in runs:
            others = [one for one in runs if one.arm == run.arm and name in one.metrics]
            if name not in run.metrics and others:
                failed = [str(part) for part in run.verdict.get("failed") or []]
                why = f", its evaluation failed in {', '.join(failed)}" if failed else ""
                yield f"{label(run)}: finished without {name}{why}; the mean is over the other seeds."
