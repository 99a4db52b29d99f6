"""The last screen: at most 40 lines of 100 columns, the verdict first, nothing hidden without its name."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from src.evaluation.report import screen
from tests.evaluation.report import sample


def lines(report: dict[str, Any], folder: Path = Path("outputs/some/run")) -> list[str]:
    console = Console(width=screen.WIDTH, file=StringIO())
    screen.show(report, folder, console=console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("make", [sample.full, sample.bad, sample.nothing], ids=["good", "bad", "nothing"])
def test_it_fits_and_says_the_verdict_first(make: Any) -> None:
    report = make()
    shown = lines(report)
    assert len(shown) <= screen.LINES and max(map(len, shown)) <= screen.WIDTH
    assert (report["verdict"]["success"] or "not driven in a simulator") in shown[1]


def test_it_shows_every_part() -> None:
    text = "\n".join(lines(sample.full()))
    for said in (
        "listens: yes, swapping", "looks: yes", "uses its history: no", "no better than: nearest_words", "77 % (71–82)",
        "78 % (65–87) *", "expert", "clock", "left and right swapped", "93 % (86–97)", "no words at all",
        "the mean image",
        "frames of another episode", " ms (p50), ", "report.html", "report.json", "best.mp4",
        "src.evaluate run=outputs/some/run",
    ):  # fmt: skip
        assert said in text, said
    for name in sample.DRIVERS:
        assert name in text, f"{name} is neither shown nor named"


def test_too_few_pairs_are_no_defeat() -> None:
    shown = lines(sample.few())
    text = " ".join(" ".join(shown).replace("│", " ").split())
    assert f"too few to tell: {', '.join(sample.DRIVERS)} (4 episodes)" in text
    assert "no better than" not in text and " *" not in text
    assert "78 % (65–87) ?" in text and "? too few to tell whether the policy is better than this" in text
    assert "error, n=113/6" in text and "n=113/6: 113 counted in 6 independent groups" in text
    assert len(shown) <= screen.LINES


def test_many_suites_are_named_and_recorded_frames_keep_their_column() -> None:
    for count in (1, 2, 3, 8):
        shown = lines(sample.suites(count))
        assert len(shown) <= screen.LINES and max(map(len, shown)) <= screen.WIDTH
        text = " ".join(" ".join(shown).split())
        assert "recorded frames error" in text or "recorded frames" in text.split("driver")[0]
        for name in sample.suites(count)["closed_loop"]:
            assert name in text, (count, name)
        more = {3: "1 more suite in report.html: ", 8: "6 more suites in report.html: "}.get(count)
        assert (more in text) if more else "in report.html: task" not in text


def test_a_part_that_failed_says_why() -> None:
    text = " ".join(" ".join(lines(sample.bad())).replace("│", " ").split())
    assert (
        "failed to measure latency: latency: steps is 0, expected 1 or more; set evaluation.parts.latency.steps."
        in text
    )
    assert "mend and measure: latency failed" in text and "ms (p50)" not in text


def test_probes_of_one_kind_alone_and_unknown_parts() -> None:
    report = sample.full()
    report["probes"]["driven"] = None
    report["babyai"] = {"success": report["offline"]["error"]}
    text = "\n".join(lines(report))
    assert "words changed" not in text and "the mean image" in text and "also measured: babyai" in text
    report["probes"] |= {"driven": sample.full()["probes"]["driven"], "recorded": {}}
    text = "\n".join(lines(report))
    assert "left and right swapped" in text and "changed input" not in text


def test_long_names_are_folded_and_not_cut() -> None:
    folder = Path("outputs") / ("a_rather_long_run_name_" * 6)
    shown = lines(sample.full(), folder)
    assert len(shown) <= screen.LINES + 8
    assert str(folder / "report.html") in "".join(line.strip() for line in shown)
