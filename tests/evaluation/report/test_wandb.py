"""What W&B holds of a report, read back from the files of a real offline run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.evaluation.report import media, page, record
from tests.evaluation.report import sample

PUBLISH = """
import os, sys
from pathlib import Path
import wandb
from src.evaluation.report import media, record
from src.experiment import wandb_media
folder, mode = Path(sys.argv[1]), sys.argv[2]
shown = media.gather(record.read(folder), folder)
if mode == "none":
    assert wandb_media.publish(shown) is False
else:
    wandb.init(project="p", dir=folder, mode="offline", settings=wandb.Settings(silent=True, console="off"))
    assert wandb_media.publish(shown) is True
    wandb.finish()
"""


def publish(folder: Path, mode: str = "offline", **environment: str) -> None:
    """In a process of its own, as a training does."""
    command = [sys.executable, "-c", PUBLISH, str(folder), mode]
    home = {
        "HOME": str(folder / "home"),
        "WANDB_SILENT": "true",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**home, **environment})
    assert done.returncode == 0, done.stderr


def inspected(folder: Path, *options: str) -> str:
    run = next((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout


def history(folder: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in inspected(folder).splitlines()]
    rows = [one["history"] for one in records if one["type"] == "history"]
    assert len(rows) == 1, "one row for one report"
    row: dict[str, Any] = {}
    for path, value in rows[0]["item"].items():  # `closed_loop/best.path`: media are nested under their key
        key, _, part = path.partition(".")
        row.setdefault(key, {})[part] = value
    return row


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    report = sample.full()
    sample.write_files(folder, report)
    record.write(folder, report)
    page.write(folder, report, folder)
    publish(folder)
    return folder, report


@pytest.mark.slow
def test_the_summary_holds_every_figure_under_its_own_name(published: tuple[Path, dict[str, Any]]) -> None:
    folder, report = published
    summary = json.loads(inspected(folder, "--summary"))["summary"]
    assert {key: summary.get(key) for key in report["metrics"]} == pytest.approx(report["metrics"])
    assert summary["verdict/listens"] == "yes" and summary["verdict/line"] == report["verdict"]["line"]


@pytest.mark.slow
def test_tables_pictures_films_and_the_page_lie_in_the_run(published: tuple[Path, dict[str, Any]]) -> None:
    folder, report = published
    row = history(folder)
    expected = {
        "closed_loop/contact_sheet": "images/separated",
        "probes/occlusion": "images/separated",
        "report": "html-file",
    }
    expected |= {f"closed_loop/{name}": "video-file" for name in ("best", "median", "worst")}
    tables = {f"tables/{name}": "table-file" for name in media.gather(report, folder).tables}
    assert len(tables) == 11
    assert {key: row[key]["_type"] for key in (expected | tables)} == expected | tables
    home = next((folder / "wandb").glob("offline-run-*")) / "files"
    for key in expected | tables:
        names = row[key].get("filenames") or [row[key]["path"]]
        for name in names:
            assert (home / name).stat().st_size > 0, name
    page_there = (home / row["report"]["path"]).read_text(encoding="utf-8")
    assert page_there == (folder / page.FILE).read_text(encoding="utf-8"), "unchanged by W&B"
    scores = json.loads((home / row["tables/scores"]["path"]).read_text())
    clock = next(line for line in scores["data"] if line[0] == "clock")
    figure = report["baselines"]["closed_loop"]["full1/layout"]["clock"]["success"]
    at = scores["columns"].index("success, full1/layout")
    assert scores["columns"][at + 1 : at + 4] == [
        f"success, full1/layout {part}" for part in ("low", "high", "n")
    ]
    assert clock[at : at + 4] == [figure[key] for key in ("value", "low", "high", "n")]
    confusion = json.loads((home / row["tables/offline/confusion"]["path"]).read_text())
    assert [line[1:] for line in confusion["data"]] == report["offline"]["confusion"]["counts"]


@pytest.mark.slow
def test_nothing_is_written_outside_of_the_run(published: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = published
    cache = folder / "home" / ".cache"
    # What the libraries keep for themselves: W&B's own log, from its start, and the list of fonts.
    own = {cache / "wandb" / "logs", cache / "matplotlib"}
    outside = [path for path in (folder / "home").rglob("*") if path.is_file() and not own & {*path.parents}]
    assert list((folder / "wandb").glob("offline-run-*/artifacts/staging/*")), (
        "what waits for its upload lies in the run"
    )
    assert outside == [], outside


@pytest.mark.slow
def test_without_a_run_of_wandb_nothing_happens(tmp_path: Path) -> None:
    record.write(tmp_path, sample.full())
    publish(tmp_path, "none")
    assert not (tmp_path / "wandb").exists()


def test_gathering_names_what_there_is_and_only_that(tmp_path: Path) -> None:
    report = sample.full()
    empty = media.gather(report, tmp_path)
    assert not empty.pictures and not empty.films and empty.page is None
    sample.write_files(tmp_path, report)
    page.write(tmp_path, report)
    found = media.gather(report, tmp_path)
    assert list(found.pictures) == ["closed_loop/contact_sheet", "probes/occlusion"]
    assert list(found.films) == ["closed_loop/best", "closed_loop/median", "closed_loop/worst"]
    assert (
        found.page == tmp_path / "report.html"
        and found.figures["offline/error"] == report["metrics"]["offline/error"]
    )
    for columns, rows in found.tables.values():
        assert rows and all(len(row) == len(columns) for row in rows)
        assert all(cell is None or isinstance(cell, (str, int, float)) for row in rows for cell in row)
    assert media.gather(sample.nothing(), tmp_path).tables == {}
