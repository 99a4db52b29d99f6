"""What is refused before anything is trained or measured, and what a finished run advises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.data.episode import write_episode
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from src.evaluation import checks, repeat
from src.evaluation.evaluator import Evaluation
from src.experiment.checkpoint import checkpoint_path, write_checkpoint
from src.sim.collect import collect
from tests.data.builders import make_episode
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.test_evaluation import settings, without


def opened(folder: Path) -> EpisodeDataModule:
    split = SplitRule(0.7, 0.3, 0.0)
    module = EpisodeDataModule(str(folder), SPACE, MinMaxNormalizer(), EpisodeSampler(4), split, 3, 4, 16)
    module.setup("fit")
    return module


def recorded(folder: Path, split: str, episodes: int = 6) -> EpisodeDataModule:
    collect(folder, "full1", split, episodes, image_size=16, workers=1, progress=False)
    return opened(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return recorded(tmp_path_factory.mktemp("train"), "train")


def refusal(evaluation: Evaluation, datamodule: Any, horizon: int = 4) -> str:
    with pytest.raises(ProjectError) as caught:
        evaluation.check(horizon, datamodule)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_settings_pass(data: EpisodeDataModule) -> None:
    settings().check(4, data)


def test_training_on_the_test_tasks_is_refused_before_and_after(tmp_path: Path) -> None:
    cheated = recorded(tmp_path / "data", "layout")
    said = refusal(settings(), cheated)
    assert "4 of the 4 tasks of full1/layout" in said and "data.source.split=train" in said
    settings("evaluation.suites=[reach/layout,full1/look]").check(4, cheated)  # other tasks
    with pytest.raises(ProjectError, match="4 of the 4 tasks"):
        settings().run(tmp_path / "run", toy_policy(), cheated)
    assert not (tmp_path / "run").exists()
    assert checks.recorded_tasks(cheated.episodes("train") + cheated.episodes("val")) == {
        ("full1", "layout", index) for index in range(6)
    }


def test_what_does_not_fit_policy_or_data_is_refused_by_name(data: EpisodeDataModule) -> None:
    assert "evaluation.execute is 5" in refusal(settings("evaluation.execute=5"), data)
    assert "evaluation.execute is 0" in refusal(settings("evaluation.execute=0"), data)
    assert "temporal_ensemble" in refusal(
        settings("evaluation.execute=2", "evaluation.temporal_ensemble=0.1"), data
    )
    assert "data has no test split" in refusal(settings("evaluation.split=test"), data)
    deafened = replace(SPACE, classes={"stop": (0, 0, 0)})
    no_forward = SimpleNamespace(action_space=deafened, episodes=data.episodes, image_size=16)
    assert "'forward'" in refusal(settings(), no_forward)
    settings("evaluation.parts.baselines.names=[mean]").check(4, no_forward)
    two = replace(SPACE, names=("linear_x", "linear_z", "angular_z"))
    other = SimpleNamespace(action_space=two, episodes=data.episodes, image_size=16)
    assert "linear_x, linear_z, angular_z" in refusal(settings(), other)
    settings("evaluation.suites=[]", *without("closed_loop", "baselines", "offline")).check(4, other)


def a_run(folder: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, data: Path) -> Path:
    """A run folder whose checkpoint says that it was trained on `manifest`, and whose policy loads."""
    (folder / "checkpoints").mkdir(parents=True)
    fields = dict.fromkeys(("name", "command", "started", "seed", "code", "machine"))
    empty = dict.fromkeys(("packages", "checkpoints", "data", "model", "training", "memory"), {})
    (folder / "run.json").write_text(json.dumps({"state": "finished", **fields, **empty}))
    about = {"data": manifest}
    write_checkpoint(checkpoint_path(folder, "best"), {"state_dict": {"x": torch.zeros(1)}, "about": about})
    cfg = OmegaConf.create({"data": {"root": str(data)}})
    monkeypatch.setattr(repeat, "load_policy", lambda run, which: (toy_policy(), cfg))
    evaluation = settings("evaluation.suites=[]", *without("closed_loop", "baselines", "probes", "latency"))
    monkeypatch.setattr(repeat, "build", lambda node: opened(data) if "root" in node else evaluation)
    return folder


def test_a_run_is_only_measured_on_the_data_it_was_trained_with(
    data: EpisodeDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = data.manifest()
    same = a_run(tmp_path / "same", manifest, monkeypatch, data.root)
    report, out = repeat.evaluate_run(str(same), "best", "cpu", None, OmegaConf.create({}), [])
    assert report["offline"]["split_role"] == "val, which also chose the checkpoint"
    assert out.parent == same / "evaluations" and out.name.startswith("custom-")
    for key in ("data_hash", "split_hash"):
        run = a_run(tmp_path / key, {**manifest, key: "0123456789abcdef"}, monkeypatch, data.root)
        with pytest.raises(ProjectError, match="0123456789ab.*restore the folder and its split file") as said:
            repeat.evaluate_run(str(run), "best", "cpu", None, OmegaConf.create({}), [])
        assert "\n" not in str(said.value) and not (run / "evaluations").exists()
    words = manifest["instruction"]
    run = a_run(
        tmp_path / "words", {**manifest, "instruction": {**words, "hash": "0" * 16}}, monkeypatch, data.root
    )
    with pytest.raises(
        ProjectError, match=f"with the instructions 0{{12}}, but .* has {words['hash'][:12]}; restore"
    ) as said:
        repeat.evaluate_run(str(run), "best", "cpu", None, OmegaConf.create({}), [])
    assert "\n" not in str(said.value) and not (run / "evaluations").exists()
    older = {key: value for key, value in words.items() if key != "hash"}
    checks.check_same_data(
        run, {**manifest, "instruction": older}, manifest
    )  # does not say what its words were


@pytest.mark.parametrize(
    ("state", "stage", "failed", "mended"),
    [
        ("failed", "evaluation", {}, True),
        ("running", "evaluation", {}, True),  # and nobody holds the run: it was killed
        ("failed", "evaluation", {"probes": "broke"}, False),
        ("failed", "training", {}, False),
        ("finished", "evaluation", {}, False),
    ],
)
def test_a_whole_evaluation_mends_a_run_that_stopped_in_it(
    tmp_path: Path, state: str, stage: str, failed: dict[str, str], mended: bool
) -> None:
    before = {
        "state": state,
        "stage": stage,
        "error": "x",
        "metrics": {},
        "checkpoints": {"best": {"step": 3}},
        "model": {"trainable": 5},
        "training": {"step_seconds": 120.0},
        "memory": {},
        "wall_s": 180.0,
    }
    (tmp_path / "run.json").write_text(json.dumps(before))
    repeat.mend(tmp_path, {"failed": failed, "metrics": {"a": 1.0}})
    after = json.loads((tmp_path / "run.json").read_text())
    if mended:
        assert (after["state"], after["error"]) == ("finished", None)
        assert after["metrics"] == {"best/step": 3, "a": 1.0}
        assert after["cost"]["trainable_parameters"] == 5 and after["cost"]["train_minutes"] == 2.0
    else:
        assert after == before


def test_one_sentence_for_all_is_said_to_be_the_reason(
    data: EpisodeDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.bind(toy_policy().tokenize)
    for episode in data.episodes("val"):
        monkeypatch.setattr(episode, "meta", replace(episode.meta, instructions=("go",)))
    verdict = settings("evaluation.suites=[]", *without("closed_loop")).run(tmp_path, toy_policy(), data)[
        "verdict"
    ]
    assert verdict["listens"]["answer"] == "not measured"
    assert "all recorded episodes share one sentence" in verdict["listens"]["words"]


@pytest.mark.parametrize(("near_duplicates", "groups"), [(True, 5), (False, 10)])
def test_intervals_redraw_the_groups_of_the_split(tmp_path: Path, near_duplicates: bool, groups: int) -> None:
    """Each drive is there twice, in files of different groups; counted twice, intervals would be too narrow."""
    for i in range(20):
        one = make_episode(f"e{i:02}", 4, 16, control_period=SPACE.control_period)
        again = make_episode(
            f"f{i:02}", 4, 16, frames=one.frames ^ 1, actions=one.actions, control_period=SPACE.control_period
        )
        for episode in (one, again):
            write_episode(tmp_path / f"{episode.id}.h5", episode)
    split = SplitRule(0.5, 0.25, 0.25, near_duplicates=near_duplicates)
    sampler = EpisodeSampler(4)
    module = EpisodeDataModule(str(tmp_path), SPACE, MinMaxNormalizer(), sampler, split, 3, 4, 16)
    module.setup("fit")
    module.bind(toy_policy().tokenize)
    only = settings("evaluation.suites=[]", *without("closed_loop", "baselines", "probes", "latency"))
    scored = only.run(tmp_path / "run", toy_policy(), module)["offline"]
    assert scored["n"] == 40 and scored["groups"] == scored["error"]["clusters"] == groups
