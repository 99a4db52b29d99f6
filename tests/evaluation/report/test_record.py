"""report.json: its schema, the flat figures, the first line, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import ProjectError
from src.evaluation.report import record
from src.evaluation.statistics import Estimate, PairedTest, wilson
from tests.evaluation.report import sample


def figures(node: Any, path: str = "") -> dict[str, float]:
    """Slow reference: every plain estimate with a value, wherever it stands outside of lists and details."""
    if not isinstance(node, dict):
        return {}
    if "interval" in node and "n" in node:
        return {} if node["value"] is None else {path: node["value"]}
    out = {}
    for key, item in node.items():
        if key not in ("scenarios", "phases", "files"):
            out |= figures(item, f"{path}/{key}" if path else key)
    return out


def test_every_estimate_is_a_metric_and_details_are_not() -> None:
    report = sample.full()
    parts = {key: report[key] for key in ("offline", "baselines", "closed_loop", "probes")}
    assert record.metrics(parts) == figures(parts) == report["metrics"]
    found = record.metrics(parts)
    for path in (
        "offline/error", "offline/mae/linear_x", "offline/horizon/1", "offline/trajectory/final_position",
        "baselines/offline/clock/error", "baselines/closed_loop/full1/layout/clock/success",
        "baselines/advantage/offline/clock/difference", "closed_loop/full1/layout/policy/success",
        "probes/recorded/no_image/change", "probes/driven/swapped/changed", "probes/driven/named_object",
    ):  # fmt: skip
        assert path in found, path
    assert not [path for path in found if "scenarios" in path or "phases" in path or "probes/words" in path]


def test_figures_may_be_objects_or_plain_and_empty_ones_stay_out() -> None:
    test = PairedTest(Estimate(0.2, 0.1, 0.3, 9, "bootstrap"), 0.01)
    sections = {
        "a": {"b": wilson(3, 4), "t": test, "count": 7, "list": [wilson(1, 2)]},
        "none": None,
        "e": wilson(0, 0),
    }
    assert (
        record.metrics(sections)
        == record.metrics(record.plain(sections))
        == {"a/b": 0.75, "a/t/difference": 0.2}
    )


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    report = sample.full()
    assert record.read(record.write(tmp_path, report).parent) == report == json.loads(json.dumps(report))
    assert report["schema_version"] == record.SCHEMA_VERSION == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"), ("{", "is no JSON"), ('{"schema_version": 1}', "schema_version 1"),
        ("[]", "schema_version None"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused_in_a_sentence_with_the_fix(
    tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / record.FILE).write_text(content)
    with pytest.raises(ProjectError, match="src.evaluate run=") as caught:
        record.read(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_first_line_names_answers_lost_baselines_and_failures() -> None:
    assert sample.full()["verdict"]["line"] == (
        "success 77 % (n=200, 95 % interval 71–82) on full1/layout · listens: yes · looks: yes · uses its history: no "
        "· tells objects apart: yes · does not beat: nearest_words"
    )
    line = sample.bad()["verdict"]["line"]
    assert "listens: no" in line and line.endswith("FAILED to measure: latency")
    assert sample.nothing()["verdict"]["line"].startswith("listens: not measured · looks: not measured")


def test_sections_are_the_parts_alone() -> None:
    report = sample.bad()
    assert list(record.sections(report)) == ["offline", "baselines", "closed_loop", "probes", "latency"]
    assert record.sections(report)["latency"] is None


def test_rows_become_csv_that_csv_reads() -> None:
    import csv

    rows = [{"a": 1, "b": 'say "x", y'}, {"a": None, "c": 0.123456789, "b": "two\nlines"}]
    back = list(csv.DictReader(record.table(rows).splitlines(keepends=True)))
    assert [row["b"] for row in back] == ['say "x", y', "two\nlines"]
    assert back[1]["a"] == "" and float(back[1]["c"]) == pytest.approx(0.123457)


def test_too_few_to_tell_is_said_apart_from_not_beaten() -> None:
    report = sample.few()
    line = report["verdict"]["line"]
    assert (
        f"too few to tell: {', '.join(sample.DRIVERS)} (4 episodes)" in line and "does not beat" not in line
    )
    recorded_only = {**report["baselines"], "too_few": {"offline": ["clock"], "closed_loop": {}}}
    assert record.too_few({"too_few": ["clock"]}, recorded_only) == "clock (6 groups)"
    assert record.too_few({"too_few": ["elsewhere"]}, recorded_only) == "elsewhere"
    assert record.too_few({"too_few": ["clock"]}) == "clock"
    assert record.too_few({"too_few": []}, recorded_only) == record.too_few({}, None) == ""
    one = PairedTest(Estimate(0.2, None, None, 1, "bootstrap"), 1.0)
    objects = {"too_few": {"offline": ["clock"]}, "advantage": {"offline": {"clock": one}}}
    assert record.too_few({"too_few": ["clock"]}, objects) == "clock (1 group)"
