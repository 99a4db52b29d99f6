"""Owns what a table is going to compare: its arms, its reference, its figures, and which leaves of a config may differ.

In: an experiment's definition, or run folders with `by` keys. Out: a `Plan`; differences and statistics know no more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.comparison import definition
from src.comparison.run import Run
from src.core.config import did_you_mean
from src.core.errors import ProjectError
from src.core.leaves import leaves

_PLACE = ("experiment", "arm", "seed", "resume", "run_folder")


@dataclass(frozen=True)
class Plan:
    """One table, before its numbers."""

    name: str
    question: str
    arms: Mapping[str, tuple[str, ...]]
    """Name in the table → overrides that make the arm."""
    reference: str
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    """Seeds that every arm should have."""
    may_differ: tuple[str, ...]
    compared: tuple[str, ...]
    """Leaves of the config in which arms may differ; a name covers everything below it."""
    expected: Mapping[str, Mapping[str, Any]]
    """All arms of the definition → leaf → value, as it says today; an arm that is not in it comes from elsewhere."""
    follows: frozenset[str]
    """Leaves that follow the seed."""
    overrides: tuple[str, ...]
    """What was given for all arms."""
    experiment: str | None


def from_experiment(
    name: str, overrides: Sequence[str], arms: Sequence[str] | None = None, reference: str | None = None
) -> Plan:
    """The plan of conf/experiment/<name>.yaml; `arms`: only these, `reference`: another one than the file's.

    Raises:
        ProjectError: an unknown arm, or a reference that is not among the arms.
    """
    comparison = definition.read(name, overrides)
    composed = definition.compose_arms(name, comparison, overrides)
    configs = definition.resolved(composed)
    chosen = {arm: tuple(comparison.arm(arm)) for arm in (comparison.arms if arms is None else arms)}
    return Plan(
        name=name,
        question=comparison.question,
        arms=chosen,
        reference=_reference(reference or comparison.reference, chosen),
        metrics=tuple(comparison.metrics),
        seeds=tuple(comparison.seeds),
        may_differ=tuple(comparison.may_differ),
        compared=tuple(definition.compared_keys(configs)),
        expected={arm: dict(leaves(config)) for arm, config in configs.items()},
        follows=frozenset().union(*map(definition.followers, composed.values())),
        overrides=tuple(overrides),
        experiment=name,
    )


def add_arms(plan: Plan, runs: Sequence[Run]) -> Plan:
    """The plan with the arms of `runs` beside its own; their leaves under `compared` may be anything."""
    names = dict.fromkeys(run.arm for run in runs if run.arm is not None)
    return replace(plan, arms={**plan.arms, **{arm: () for arm in names if arm not in plan.arms}})


def by_values(
    name: str, runs: Sequence[Run], by: Sequence[str], metrics: Sequence[str], reference: str | None
) -> tuple[Plan, list[Run]]:
    """A plan without a definition: arms named by the values of `by` in the runs' configs; the runs with these arms.

    Raises:
        ProjectError: a key that no run has or that does not differ, no reference, no figure.
    """
    found: dict[str, set[str]] = {}
    flat = {run.id: dict(leaves(run.config)) for run in runs}
    known = sorted({key for one in flat.values() for key in one})
    for key in by:
        below = [leaf for leaf in known if covers(key, leaf)]
        if not below:
            raise ProjectError(f"by: no run has a key {key}{did_you_mean(key, known) or '.'}")
        found[key] = {leaf for leaf in below if len({repr(one.get(leaf)) for one in flat.values()}) > 1}
        if not found[key]:
            raise ProjectError(
                f"by: {key} is the same in all {len(runs)} runs, expected what tells the arms apart."
            )
    named = [replace(run, arm=_arm_of(flat[run.id], found)) for run in runs]
    arms: dict[str, tuple[str, ...]] = {}
    for run in sorted(named, key=lambda run: _order(flat[run.id], found)):
        arms.setdefault(str(run.arm), tuple(_words(run, flat[run.id], found)))
    if not metrics:
        measured = sorted({figure for run in runs for figure in run.metrics})
        raise ProjectError(
            "metrics: found none, expected figures of run.json, the deciding one first, e.g. "
            f"{', '.join(measured[:3])}."
        )
    if reference is None:
        raise ProjectError(f"reference: found none, expected the arm to test against: {', '.join(arms)}.")
    words = tuple(shared_overrides(named[0], covered_by=by))
    plan = Plan(
        name=name,
        question=f"What does {' and '.join(by)} change?",
        arms=arms,
        reference=_reference(reference, arms),
        metrics=tuple(metrics),
        seeds=tuple(sorted({run.seed for run in named if run.seed is not None})),
        may_differ=(),
        compared=tuple(by),
        expected={},
        follows=definition.followers(definition.compose_train(named[0].experiment, words)),
        overrides=words,
        experiment=None,
    )
    return plan, named


def shared_overrides(run: Run, covered_by: Collection[str] = ()) -> list[str]:
    """What was typed for all arms of the sweep that this run belongs to, from its recorded overrides."""
    node = run.config.get("comparison") or {}
    own = list((node.get("arms") or {}).get(run.arm, [])) if isinstance(node, Mapping) else []
    words = [word for word in run.overrides if _key(word) not in _PLACE]
    if own and words[-len(own) :] == own:
        words = words[: -len(own)]
    return [word for word in words if not any(covers(key, _key(word)) for key in covered_by)]


def covers(name: str, key: str) -> bool:
    """Is `key` the thing called `name`, or below it?"""
    return key == name or key.startswith(f"{name}.")


def quoted(value: Any) -> str:
    """A value as Hydra's command line takes it: text that its grammar would read as something else stands in quotes."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(quoted, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(one)}" for key, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str) or re.fullmatch(
        r"(?!(?:true|false|null|nan|inf)$)[a-z_][\w./*-]*", value, re.I
    ):
        return str(value)
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].split("@")[0].replace("/", ".")


def _reference(name: str, arms: Collection[str]) -> str:
    if name not in arms:
        raise ProjectError(
            f"reference: found {name!r}, expected one of the table's arms{did_you_mean(name, arms) or ':'} "
            f"{', '.join(arms)}; name another with reference=<arm>."
        )
    return name


def _arm_of(flat: Mapping[str, Any], by: Mapping[str, set[str]]) -> str:
    return ",".join(
        f"{key.rsplit('.', 1)[-1]}={_value(flat, key, differing)}" for key, differing in by.items()
    )


def _value(flat: Mapping[str, Any], key: str, differing: Collection[str]) -> str:
    """A leaf's value; of a node what differs below it, a class by its name."""
    if key in differing:
        return str(flat.get(key))
    parts = {leaf[len(key) + 1 :]: str(flat[leaf]) for leaf in sorted(differing) if leaf in flat}
    if "_target_" in parts:
        return parts["_target_"].rsplit(".", 1)[-1]
    return " ".join(f"{name}:{value}" for name, value in parts.items())


def _order(flat: Mapping[str, Any], by: Mapping[str, set[str]]) -> list[tuple[int, float, str]]:
    """Arms in the order of their values: numbers by size, words by letter."""
    order = []
    for key, differing in by.items():
        value = flat.get(key) if key in differing else _value(flat, key, differing)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        order.append((0, float(value), "") if number else (1, 0.0, str(value)))  # type: ignore[arg-type]
    return order


def _words(run: Run, flat: Mapping[str, Any], by: Mapping[str, set[str]]) -> list[str]:
    """What was typed for this arm; where nothing is recorded, its values."""
    typed = [word for word in run.overrides if any(covers(key, _key(word)) for key in by)]
    return typed or [
        f"{leaf}={quoted(flat[leaf])}"
        for differing in by.values()
        for leaf in sorted(differing)
        if leaf in flat
    ]
