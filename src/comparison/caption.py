"""Owns the sentences below a table, and the commands that make it again.

In: the plan, the rows with their numbers, the runs. Out: text; every number in it was computed elsewhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from src.comparison.differences import UNKNOWN, code_of
from src.comparison.gather import command
from src.comparison.plan import Plan, quoted
from src.comparison.run import IMPORTED, Run
from src.comparison.table import Column, Row
from src.comparison.trained import alike, length


@dataclass(frozen=True)
class Basis:
    """What the numbers of a table rest on."""

    floored: tuple[str, ...]
    """Headings of the columns whose spread is not taken below the binomial one."""
    blind: tuple[str, ...]
    """Headings of the shares with a run that does not say of how many trials."""
    metrics: int
    """Columns with figures."""
    common_seeds: int
    """The most seeds that an arm shares with the reference."""


def caption(
    plan: Plan, rows: Sequence[Row], columns: Sequence[Column], runs: Sequence[Run], basis: Basis, today: date
) -> str:
    """Question; runs, seeds, episodes, suites; interval and test by name; what bold means; what is held fixed; date."""
    seeds = sorted({run.seed for run in runs if run.seed is not None and run.seed >= 0})
    parts = [plan.question]
    word = "seed" if len(seeds) == 1 else "seeds"
    parts.append(f"{len(runs)} runs: {len(rows)} arms, {word} {_listed(seeds)}{_measured(runs)}.")
    metrics = [column.key for column in columns if column.kind == "metric"]
    cells = [row.cells[key] for row in rows for key in metrics]
    if any(cell.basis == "seeds" for cell in cells):
        of = "a share" if len(basis.floored) == basis.metrics else " and ".join(basis.floored)
        parts.append(
            "Mean over seeds with the 95 % interval of Student's t"
            + (
                f", the spread of {of} not below the binomial one of a run's episodes."
                if basis.floored
                else "."
            )
        )
    if basis.blind:
        parts.append(
            f"No interval and no test over seeds where a run does not say of how many trials: {', '.join(basis.blind)}."
        )
    if any(cell.basis == "run" for cell in cells):
        parts.append(
            "Where there is one seed, the interval is that run's own over its episodes and says nothing of other seeds."
        )
    if any(cell.value is not None and cell.basis is None for cell in cells):
        parts.append("No interval where the spread is unknown.")
    if any(cell.verdict in ("better", "worse", "open") for cell in cells):
        parts.append(
            f"Tests: paired t over common seeds against {plan.reference}, Holm's correction over the arms of a column, "
            "5 %."
        )
        parts.append(
            f"Bold: better than {plan.reference} and not below the best arm, or {plan.reference} where it is better "
            "than every other arm."
        )
    else:
        why = (
            f"no arm shares two seeds with {plan.reference}"
            if basis.common_seeds < 2
            else "the common seeds have no spread that could be judged by"
        )
        parts.append(f"No test: {why}, so nothing is bold.")
    parts += _fewer(rows, columns)
    if not alike(runs):
        parts.append(f"Trained: {length(runs)}.")
    parts.append(f"Held fixed: {_fixed(runs)}.")
    parts.append(f"{today.isoformat()}.")
    return " ".join(parts)


def _fewer(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """`Fewer seeds: vision, success full1 (%): 2.` where a figure lacks some of the runs of its arm."""
    found = []
    for row in rows:
        cells = [(column.name, row.cells[column.key].seeds) for column in columns if column.kind == "metric"]
        most = max((len(seeds) for _, seeds in cells), default=0)
        every = max((len(one.seeds) for one in row.cells.values()), default=0)
        found += [
            f"{row.arm}, {name}: {', '.join(map(str, seeds))}"
            for name, seeds in cells
            if seeds and len(seeds) < max(most, every)
        ]
    return [f"Fewer seeds: {'; '.join(found)}."] if found else []


def _measured(runs: Sequence[Run]) -> str:
    """`; 100 episodes per run on full1/layout (suite version 1)`."""
    settings = [run.evaluation for run in runs if run.evaluation.get("suites")]
    if not settings:
        return ""
    suites = settings[0]["suites"]
    listed = ", ".join(
        f"{one['episodes']} episodes per run on {one['suite']}/{one['split']}" for one in suites
    )
    return f"; {listed} (suite version {settings[0].get('suite_version', UNKNOWN)})"


def _fixed(runs: Sequence[Run]) -> str:
    """What all runs share, in words; what they do not share is left out (it is compared, or in the warnings)."""
    known = [run for run in runs if run.state != IMPORTED]
    shared: dict[str, list[object]] = {
        "data": [run.data.get("data_hash") for run in known],
        "split": [run.data.get("split_hash") for run in known],
        "words": [(run.data.get("instruction") or {}).get("hash") for run in known],
        "base weights": [str((run.base_model or {}).get("fingerprint") or "")[:12] or None for run in known],
        "code": [code_of(run) for run in known],
    }
    parts = [
        f"{name} {values[0]}"
        for name, values in shared.items()
        if len({str(value) for value in values}) == 1 and values[0] not in (None, UNKNOWN)
    ]
    if alike(known) and (trained := length(known)):
        parts.insert(min(3, len(parts)), trained)
    if not parts:
        return "nothing that is recorded"
    of = "" if len(known) == len(runs) else " (imported runs: not recorded)"
    return ", ".join([*parts, f"and every other setting except what is compared or stated as a warning{of}"])


def commands(plan: Plan, runs: Sequence[Run], own_command: str) -> tuple[str, ...]:
    """Checkout, training, table."""
    checkouts = [
        f"git checkout {sha}" for sha in sorted({str(run.code["sha"]) for run in runs if run.code.get("sha")})
    ]
    if any(run.code.get("dirty") for run in runs):
        checkouts = [f"{line}  # and apply <run>/changes.diff" for line in checkouts]
    if plan.experiment is not None:
        seeds = sorted({run.seed for run in runs if run.arm in plan.expected and run.seed is not None})
        trainings = [command(plan, [arm for arm in plan.arms if arm in plan.expected], seeds)]
    else:
        arms = {run.arm: sorted({one.seed or 0 for one in runs if one.arm == run.arm}) for run in runs}
        trainings = [command(plan, [str(arm)], seeds) for arm, seeds in arms.items()]
    return (*checkouts, *trainings, own_command)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if seeds else UNKNOWN


def own_command(**settings: object) -> str:
    """`python -m src.compare experiment=… …` from the settings that are not the default (None, empty, false)."""
    words = []
    for key, value in settings.items():
        if value in (None, [], False, (), {}):
            continue
        words.append(shlex.quote(f"{key}={quoted(value)}"))
    return " ".join(["python -m src.compare", *words])
