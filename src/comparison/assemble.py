"""Owns the making of a table: its rows and cells from runs, tests, and what is bold.

In: the plan, its gathered runs, warnings. Out: `Table`. Numbers come from statistics.py, headings from figures.py,
sentences from caption.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

from src.comparison import figures, statistics
from src.comparison.caption import Basis, caption, commands
from src.comparison.differences import code_of, label
from src.comparison.gather import Gathered
from src.comparison.plan import Plan
from src.comparison.run import IMPORTED, Run, is_number
from src.comparison.statistics import ALPHA, Sample
from src.comparison.table import Cell, Column, Row, Table
from src.core.errors import ProjectError
from src.evaluation.statistics import holm

NOT_MEASURED = "not measured"
"""Answer of a report whose evaluation left the question out."""
_NO_CELL = Cell(None, None, None, (), (), ())


def table(
    plan: Plan, gathered: Gathered, warnings: Sequence[str], own_command: str, today: date | None = None
) -> Table:
    """The finished table.

    Args:
        plan: what is compared.
        gathered: its runs.
        warnings: what a reader must know beside what `gathered` says.
        own_command: the command that makes this table from the runs.
        today: date in the caption.

    Raises:
        ProjectError: a figure that no run has or that no table knows.
    """
    runs = gathered.runs
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in plan.arms}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    measured = sorted({name for run in runs for name in run.metrics})
    columns = [figures.column(name, measured) for name in plan.metrics]
    for name in plan.metrics:
        if name not in measured:
            figures.refuse_unmeasured(name, measured)
    columns += [one for one in figures.COSTS if any(run.cost.get(one.key) is not None for run in runs)]
    cells = {column.key: _column(column, by_arm, plan.reference) for column in columns}
    rows = tuple(
        Row(
            arm=arm,
            overrides=plan.arms[arm],
            reference=arm == plan.reference,
            cells={column.key: cells[column.key][arm] for column in columns},
            listens=_answers(found, "listens"),
            missing=tuple(gathered.missing.get(arm, ())),
            note=_note(found),
        )
        for arm, found in by_arm.items()
    )
    gaps = [
        f"{row.arm}: no run of it measured {', '.join(lacking)}."
        for row in rows
        if (lacking := [column.name for column in columns if row.cells[column.key].value is None])
    ]
    return Table(
        name=plan.name,
        question=plan.question,
        columns=tuple(columns),
        rows=rows,
        caption=caption(
            plan, rows, columns, runs, _basis(columns, by_arm, plan.reference), today or date.today()
        ),
        compared=plan.compared,
        warnings=(*gathered.warnings, *warnings, *_silent(by_arm), *_broken(runs, plan.metrics), *gaps),
        commands=commands(plan, runs, own_command),
        runs={run.id: f"{label(run)}, {code_of(run)}, {run.command or 'command unknown'}" for run in runs},
    )


def _basis(columns: Sequence[Column], by_arm: Mapping[str, Sequence[Run]], reference: str) -> Basis:
    """What the numbers of each column rest on, for the caption."""
    metrics = [column for column in columns if column.kind == "metric"]
    floored, blind, common = [], [], 0
    for column in metrics:
        samples = {arm: sample(runs, column) for arm, runs in by_arm.items()}
        filled = {arm: one for arm, one in samples.items() if one.values}
        blind += [column.name] if any(one.blind for one in filled.values()) else []
        floored += [column.name] if any(statistics.floor(one) for one in filled.values()) else []
        if column.better is not None and reference in filled:
            tests = [
                statistics.compare(one, filled[reference]) for arm, one in filled.items() if arm != reference
            ]
            common = max([common, *(test.seeds for test in tests if test is not None)])
    return Basis(tuple(floored), tuple(blind), len(metrics), common)


def sample(runs: Sequence[Run], column: Column) -> Sample:
    """The column's value of every run that has it, and the trials behind it where it is a share of such."""
    if column.kind == "cost":
        costs = {int(run.seed or 0): run.cost.get(column.key) for run in runs}
        return Sample({seed: float(value) for seed, value in costs.items() if value is not None}, {})
    values = {
        int(run.seed or 0): float(run.metrics[column.key])
        for run in runs
        if is_number(run.metrics.get(column.key))
    }
    trials = {
        int(run.seed or 0): n
        for run in runs
        if is_number(run.metrics.get(column.key)) and (n := _trials(run, column.key)) is not None
    }
    # Elsewhere in a report the share of a rare class has Wilson's interval in some seeds only: no floor, and no gap.
    silent = any(not run.has_report for run in runs if int(run.seed or 0) in values)
    counted = figures.is_counted(column.key) or (bool(trials) and silent)
    return Sample(values, trials, blind=counted and trials.keys() != values.keys())


def _trials(run: Run, name: str) -> int | None:
    """Yes/no trials behind a share: as the report says; else the episodes asked for, where each decides."""
    own = run.intervals.get(name)
    if own is not None:
        return own.n if own.method.startswith("wilson") else None
    for suite in run.evaluation.get("suites") or []:
        place = f"closed_loop/{suite.get('suite')}/{suite.get('split')}/policy/"
        if name in (f"{place}success", f"{place}collision", f"{place}timeout"):
            return int(suite["episodes"])
    return None


def _broken(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """A sentence for every figure that came out as no number: leaving a seed that diverged out must not be silent."""
    return [
        f"{label(run)}: {name} is {'null' if run.metrics[name] is None else run.metrics[name]}, no number; the mean is "
        "over the other seeds."
        for run in runs
        for name in names
        if name in run.metrics and not is_number(run.metrics[name])
    ]


def _column(column: Column, by_arm: Mapping[str, Sequence[Run]], reference: str) -> dict[str, Cell]:
    """Arm → cell: means, intervals, tests against the reference, and what is bold."""
    samples = {arm: sample(runs, column) for arm, runs in by_arm.items()}
    filled = {arm: one for arm, one in samples.items() if one.values}
    tests: dict[str, statistics.Test] = {}
    if column.better is not None and reference in filled:
        for arm, one in filled.items():
            test = statistics.compare(one, filled[reference]) if arm != reference else None
            if test is not None:
                tests[arm] = test
    tested = [arm for arm, test in tests.items() if test.p is not None]
    corrected = dict(zip(tested, holm([tests[arm].p or 0.0 for arm in tested]), strict=True))
    verdicts = {arm: _verdict(column, arm, reference, tests, corrected) for arm in samples}
    bold = _bold(column, filled, verdicts)
    return {
        arm: _cell(column, by_arm[arm], samples[arm], tests.get(arm), corrected.get(arm), verdicts[arm], arm in bold)
        for arm in samples
    }  # fmt: skip


_Verdict = Literal["better", "worse", "open", "reference", "untested"]


def _verdict(
    column: Column,
    arm: str,
    reference: str,
    tests: Mapping[str, statistics.Test],
    corrected: Mapping[str, float],
) -> _Verdict:
    if arm == reference:
        return "reference"
    if arm not in corrected:
        return "untested"
    if corrected[arm] >= ALPHA:
        return "open"
    return "better" if (tests[arm].difference > 0) == (column.better == "max") else "worse"


def _bold(column: Column, samples: Mapping[str, Sample], verdicts: Mapping[str, _Verdict]) -> set[str]:
    """Arms in bold, by the rule of `Cell.bold`.

    Whether an arm is below the best is tested without correction, so that one more arm is left plain sooner than bold.
    """
    winners = [arm for arm in samples if verdicts[arm] == "better"]
    others = [verdicts[arm] for arm in samples if verdicts[arm] != "reference"]
    if not winners:
        alone = [arm for arm in samples if verdicts[arm] == "reference"]
        return set(alone) if others and all(one == "worse" for one in others) else set()
    sign = 1 if column.better == "max" else -1
    best = max(winners, key=lambda arm: sign * statistics.mean(samples[arm]))
    bold = {best}
    for arm in winners:
        test = statistics.compare(samples[arm], samples[best]) if arm != best else None
        if test is not None and (test.p is None or test.p >= ALPHA):
            bold.add(arm)
    return bold


def _cell(
    column: Column,
    runs: Sequence[Run],
    data: Sample,
    test: statistics.Test | None,
    p: float | None,
    verdict: _Verdict,
    bold: bool,
) -> Cell:
    if not data.values:
        return _NO_CELL
    seeds = tuple(sorted(data.values))
    ids = {int(run.seed or 0): run for run in runs}
    low = high = None
    basis: Literal["seeds", "run"] | None = None
    if column.kind == "metric":
        between = statistics.interval(data, figures.bounds(column.key))
        own = ids[seeds[0]].intervals.get(column.key) if len(seeds) == 1 else None
        if between is not None:
            (low, high), basis = between, "seeds"
        elif own is not None and own.low is not None and own.high is not None:
            low, high, basis = own.low, own.high, "run"
    scale = column.scale
    return Cell(
        value=statistics.mean(data) * scale,
        low=None if low is None else low * scale,
        high=None if high is None else high * scale,
        seeds=seeds,
        values=tuple(data.values[seed] * scale for seed in seeds),
        runs=tuple(ids[seed].id for seed in seeds),
        difference=None if test is None else test.difference * scale,
        p=p,
        verdict=verdict if column.kind == "metric" and column.better is not None else "untested",
        basis=basis,
        bold=bold and column.kind == "metric",
    )


def _answers(runs: Sequence[Run], question: str) -> str:
    """`3 of 3`, `2 of 3, 1 not decided`, `2 of 2, 1 not measured`; empty where no report asked."""
    given = Counter(str(run.verdict[question]) for run in runs if run.verdict.get(question))
    total = sum(given.values()) - given[NOT_MEASURED]
    if not total:
        return NOT_MEASURED if given else ""
    others = [f"{count} {answer}" for answer, count in sorted(given.items()) if answer not in ("yes", "no")]
    return ", ".join([f"{given['yes']} of {total}", *others])


def _silent(by_arm: Mapping[str, Sequence[Run]]) -> list[str]:
    """A sentence for every arm with a run whose report says that it does not listen or does not look."""
    sentences = []
    for key, words in (("listens", "does not listen to its instruction"), ("looks", "does not look")):
        found = {
            arm: [run.seed for run in runs if run.verdict.get(key) == "no"] for arm, runs in by_arm.items()
        }
        listed = [f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in found.items() if seeds]
        sentences += [f"By its own report {words}: {'; '.join(listed)}."] if listed else []
    return sentences


def _note(runs: Sequence[Run]) -> str:
    if not any(run.state == IMPORTED for run in runs):
        return ""
    known = {
        "config": all(run.config for run in runs),
        "code": all(run.code.get("sha") for run in runs),
        "data": all(run.data.get("data_hash") for run in runs),
    }
    unknown = [name for name, is_known in known.items() if not is_known]
    return f"imported: {', '.join(unknown)} unknown" if unknown else "imported"


def require_rows(result: Table) -> None:
    """A table of one row compares nothing.

    Raises:
        ProjectError: fewer than two arms are left.
    """
    if len(result.rows) < 2:
        raise ProjectError(
            f"compare: found runs of {len(result.rows)} arm, expected two or more to compare; run the other arms."
        )
