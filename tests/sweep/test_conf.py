"""conf/sweep and conf/hydra/sweeper: every search composes, its space can be read, its settings agree."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src.core.cli import CONF
from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.overrides import root_keys
from src.sweep.objective import read_objectives
from src.sweep.run import Settings, _base, _reported, _text
from src.sweep.samplers import Asked
from src.sweep.space import read_space

GROUP = CONF / "hydra" / "sweeper"
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))


@pytest.fixture(scope="module")
def composed() -> Callable[..., Any]:
    """`composed("sweep=lora", …)`: the whole config with its hydra node, as the sweeper gets it."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from src.core.overrides import register_resolvers

    register_resolvers()

    def whole(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            loader = GlobalHydra.instance().hydra
            assert loader is not None
            return loader.compose_config(
                "train", list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False
            )

    return whole


def settings(config: DictConfig) -> Settings:
    node = {key: value for key, value in config.hydra.sweeper.items() if not str(key).startswith("_")}
    plain = {
        key: OmegaConf.to_container(value)
        if OmegaConf.is_config(value) and key not in ("sampler", "pruner")
        else value
        for key, value in node.items()
    }
    return Settings(**plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_search_composes_and_its_points_are_runs(
    name: str, composed: Callable[..., Any], compose: Any
) -> None:
    config = composed(f"sweep={name}")
    found = settings(config)
    space = read_space(found.params, [f"sweep={name}"])
    objectives = read_objectives(found.objectives, "objectives")
    _reported(found, objectives)
    assert all(space.point(point) for point in found.enqueue)
    # One point far from the defaults; composing takes most of a second.
    last = {key: (dimension.values() or [0.001])[-1] for key, dimension in space.dimensions.items()}
    cfg = compose("train", *space.fixed, *space.overrides(last), "run_folder=somewhere")
    check(cfg, root_keys(CONF, "train"))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_search_says_what_it_costs(name: str) -> None:
    head = (CONF / "sweep" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert "Cost of the tiny default" in head and "min on 2 cores" in head and f"sweep={name}" in head


@pytest.mark.parametrize("name", sorted(path.stem for path in (GROUP / "sampler").glob("*.yaml")))
def test_every_sampler_of_conf_is_built(name: str) -> None:
    node = OmegaConf.load(GROUP / "sampler" / f"{name}.yaml")
    check(node)  # type: ignore[arg-type]
    build(node, Asked(0, read_space({}, ["a=range(1,3)"]), [], 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(path.stem for path in (GROUP / "pruner").glob("*.yaml")))
def test_every_pruner_of_conf_travels_to_the_trial(name: str, compose: Any) -> None:
    """As the override that the sweeper writes; the callback is built from it as src.train does."""
    pruner: Any = OmegaConf.to_container(OmegaConf.load(GROUP / "pruner" / f"{name}.yaml"))
    trial = {
        "_target_": "src.sweep.trial.TrialCallback", "storage": "/it's here/study.journal", "study": "a b",
        "number": 7, "metric": None, "pruner": pruner,
    }  # fmt: skip
    cfg = compose("train", f"++trial={_text(trial)}", "run_folder=somewhere")
    check(cfg, root_keys(CONF, "train"))
    callback = build(cfg.trial)
    assert (callback.storage, callback.study, callback.number) == ("/it's here/study.journal", "a b", 7)
    assert type(callback.pruner) is type(build(OmegaConf.create(pruner)))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep=multi", "hydra/sweeper/pruner=median"], "2 objectives"),
        (["sweep=lora", "hydra.sweeper.report=null"], "hydra.sweeper.report"),
        (["sweep=lora", "hydra.sweeper.report.direction=maximize"], "a pruner looks one way"),
        (["sweep=lora", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials"),
        (["sweep=lora", "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs"),
        (["sweep=lora", "hydra.sweeper.max_failure_rate=2"], "hydra.sweeper.max_failure_rate"),
        (["sweep=lora", "hydra.sweeper.stale_after_s=0"], "hydra.sweeper.stale_after_s"),
        (["sweep=lora", "hydra.sweeper.pruner=median"], "hydra/sweeper/pruner=median"),
    ],
)
def test_settings_that_contradict_each_other(
    overrides: list[str], words: str, composed: Callable[..., Any]
) -> None:
    with pytest.raises(ProjectError) as caught:
        found = settings(composed(*overrides))
        _reported(found, read_objectives(found.objectives, "objectives"))
    assert words in str(caught.value)


def test_an_argument_of_another_type_is_refused_by_its_name(composed: Callable[..., Any]) -> None:
    node = composed("sweep=lora").hydra.sweeper
    check(node)
    wrong = {
        "params": 1, "objectives": "loss", "report": "loss", "n_trials": "abc", "n_jobs": 1.5, "storage": 3,
        "study_name": 4, "max_failure_rate": "often", "enqueue": 0, "stale_after_s": None,
    }  # fmt: skip
    assert set(wrong) == {str(key) for key in node if not str(key).startswith("_")} - {"sampler", "pruner"}
    for key, value in wrong.items():
        other = node.copy()
        other[key] = value
        with pytest.raises(ProjectError, match=f"{key}: found"):
            check(other)


def test_names_and_loggers_do_not_tell_two_searches_apart(composed: Callable[..., Any]) -> None:
    space = read_space({}, ["optimizer.lr=interval(0,1)"])
    known = _base(composed("hydra/sweeper=optuna"), space)
    assert known == _base(composed("hydra/sweeper=optuna", "name=x", "logger=csv", "optimizer.lr=1"), space)
    assert known != _base(composed("hydra/sweeper=optuna", "data.window=3"), space)


def test_the_keys_that_change_no_result_are_those_of_a_resumed_run() -> None:
    from src.experiment import resume
    from src.sweep.run import FREE

    assert set(resume.FREE) <= set(FREE)


def test_nothing_heavy_is_imported_to_find_the_sweeper() -> None:
    """Hydra imports every plugin at every start, also for --help."""
    import subprocess

    code = "import src, sys, hydra_plugins.optuna_sweeper; print({'optuna', 'torch'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
