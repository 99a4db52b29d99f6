"""A comparison's arms, seeds and compared keys, as the sweep and the table both read them."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from src.comparison import definition
from src.comparison.definition import Comparison, compared_keys, followers, is_plan
from src.core.errors import ProjectError

GOOD: dict[str, Any] = {
    "question": "?", "arms": {"a": ["x=1"], "b": []}, "reference": "a", "metrics": ["offline/error"], "seeds": [0, 1]
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": []}}, "found 1, expected two or more"),
        ({"arms": {"a": [], "b/c": []}}, "found the name 'b/c'"),
        ({"reference": "c"}, "comparison.reference: found 'c'"),
        ({"metrics": []}, "comparison.metrics: found none"),
        ({"seeds": []}, "comparison.seeds"),
        ({"seeds": [0, 0]}, "different seeds"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Comparison(**{**GOOD, **change})


def test_jobs_are_all_arms_of_a_seed_before_the_next_seed() -> None:
    jobs = list(Comparison(**GOOD).jobs())
    assert [(arm, seed) for arm, seed, _ in jobs] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert jobs[0][2] == ["x=1", "arm=a", "seed=0"]
    with pytest.raises(ProjectError, match="no such arm"):
        list(Comparison(**GOOD).jobs(arms=["c"]))


def test_compared_keys_are_the_leaves_in_which_arms_differ() -> None:
    configs = {
        "a": {"model": {"rank": 4, "kind": "x"}, "name": "one", "callbacks": {"progress": {"quiet_s": 1}}},
        "b": {"model": {"rank": 8, "kind": "x", "extra": 1}, "name": "two", "callbacks": {"progress": {}}},
    }
    assert compared_keys(configs) == ["model.extra", "model.rank"]


def test_plan_keys_are_whole_names() -> None:
    assert is_plan("logger.csv") and is_plan("callbacks.progress.quiet_s") and is_plan("seed")
    assert not is_plan("names") and not is_plan("callbacks.checkpoint") and not is_plan("data.seed")


def test_leaves_that_follow_the_seed_are_found() -> None:
    cfg = OmegaConf.create({"seed": 3, "data": {"seed": "${seed}", "split": {"seed": 0}, "name": "s${seed}"}})
    assert followers(cfg) == {"data.seed", "data.name"}
    assert cfg.seed == 3


@pytest.mark.slow
def test_the_project_s_own_comparison_composes() -> None:
    comparison, configs = definition.load("lora_placement", ["trainer.max_epochs=1"])
    assert list(configs) == list(comparison.arms)
    assert {config["trainer"]["max_epochs"] for config in configs.values()} == {1}
    keys = compared_keys(configs)
    assert keys and all(key.startswith("model.lora.") for key in keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [("lora_placemnt", "did you mean lora_placement"), ("example", "a single recipe that compares nothing")],
)
def test_what_is_no_comparison_is_refused(name: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        definition.load(name)
