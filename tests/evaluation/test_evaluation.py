"""A whole evaluation of a small real policy on real demonstrations: report, files, screen, repetition, failure."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.evaluator import FAILED, Evaluation, require_whole
from src.evaluation.repeat import chosen_device, evaluate_run, merged
from src.evaluation.report import record as reports
from src.evaluation.report.screen import WIDTH, render, show
from tests.deploy.standins import toy_policy
from tests.evaluation.benches import demonstrations

CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL = [
    "evaluation.suites=[full1/layout,reach/layout]",
    "evaluation.episodes=4",
    "evaluation.workers=1",
    "evaluation.parts.probes.episodes=3",
    "evaluation.parts.probes.word_episodes=1",
    "evaluation.parts.probes.occlusion_frames=1",
    "evaluation.parts.probes.occlusion_grid=2",
    "evaluation.parts.baselines.episodes=3",
    "evaluation.parts.closed_loop.video_size=96",
    "evaluation.parts.latency.steps=5",
    "evaluation.parts.latency.warmup=1",
]
PARTS = ("offline", "baselines", "closed_loop", "probes", "latency")


def settings(*overrides: str) -> Evaluation:
    """conf/evaluation/default.yaml, made small, and otherwise as shipped."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        none = "evaluation=none" in overrides
        cfg = compose("evaluate", [*(SMALL[:3] if none else SMALL), *overrides])
    check(cfg.evaluation)
    return build(cfg.evaluation)


def without(*parts: str) -> list[str]:
    return [f"evaluation.parts.{name}=null" for name in parts]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return demonstrations(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: EpisodeDataModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("run")
    return run, settings().run(run, toy_policy(), data, run=run)


def figures(node: object, path: str = "") -> list[tuple[str, dict]]:
    if isinstance(node, dict):
        if "interval" in node:
            return [(path, node)]
        return [found for key, item in node.items() for found in figures(item, f"{path}/{key}")]
    return []


def test_the_report_is_what_lies_on_disk_and_every_figure_has_n_and_interval(
    finished: tuple[Path, dict],
) -> None:
    run, report = finished
    assert json.loads((run / "report.json").read_text()) == report == reports.read(run)
    assert report["failed"] == {}
    found = figures({key: report[key] for key in PARTS})
    assert len(found) > 250
    for path, figure in found:
        assert set(figure) >= {"value", "low", "high", "n", "interval"}, path
        if figure["n"] and figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], path
    driven = report["closed_loop"]["full1/layout"]
    assert report["metrics"]["closed_loop/full1/layout/policy/success"] == pytest.approx(
        driven["policy"]["success"]["value"]
    )
    assert driven["expert"]["success"]["value"] == 1
    assert "offline/mae/linear_x" in report["metrics"]
    assert set(report["baselines"]["offline"]) == set(report["baselines"]["closed_loop"]["full1/layout"])
    assert report["verdict"]["line"].startswith("success 0 % (n=4")
    assert np.isfinite(list(report["metrics"].values())).all()
    assert not any(key.startswith("latency") for key in report["metrics"])  # times differ from run to run


def test_the_files_it_names_are_there_and_the_films_play(finished: tuple[Path, dict]) -> None:
    import av

    run, report = finished
    rows = list(csv.DictReader((run / "rollouts" / "full1-layout.csv").read_text().splitlines()))
    assert {row["controller"] for row in rows} >= {"policy", "expert"} and len(rows) == 4 + 4
    episodes = json.loads((run / "rollouts" / "full1-layout.json").read_text())
    assert [e["index"] for e in episodes] == [0, 1, 2, 3]
    assert len(episodes[0]["actions"]) == episodes[0]["steps"] == len(episodes[0]["poses"]) - 1
    named = [
        name for files in report["files"].values() for name in ([files] if isinstance(files, str) else files)
    ]
    assert len(named) > 8
    for name in named:
        assert (run / name).stat().st_size > 0, name
    assert len(report["files"]["videos"]) == 3
    for name in report["files"]["videos"]:
        with av.open(str(run / name)) as film:
            assert sum(1 for _ in film.decode(video=0)) >= 4 * 6


def test_a_second_evaluation_gets_the_same_figures(
    finished: tuple[Path, dict], data: EpisodeDataModule, tmp_path: Path
) -> None:
    run, first = finished
    plainer = ["evaluation.parts.closed_loop.videos=false", "evaluation.parts.closed_loop.contact_sheet=0"]
    second = settings(*plainer).run(tmp_path, toy_policy(), data, run=run)
    for key in ("verdict", "offline", "baselines", "closed_loop", "probes", "metrics"):
        assert second[key] == first[key], key


def test_the_order_of_the_parts_changes_nothing(
    finished: tuple[Path, dict], data: EpisodeDataModule, tmp_path: Path
) -> None:
    run, first = finished
    turned = settings(*without("latency"))
    turned.parts = dict(reversed(turned.parts.items()))
    second = turned.run(tmp_path, toy_policy(), data, run=run)
    assert {key: second[key] for key in turned.parts} == {key: first[key] for key in turned.parts}


def test_the_screen_fits_and_says_the_verdict_first(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    run, report = finished
    show(report, Path("outputs/some/run"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= WIDTH
    assert "success 0 %" in lines[1] and "listens: not decided" in "".join(lines[2:6])
    text = "\n".join(lines)
    for word in ("expert", "another object named", "report.json", "report.html"):
        assert word in text, word
    long = Console(width=WIDTH, file=StringIO())
    long.print(render(report, Path("outputs") / ("a_rather_long_run_name_" * 6)))
    assert len(long.file.getvalue().splitlines()) <= 48  # type: ignore[attr-defined]


def test_offline_only_and_nothing_at_all_say_so(data: EpisodeDataModule, tmp_path: Path) -> None:
    driven = ["evaluation.suites=[]", *without("closed_loop")]
    offline = settings(*driven).run(tmp_path / "a", toy_policy(), data)
    assert "closed_loop" not in offline and offline["verdict"]["success"] is None
    assert offline["verdict"]["listens"]["answer"] in ("yes", "no", "not decided")
    nothing = settings("evaluation=none").run(tmp_path / "b", toy_policy(), data)
    assert nothing["verdict"]["line"].count("not measured") == len(reports.VERDICTS)
    for report in (offline, nothing):
        console = Console(width=WIDTH, file=StringIO())
        show(report, tmp_path, console=console)
        assert "not driven in a simulator" in console.file.getvalue()  # type: ignore[attr-defined]


class Broken(Part):
    """Stands for a part with a bug."""

    def measure(self, bench: Bench) -> Figures:
        raise ZeroDivisionError("no such luck")


class Mine(Part):
    """Stands for a part that a user adds."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def measure(self, bench: Bench) -> Figures:
        return {"answer": self.factor * len(bench.truth.t)}


def test_a_part_that_breaks_loses_no_other_and_is_no_success(data: EpisodeDataModule, tmp_path: Path) -> None:
    evaluation = settings("evaluation.suites=[]", *without("closed_loop", "probes", "latency"))
    evaluation.parts = {"broken": Broken(), **evaluation.parts}
    report = evaluation.run(tmp_path, toy_policy(), data)
    assert report["failed"] == {"broken": "ZeroDivisionError: no such luck"} and report["broken"] is None
    assert report["offline"]["n"] > 0 and "broken" in report["verdict"]["line"]
    assert "no such luck" in (tmp_path / "report.html").read_text()
    with pytest.raises(ProjectError, match="evaluation.parts.broken failed: .*src.evaluate run=here"):
        require_whole(report, Path("here"))
    evaluation.parts.pop("broken")
    whole = evaluation.run(tmp_path, toy_policy(), data)
    assert reports.read(tmp_path) == whole and whole["failed"] == {}
    evaluation.parts = {"broken": Broken(), **evaluation.parts}
    evaluation.run(tmp_path, toy_policy(), data)  # with a hole again: the whole one stays
    assert reports.read(tmp_path) == whole
    assert reports.read(tmp_path / FAILED)["failed"] == report["failed"]


def test_weights_that_saw_another_split_are_no_test(data: EpisodeDataModule, tmp_path: Path) -> None:
    evaluation = settings("evaluation.suites=[]", *without("closed_loop", "baselines", "probes", "latency"))
    mine = {"data_hash": "a", "split_hash": "b"}
    for start, warned in ((None, False), (mine, False), ({**mine, "split_hash": "c"}, True)):
        provenance = {"data": mine, "model": {"init_from": start}}
        role = evaluation.run(tmp_path, toy_policy(), data, provenance)["offline"]["split_role"]
        assert ("init_from" in role) == warned, start


def test_a_part_of_the_users_own_stands_in_the_report(data: EpisodeDataModule, tmp_path: Path) -> None:
    evaluation = settings("evaluation=none", "evaluation.split=val")
    evaluation.parts = {"mine": Mine(2.0)}
    report = evaluation.run(tmp_path, toy_policy(), data)
    assert report["mine"]["answer"] > 0 and "mine" in (tmp_path / "report.html").read_text()
    with pytest.raises(ProjectError, match="evaluation.parts.files"):
        Evaluation(None, [], 1, "en", 1, None, 1, 1, 0, False, {"files": Mine(1.0)})


def test_settings_that_make_no_sense_are_refused_by_name() -> None:
    wrong = {
        "split": "train",
        "parts.probes.driven": "[swaped]",
        "parts.probes.recorded": "[mirored]",
        "suites": "[full1]",
        "episodes": "0",
        "parts.baselines.names": "[clok]",
        "parts.closed_loop.glance_suite": "full1/layout",
        "seed": "-1",
        "batch_size": "0",
        "workers": "0",
        "language": "xx",
        "temporal_ensemble": "-5",
    }
    for key, value in wrong.items():
        with pytest.raises(ProjectError, match=rf"evaluation\.{key.replace('.', '[.]')}"):
            settings(f"evaluation.{key}={value}")


@pytest.mark.parametrize("name", ["default", "quick", "offline", "none"])
def test_every_shipped_evaluation_builds(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"evaluation={name}"])
    check(cfg.evaluation)
    assert isinstance(build(cfg.evaluation), Evaluation)


def test_a_repetition_takes_the_runs_settings_and_only_the_users_changes() -> None:
    part = {"mine": {"n": 1}, "other": {"n": 2}}
    trained = OmegaConf.create({"_target_": "x", "suites": ["a"], "episodes": 7, "seed": 3, "parts": part})
    composed = OmegaConf.create(
        {"_target_": "x", "episodes": 50, "seed": 0, "parts": {"mine": {"n": 5}, "other": None}}
    )
    assert merged(trained, composed, ["run=a"]) == (trained, False)
    changed, is_changed = merged(trained, composed, ["evaluation.episodes=50", "device=cpu"])
    assert is_changed and changed == {**trained, "episodes": 50} and trained.episodes == 7
    added = OmegaConf.merge(composed, {"parts": {"third": {"n": 3}}})
    changed, is_changed = merged(trained, added, ["+evaluation/part@evaluation.parts.third=third"])
    assert is_changed and changed.parts == {**part, "third": {"n": 3}}
    changed, _ = merged(trained, composed, ["evaluation.parts.other=null"])
    assert changed.parts == {"mine": {"n": 1}, "other": None}
    assert merged(trained, composed, ["evaluation=quick"]) == (composed, True)
    assert merged(None, composed, []) == (composed, True)
    unmeasured = OmegaConf.create({"_target_": "x", "suites": [], "parts": {"mine": None}, "episodes": 9})
    assert merged(unmeasured, composed, []) == (composed, True)  # its empty report stays


def test_devices_are_found_or_refused() -> None:
    assert chosen_device("cpu").type == "cpu" and chosen_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpus", "cuda:99", "meta"):
        with pytest.raises(ProjectError, match=f"device={wrong}"):
            chosen_device(wrong)


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    empty = OmegaConf.create({})
    wrong = {
        None: "no run folder",
        str(tmp_path / "x"): "no such folder",
        str(tmp_path): "no run.json",
    }
    for run, said in wrong.items():
        with pytest.raises(ProjectError, match=said) as caught:
            evaluate_run(run, "best", "cpu", None, empty, [])
        assert "\n" not in str(caught.value)
    (tmp_path / "run.json").write_text("{}")
    for name in ("..", ".", "a/b", "../../x"):
        with pytest.raises(ProjectError, match="without slashes"):
            evaluate_run(str(tmp_path), "best", "cpu", name, empty, [])
    with pytest.raises(ProjectError, match="src.evaluate run="):
        reports.read(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 0}')
    with pytest.raises(ProjectError, match="schema_version 0"):
        reports.read(tmp_path)
