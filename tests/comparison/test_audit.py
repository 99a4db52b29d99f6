"""Records that contradict themselves, their report or each other make no table."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.comparison import gather
from src.comparison.assemble import table
from src.comparison.audit import audit, unused
from src.core.errors import ProjectError
from src.experiment.run_record import config_hash
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

ARMS = tuple(records.RANKS)
VICTIM = "large,seed=1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, arm in enumerate(ARMS):
        for seed in (0, 1, 2):
            figures = {SUCCESS: round(0.3 + 0.2 * index + seed / 50, 2), ERROR: 0.4 - index / 10 - seed / 100}
            records.write(tmp_path, arm, seed, figures)
    return tmp_path


def edit(root: Path, change: Callable[[dict[str, Any]], Any], run: str = VICTIM) -> None:
    path = root / run / "run.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def told(root: Path, *allow: str) -> list[str]:
    plan = records.plan()
    return audit(plan, gather.choose(plan, gather.below(root)).runs, allow)


def test_honest_runs_need_no_word(root: Path) -> None:
    assert told(root) == []


@pytest.mark.parametrize("value", [0.95, 76.0, True, "0.9", [0.5], None])
def test_an_edited_figure_is_refused_with_run_figure_and_both_values(root: Path, value: object) -> None:
    edit(root, lambda one: one["metrics"].update({SUCCESS: value}))
    with pytest.raises(ProjectError, match=rf"{VICTIM}/run\.json: {SUCCESS} is ") as caught:
        told(root)
    assert json.dumps(value) in str(caught.value)
    if not isinstance(value, (bool, str, list)):
        assert "its report.json says 0.52" in str(caught.value)


def test_a_figure_taken_out_is_refused_where_the_report_has_it(root: Path) -> None:
    edit(root, lambda one: one["metrics"].pop(SUCCESS))
    with pytest.raises(ProjectError, match=r"has no closed_loop.* its report\.json says 0\.52"):
        told(root)


def test_a_share_above_one_is_refused_even_where_no_report_says_better(root: Path) -> None:
    for path in root.glob("*/report.json"):
        path.unlink()
    assert told(root) == []
    edit(root, lambda one: one["metrics"].update({SUCCESS: 76.0}))
    with pytest.raises(ProjectError, match=r"is 76\.0, expected a figure between 0 and 1"):
        told(root)


def test_what_came_out_as_no_number_in_run_and_report_is_no_edit(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in (0, 1):
            records.write(tmp_path, arm, seed, {SUCCESS: 0.5 + seed / 10, ERROR: math.nan if seed else 0.1})
    assert told(tmp_path) == []


def test_a_config_that_is_not_its_hash_is_refused_unless_allowed(root: Path) -> None:
    edit(root, lambda one: one["config"]["trainer"].update(max_epochs=9))
    with pytest.raises(ProjectError, match=rf"{VICTIM}/run\.json: config_hash is .*edited after the run"):
        told(root)
    assert told(root, "config_hash")[0].startswith("Allowed: ")


def test_overrides_that_the_config_does_not_have_are_refused(root: Path) -> None:
    def honest(one: dict[str, Any]) -> None:
        one["overrides"] += [
            "trainer.max_epochs=2",
            "data.root='data/sim'",
            "model=other",
            "+new.key=1",
            "data.window=08",
        ]

    edit(root, honest)
    with pytest.raises(ProjectError, match=r'overrides say data\.window="08", its config 8'):
        told(root)
    edit(root, lambda one: one["overrides"].pop())
    assert told(root) == []
    edit(root, lambda one: one["overrides"].append("trainer.max_epochs=5"))
    with pytest.raises(ProjectError, match=r"overrides say trainer\.max_epochs=5, its config 2"):
        told(root)


def test_a_run_that_goes_on_from_another_is_refused(root: Path) -> None:
    def resumed(source: str) -> Callable[[dict[str, Any]], None]:
        def change(one: dict[str, Any]) -> None:
            one["config"]["resume"] = source
            one["config_hash"] = config_hash(one["config"])

        return change

    edit(root, resumed(str(root / VICTIM)))
    assert told(root) == []
    edit(root, resumed("outputs/other"))
    with pytest.raises(ProjectError, match=r"resume is outputs/other, expected null or its own folder"):
        told(root)
    assert len(told(root, "resume")) == 1


def test_a_copy_under_another_seed_is_refused_and_both_are_named(root: Path) -> None:
    shutil.copytree(root / VICTIM, root / "large,seed=3")

    def relabel(one: dict[str, Any]) -> None:
        one["seed"] = one["config"]["seed"] = one["config"]["data"]["seed"] = 3
        one["overrides"][-1] = "seed=3"
        one["config_hash"] = config_hash(one["config"])

    edit(root, relabel, "large,seed=3")
    with pytest.raises(
        ProjectError, match=r"large,seed=1 and .*large,seed=3: both began at .* one is a copy"
    ):
        told(root)


@pytest.mark.parametrize("damage", ["gone", "{", "[]"])
def test_a_run_without_its_report_is_refused_and_allowed_it_narrows_nothing(root: Path, damage: str) -> None:
    plan = records.plan()
    whole = table(plan, gather.choose(plan, gather.below(root)), [], "x")
    path = root / VICTIM / "report.json"
    path.unlink() if damage == "gone" else path.write_text(damage)
    with pytest.raises(ProjectError, match=r"large,seed=1/report\.json.*: found none.*allow=\[report\]"):
        told(root)
    assert told(root, "report")[0].startswith("Allowed: ")
    after = table(plan, gather.choose(plan, gather.below(root)), [], "x")
    for one, two in zip(whole.rows, after.rows, strict=True):
        assert (one.cells[SUCCESS].low, one.cells[SUCCESS].p) == (
            two.cells[SUCCESS].low,
            two.cells[SUCCESS].p,
        )
    # Without the episodes nobody knows how many trials: no interval and no test, and the caption says so.
    edit(root, lambda one: one["evaluation"].pop("suites"))
    blind = table(plan, gather.choose(plan, gather.below(root)), [], "x")
    cell = blind.rows[ARMS.index("large")].cells[SUCCESS]
    assert (cell.low, cell.p, cell.verdict) == (None, None, "untested")
    assert "does not say of how many trials: success full1 (%)" in blind.caption


def test_a_finished_run_without_a_figure_is_named_with_the_part_that_failed(root: Path) -> None:
    edit(root, lambda one: (one["metrics"].pop(SUCCESS), one["verdict"].update(failed=["closed_loop"])))
    path = root / VICTIM / "report.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key == "offline"})
    )
    assert told(root) == [
        f"large, seed 1: finished without {SUCCESS}, its evaluation failed in closed_loop; the mean is over the other "
        "seeds."
    ]
    plan = records.plan()
    result = table(plan, gather.choose(plan, gather.below(root)), [], "x")
    assert "Fewer seeds: large, success full1 (%): 0, 2." in result.caption


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no mapping"),
        ("{}", "expected format 2"),
        ('{"st', "cannot be read as JSON"),
        ('{"config": {}}', "found no `state`"),
        ('{"config": {}, "state": "finished", "seed": "1"}', 'seed is "1", expected a whole number'),
        ('{"config": {}, "state": "finished", "seed": true}', "seed is true, expected a whole number"),
        ('{"config": {}, "state": "finished", "metrics": [1]}', r"metrics is \[1\], expected a mapping"),
    ],
)
def test_a_damaged_record_is_a_sentence_and_stops_only_its_own_table(
    root: Path, content: str, message: str
) -> None:
    (root / VICTIM / "run.json").write_text(content)
    with pytest.raises(ProjectError, match=rf"{VICTIM}.*{message}"):
        gather.choose(records.plan(), gather.below(root))
    others = records.plan(arms={"small": (), "text": ()})
    (sentence, *_) = [one for one in gather.choose(others, gather.below(root)).warnings if VICTIM in one]
    assert sentence.startswith("Left out: ")


def test_arms_that_nobody_chose_are_not_strangers(root: Path) -> None:
    found = gather.choose(records.plan(arms={"small": (), "text": ()}), gather.below(root))
    assert "Left out, not chosen: large (3)." in found.warnings


def test_a_word_of_allow_that_meets_nothing_is_said() -> None:
    assert unused(
        ["foo.bar", "code", "missing"], ["Allowed to differ: code: 1 (a), 2 (b)."], ["missing"]
    ) == ["allow: nothing here differs in foo.bar; leave it out, or check the name."]
    assert unused(["packages"], ["Allowed to differ: packages.torch: 1 (a), 2 (b)."], []) == []
