"""A table made from run folders against numbers computed on their own; which arms are bold; what the caption says."""

import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from src.comparison import gather
from src.comparison.assemble import table
from src.comparison.plan import Plan
from src.comparison.table import Table
from src.core.errors import ProjectError
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

ARMS = tuple(records.RANKS)
SEEDS = (0, 1, 2)
Values = dict[str, list[float]]


def made(root: Path, plan: Plan | None = None, allow: tuple[str, ...] = ()) -> Table:
    plan = plan or records.plan()
    found = gather.choose(plan, gather.below(root), allow)
    return table(plan, found, [], "python -m src.compare experiment=ranks", date(2026, 11, 23))


def written(root: Path, success: Values, error: Values, trials: int | None = 100) -> Table:
    for arm in success:
        for seed, (share, wrong) in enumerate(zip(success[arm], error[arm], strict=True)):
            records.write(root, arm, seed, {SUCCESS: share, ERROR: wrong}, trials)
    return made(root)


def expected_half(values: list[float], floor: float) -> float:
    s = max(float(np.std(values, ddof=1)), floor)
    return float(stats.t.ppf(0.975, len(values) - 1)) * s / math.sqrt(len(values))


def floor_of(values: list[float], n: int) -> float:
    q = (n * float(np.mean(values)) + 2) / (n + 4)
    return math.sqrt(q * (1 - q) / (n + 4))


three = st.lists(st.integers(0, 100).map(lambda one: one / 100), min_size=3, max_size=3)
wrongs = st.lists(st.integers(1, 300).map(lambda one: one / 1000), min_size=3, max_size=3, unique=True)


@settings(max_examples=8, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(ARMS, three)), st.fixed_dictionaries(dict.fromkeys(ARMS, wrongs)))
def test_every_number_of_a_table_is_what_scipy_and_statsmodels_say(success: Values, error: Values) -> None:
    with TemporaryDirectory() as folder:
        result = written(Path(folder), success, error)
    for key, data, floors in (
        (SUCCESS, success, {arm: floor_of(success[arm], 100) for arm in ARMS}),
        (ERROR, error, dict.fromkeys(ARMS, 0.0)),
    ):
        others, p_values = [arm for arm in ARMS if arm != "text"], []
        for arm in others:
            differences = np.subtract(data[arm], data["text"])
            s = max(np.std(differences, ddof=1), math.hypot(floors[arm], floors["text"]))
            p_values.append(
                2 * stats.t.sf(abs(differences.mean()) / (s / math.sqrt(3)), 2) if s > 1e-12 else None
            )
        known = [p for p in p_values if p is not None]
        holm = iter(multipletests(known, method="holm")[1]) if known else iter(())
        corrected = dict(zip(others, [None if p is None else next(holm) for p in p_values], strict=True))
        for row in result.rows:
            cell, values = row.cells[key], data[row.arm]
            share = float(np.mean(values))
            half = expected_half(values, floors[row.arm])
            top = 100.0 if key == SUCCESS else math.inf
            assert cell.value == pytest.approx(100 * share)
            assert cell.low == pytest.approx(max(0.0, 100 * (share - half)), abs=1e-6)
            assert cell.high == pytest.approx(min(top, 100 * (share + half)), abs=1e-6)
            assert (cell.seeds, cell.values) == (SEEDS, pytest.approx(tuple(100 * one for one in values)))
            p = corrected.get(row.arm)
            assert cell.p == (None if p is None else pytest.approx(p, rel=1e-6, abs=1e-12))
            if p is not None and abs(p - 0.05) > 1e-9:
                above = (share > np.mean(data["text"])) == (key == SUCCESS)
                assert cell.verdict == ("open" if p >= 0.05 else "better" if above else "worse")
            if cell.bold and not row.reference:
                assert cell.verdict == "better"
            if cell.bold and row.reference:
                assert all(one.cells[key].verdict == "worse" for one in result.rows if not one.reference)


def test_the_order_of_folders_does_not_matter(tmp_path: Path) -> None:
    data = {"small": [0.5, 0.6, 0.55], "large": [0.8, 0.83, 0.9], "text": [0.7, 0.72, 0.6]}
    for name, order in (("one", ARMS), ("two", tuple(reversed(ARMS)))):
        for index, arm in enumerate(order):
            for seed in SEEDS if name == "one" else reversed(SEEDS):
                place = f"{index}{seed}" if name == "two" else None
                records.write(
                    tmp_path / name,
                    arm,
                    seed,
                    {SUCCESS: data[arm][seed], ERROR: 0.1 + seed / 70},
                    place=place,
                )
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert [row.arm for row in one.rows] == list(ARMS)
    for first, second in zip(one.rows, two.rows, strict=True):
        cells = [replace(cell, runs=()) for cell in first.cells.values()]
        assert cells == [replace(cell, runs=()) for cell in second.cells.values()]
    assert one.caption == two.caption


def test_the_clear_winner_is_bold_and_nobody_inside_the_noise(tmp_path: Path) -> None:
    success = {"small": [0.10, 0.11, 0.12], "large": [0.96, 0.97, 0.98], "text": [0.50, 0.52, 0.51]}
    error = {arm: [0.2, 0.3, 0.1] for arm in ARMS}
    cells = {row.arm: row.cells for row in written(tmp_path, success, error, trials=4000).rows}
    assert {arm: cells[arm][SUCCESS].verdict for arm in ARMS} == {
        "small": "worse", "large": "better", "text": "reference"}  # fmt: skip
    assert [arm for arm in ARMS if cells[arm][SUCCESS].bold] == ["large"]
    assert not any(cells[arm][ERROR].bold for arm in ARMS)


def test_the_reference_is_bold_where_all_others_are_worse(tmp_path: Path) -> None:
    success = {"small": [0.10, 0.11, 0.12], "large": [0.20, 0.22, 0.21], "text": [0.90, 0.92, 0.91]}
    error = {"small": [0.30, 0.31, 0.33], "large": [0.1, 0.2, 0.3], "text": [0.02, 0.03, 0.04]}
    result = written(tmp_path, success, error, trials=4000)
    cells = {row.arm: row.cells for row in result.rows}
    assert [arm for arm in ARMS if cells[arm][SUCCESS].bold] == ["text"]
    assert not cells["text"][ERROR].bold  # `large` is open there
    assert cells["small"][ERROR].verdict == "worse"  # an error: more is worse


def test_two_winners_that_differ_from_each_other_are_not_both_bold(tmp_path: Path) -> None:
    success = {"small": [0.70, 0.71, 0.72], "large": [0.96, 0.97, 0.98], "text": [0.20, 0.22, 0.21]}
    error = {arm: [0.2, 0.3, 0.1] for arm in ARMS}
    cells = {row.arm: row.cells for row in written(tmp_path, success, error, trials=4000).rows}
    assert cells["small"][SUCCESS].verdict == cells["large"][SUCCESS].verdict == "better"
    assert [arm for arm in ARMS if cells[arm][SUCCESS].bold] == ["large"]


def test_one_seed_has_its_run_s_own_interval_and_the_caption_says_so(tmp_path: Path) -> None:
    for arm in ARMS:
        records.write(tmp_path, arm, 0, {SUCCESS: 0.5, ERROR: 0.1})
    result = made(tmp_path)
    cell = result.rows[0].cells[SUCCESS]
    assert (cell.low, cell.high, cell.basis) == (pytest.approx(43.0), pytest.approx(56.0), "run")
    assert {row.cells[SUCCESS].verdict for row in result.rows} == {"reference", "untested"}
    assert not any(cell.bold for row in result.rows for cell in row.cells.values())
    assert "that run's own over its episodes" in result.caption and "nothing is bold" in result.caption
    assert "Student" not in result.caption and "paired" not in result.caption


def test_a_report_of_another_measurement_lends_no_interval(tmp_path: Path) -> None:
    for arm in ARMS:
        folder = records.write(tmp_path, arm, 0, {SUCCESS: 0.5, ERROR: 0.1})
        text = (folder / "report.json").read_text().replace('"value": 0.5', '"value": 0.6')
        (folder / "report.json").write_text(text)
    result = made(tmp_path)
    assert {row.cells[SUCCESS].basis for row in result.rows} == {None}
    assert {row.cells[ERROR].basis for row in result.rows} == {"run"}
    assert "No interval where the spread is unknown." in result.caption


def test_an_error_that_no_seed_changes_has_no_interval(tmp_path: Path) -> None:
    result = written(tmp_path, {arm: [0.5, 0.6, 0.7] for arm in ARMS},
                     {"small": [0.1] * 3, "large": [0.2] * 3, "text": [0.3] * 3})  # fmt: skip
    assert {(row.cells[ERROR].basis, row.cells[ERROR].verdict) for row in result.rows} == {
        (None, "untested"), (None, "reference")}  # fmt: skip


def test_costs_are_means_without_tests(tmp_path: Path) -> None:
    result = written(tmp_path, {arm: [0.5, 0.6, 0.7] for arm in ARMS}, {arm: [0.1, 0.2, 0.3] for arm in ARMS})
    assert [column.name for column in result.columns[2:]] == [
        "trainable (M)", "training (min)", "memory (GB)", "step (ms)"]  # fmt: skip
    cell = result.rows[0].cells["train_minutes"]
    assert (cell.value, cell.low, cell.verdict, cell.bold) == (pytest.approx(3.0), None, "untested", False)
    assert result.rows[0].cells["trainable_parameters"].value == pytest.approx(0.25)


def test_an_arm_that_does_not_listen_shows(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in SEEDS:
            answer = (
                "no" if arm == "small" and seed else "not decided" if arm == "large" and not seed else "yes"
            )
            records.write(tmp_path, arm, seed, {SUCCESS: 0.5, ERROR: 0.1 + seed}, verdict__listens=answer)
    result = made(tmp_path)
    assert [row.listens for row in result.rows] == ["1 of 3", "2 of 3, 1 not decided", "3 of 3"]
    assert "By its own report does not listen to its instruction: small (seed 1, 2)." in result.warnings


def test_what_was_not_measured_counts_for_nothing(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in SEEDS:
            answer = "not measured" if arm == "small" or (arm == "large" and seed) else "yes"
            records.write(tmp_path, arm, seed, {SUCCESS: 0.5, ERROR: 0.1 + seed}, verdict__listens=answer)
    assert [row.listens for row in made(tmp_path).rows] == [
        "not measured",
        "1 of 1, 2 not measured",
        "3 of 3",
    ]


def test_why_there_is_no_test_is_said_as_it_is(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in (0, 1):
            records.write(tmp_path / "flat", arm, seed, {ERROR: 0.1})
        records.write(tmp_path / "single", arm, 0, {ERROR: 0.1})
    plan = records.plan(metrics=(ERROR,))
    assert "the common seeds have no spread" in made(tmp_path / "flat", plan).caption
    assert "no arm shares two seeds with text" in made(tmp_path / "single", plan).caption


def test_every_cell_traces_to_its_runs_and_the_caption_names_what_was_fixed(tmp_path: Path) -> None:
    result = written(tmp_path, {arm: [0.5, 0.6, 0.7] for arm in ARMS}, {arm: [0.1, 0.2, 0.3] for arm in ARMS})
    for row in result.rows:
        assert row.cells[SUCCESS].runs == tuple(str(tmp_path / f"{row.arm},seed={seed}") for seed in SEEDS)
        assert all("abcdef0" in result.runs[one] for one in row.cells[SUCCESS].runs)
    for words in ("How large a rank?", "9 runs: 3 arms, seeds 0, 1, 2", "100 episodes per run on full1/layout",
                  "suite version 1", "data d0", "split s0", "words w0", "epochs 2", "code abcdef0", "Holm",
                  "2026-11-23"):  # fmt: skip
        assert words in result.caption
    assert result.commands == (
        "git checkout abcdef0123456789",
        "python -m src.train --multirun experiment=ranks seed=0,1,2",
        "python -m src.compare experiment=ranks",
    )


def test_a_figure_that_one_arm_lacks_is_a_gap_and_said(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in SEEDS:
            figures = {SUCCESS: 0.5 + seed / 10, ERROR: 0.1 + seed} if arm != "small" else {SUCCESS: 0.2}
            records.write(tmp_path, arm, seed, figures)
    result = made(tmp_path)
    assert result.rows[0].cells[ERROR].value is None
    assert "small: no run of it measured error (% of half range)." in result.warnings


def test_a_figure_that_no_run_has_is_refused_with_a_near_name(tmp_path: Path) -> None:
    for arm in ARMS:
        records.write(tmp_path, arm, 0, {SUCCESS: 0.5, ERROR: 0.1})
    with pytest.raises(ProjectError, match=r"no run has a figure offline/eror, did you mean offline/error"):
        made(tmp_path, records.plan(metrics=("offline/eror",)))
    with pytest.raises(ProjectError, match=r"no run has a figure offline/macro_f1"):
        made(tmp_path, records.plan(metrics=("offline/macro_f1",)))


def test_a_seed_that_came_out_as_no_number_is_said(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in SEEDS:
            wrong = math.nan if (arm, seed) == ("small", 1) else 0.1 + seed / 10
            records.write(tmp_path, arm, seed, {SUCCESS: 0.5, ERROR: wrong})
    result = made(tmp_path)
    assert result.rows[0].cells[ERROR].seeds == (0, 2)
    assert (
        "small, seed 1: offline/error is nan, no number; the mean is over the other seeds." in result.warnings
    )
