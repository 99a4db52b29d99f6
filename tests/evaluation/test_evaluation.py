"""A whole evaluation of a small real policy on real demonstrations: report, files, screen, repetition."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from src.evaluation import report as reports
from src.evaluation.evaluator import Evaluation
from src.evaluation.repeat import chosen_device, evaluate_run, merged
from src.evaluation.screen import WIDTH, render, show
from src.sim.collect import collect
from tests.deploy.standins import SPACE, toy_policy

CONF = Path(__file__).resolve().parents[2] / "conf"


def settings(**changes: object) -> Evaluation:
    """conf/evaluation/default.yaml, made small, and otherwise as shipped."""
    cfg = OmegaConf.load(CONF / "evaluation" / "default.yaml")
    small = {
        "suites": ["full1/layout", "reach/layout"],
        "episodes": 4,
        "probe_episodes": 3,
        "baseline_episodes": 3,
        "workers": 1,
    }
    cfg = OmegaConf.merge(cfg, {**small, "video_size": 96, **changes})
    check(cfg)
    return build(cfg)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    folder = tmp_path_factory.mktemp("data")
    collect(folder, suite="full1", episodes=20, image_size=16, workers=1, progress=False)
    module = EpisodeDataModule(
        str(folder), SPACE, MinMaxNormalizer(), EpisodeSampler(4), SplitRule(0.7, 0.3, 0.0), 3, 4, 16
    )
    module.bind(toy_policy().tokenize)
    module.setup("fit")
    return module


@pytest.fixture(scope="module")
def finished(data: EpisodeDataModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("run")
    return run, settings().run(run, toy_policy(), data)


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
    found = figures({key: report[key] for key in ("offline", "closed_loop", "probes")})
    assert len(found) > 150
    for path, figure in found:
        assert set(figure) >= {"value", "low", "high", "n", "interval"}, path
        if figure["n"] and figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], path
    assert report["metrics"]["closed_loop/full1/layout/policy/success"] == pytest.approx(
        report["closed_loop"]["full1/layout"]["policy"]["success"]["value"]
    )
    assert "offline/policy/mae/linear_x" in report["metrics"]
    assert set(report["offline"]["baselines"]) == {
        "majority",
        "mean",
        "repeat_last",
        "clock",
        "random",
        "straight",
    }
    assert report["closed_loop"]["full1/layout"]["expert"]["success"]["value"] == 1
    assert report["verdict"]["line"].startswith("success 0 % (n=4")


def test_the_rollouts_lie_beside_it_and_the_videos_play(finished: tuple[Path, dict]) -> None:
    import av

    run, report = finished
    rows = list(csv.DictReader((run / "rollouts" / "full1-layout.csv").read_text().splitlines()))
    assert len(rows) == 4 + 7 * 3 + 4 * 3  # policy; expert and six baselines; four probes
    episodes = json.loads((run / "rollouts" / "full1-layout.json").read_text())
    assert [e["index"] for e in episodes] == [0, 1, 2, 3]
    assert len(episodes[0]["actions"]) == episodes[0]["steps"] == len(episodes[0]["poses"]) - 1
    assert len(report["files"]["videos"]) == 3
    for name in report["files"]["videos"]:
        with av.open(str(run / name)) as film:
            frames = sum(1 for _ in film.decode(video=0))
        assert frames >= 4 * 6
    assert (run / report["files"]["contact_sheet"]).stat().st_size > 10_000


def test_a_second_evaluation_gets_the_same_figures(
    finished: tuple[Path, dict], data: EpisodeDataModule, tmp_path: Path
) -> None:
    _, first = finished
    second = settings(videos=False, contact_sheet=0).run(tmp_path, toy_policy(), data)
    for key in ("verdict", "offline", "closed_loop", "probes", "metrics"):
        assert second[key] == first[key], key


def test_the_screen_fits_and_says_the_verdict_first(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    run, report = finished
    show(report, Path("outputs/some/run"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= WIDTH
    assert "success 0 %" in lines[1] and "listens: not decided" in lines[2] and "deaf" not in "".join(lines)
    text = "\n".join(lines)
    for word in ("expert", "clock", "left and right swapped", "report.json", "run=outputs/some/run"):
        assert word in text, word
    long = Console(width=WIDTH, file=StringIO())
    long.print(render(report, Path("outputs") / ("a_rather_long_run_name_" * 6)))
    assert len(long.file.getvalue().splitlines()) <= 48  # type: ignore[attr-defined]


def test_offline_only_and_nothing_at_all_say_so(data: EpisodeDataModule, tmp_path: Path) -> None:
    offline = settings(suites=[], probes=[]).run(tmp_path / "a", toy_policy(), data)
    assert offline["closed_loop"] is None and offline["verdict"]["success"] is None
    assert offline["verdict"]["listens"]["answer"] in ("yes", "no", "not decided")
    nothing = settings(suites=[], offline_split=None).run(tmp_path / "b", toy_policy(), data)
    unknown = [f"{what}: not measured" for what in ("listens", "looks", "tells objects apart")]
    assert nothing["verdict"]["line"] == " · ".join(unknown)
    for report in (offline, nothing):
        console = Console(width=WIDTH, file=StringIO())
        show(report, tmp_path, console=console)
        assert "not driven in a simulator" in console.file.getvalue()  # type: ignore[attr-defined]


def test_settings_that_make_no_sense_are_refused_by_name() -> None:
    wrong = {
        "offline_split": "train",
        "probes": ["swaped"],
        "suites": ["full1"],
        "episodes": 0,
        "baselines": ["clok"],
    }
    for key, value in wrong.items():
        with pytest.raises(ProjectError, match=f"evaluation.{key}"):
            settings(**{key: value})


@pytest.mark.parametrize("name", ["default", "quick", "offline", "none"])
def test_every_shipped_evaluation_builds(name: str) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"evaluation={name}"])
    check(cfg.evaluation)
    assert isinstance(build(cfg.evaluation), Evaluation)


def test_a_repetition_takes_the_runs_settings_and_only_the_users_changes() -> None:
    trained = OmegaConf.create(
        {"_target_": "x", "suites": ["a"], "episodes": 7, "seed": 3, "probes": ["blank"]}
    )
    composed = OmegaConf.create({"_target_": "x", "episodes": 50, "seed": 0, "probes": []})
    assert merged(trained, composed, ["run=a"]) == (trained, False)
    changed, is_changed = merged(trained, composed, ["evaluation.episodes=50", "device=cpu"])
    assert is_changed and changed == {**trained, "episodes": 50} and trained.episodes == 7
    assert merged(trained, composed, ["evaluation=quick"]) == (composed, True)
    assert merged(None, composed, []) == (composed, True)
    unmeasured = OmegaConf.create({"_target_": "x", "suites": [], "offline_split": None, "episodes": 9})
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
    with pytest.raises(ProjectError, match="src.evaluate run="):
        reports.read(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 0}')
    with pytest.raises(ProjectError, match="schema_version 0"):
        reports.read(tmp_path)


def test_metrics_are_finite(finished: tuple[Path, dict]) -> None:
    _, report = finished
    assert np.isfinite(list(report["metrics"].values())).all()
