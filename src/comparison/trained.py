"""Owns how long runs were really trained: a budget in minutes, or a stop for another reason, stands in no config.

In: the runs of a table. Out: a `Difference` where runs that should have trained alike did not; sentences where another
length follows from what is compared or from early stopping; the length in words for the caption.

Seeds of one arm, and arms whose data, trainer and callbacks are set alike, take the same steps. Arms with another
batch plan (window, number of episodes) may take others: that is part of what they are, and said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from src.comparison.definition import is_plan
from src.comparison.differences import UNKNOWN, Difference, label, of_values
from src.comparison.plan import Plan
from src.comparison.run import IMPORTED, Run
from src.core.leaves import leaves

FACTS = ("steps", "epochs", "processes")


def differences(plan: Plan, runs: Sequence[Run]) -> list[Difference]:
    """Lengths that should be equal and are not; early stopping excuses steps and epochs."""
    found = []
    for name in FACTS:
        known = _known(runs, name)
        made = [run for run in runs if run.state != IMPORTED]
        if known and len(known) < len(made):
            who = tuple(sorted(label(run) for run in made if run not in known))
            found.append(Difference(f"training.{name}", "unknown", ((UNKNOWN, who),)))
        strict = [run for run in known if name == "processes" or not stops_early(run)]
        within = [run for arm in dict.fromkeys(run.arm for run in strict) for run in _odd(strict, arm, name)]
        odd = within or [run for group in _groups(plan, strict) if _differ(group, name) for run in group]
        if odd:
            found.append(
                Difference(f"training.{name}", "fact", of_values(odd, _values(odd, name)), bool(within))
            )
    return found


def sentences(plan: Plan, runs: Sequence[Run]) -> list[str]:
    """What a reader must know of lengths that differ and are not refused."""
    refused = {one.key for one in differences(plan, runs) if one.rule == "fact"}
    out = []
    for name in FACTS:
        known = _known(runs, name)
        if f"training.{name}" in refused or not _differ(known, name):
            continue
        why = (
            "early stopping ended some runs before others"
            if name != "processes" and any(stops_early(run) for run in known)
            else "arms with other settings of data or trainer take others"
        )
        one = Difference(name, "fact", of_values(known, _values(known, name)))
        out.append(f"Not all runs were trained with as many {one.sentence()}; {why}.")
    return out


def length(runs: Sequence[Run]) -> str:
    """`epochs 2 (720 steps)`, a range where runs differ, empty where nobody recorded it."""
    epochs, steps = (
        sorted(int(run.training[name]) for run in _known(runs, name)) for name in ("epochs", "steps")
    )
    if not epochs or not steps:
        return ""
    return f"epochs {_span(epochs)} ({_span(steps)} steps)"


def alike(runs: Sequence[Run]) -> bool:
    """Did all runs train for the same number of steps and epochs?"""
    return not any(_differ(_known(runs, name), name) for name in ("steps", "epochs"))


def stops_early(run: Run) -> bool:
    """Has its config a callback that may end the training before its last epoch?"""
    return any(
        key.endswith("_target_") and str(value).endswith("EarlyStopping")
        for key, value in leaves(run.config.get("callbacks") or {})
    )


def _known(runs: Sequence[Run], name: str) -> list[Run]:
    return [run for run in runs if isinstance(run.training.get(name), int) and run.state != IMPORTED]


def _values(runs: Sequence[Run], name: str) -> dict[str, object]:
    return {run.id: run.training[name] for run in runs}


def _differ(runs: Sequence[Run], name: str) -> bool:
    return len({run.training[name] for run in runs}) > 1


def _odd(runs: Sequence[Run], arm: str | None, name: str) -> list[Run]:
    own = [run for run in runs if run.arm == arm]
    return own if _differ(own, name) else []


def _groups(plan: Plan, runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs whose data, trainer and callbacks are set alike."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        own = str(run.config.get("run_folder"))
        kept = {
            key: str(value).replace(own, "RUN")
            for key, value in leaves(run.config)
            if key.split(".")[0] in ("data", "trainer", "callbacks")
            and not is_plan(key)
            and key not in plan.follows
        }
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(run)
    yield from groups.values()


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
