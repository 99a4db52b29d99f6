"""Every comparison in conf/experiment: what it says of itself is what it does, and its figures are really measured."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.comparison.definition import Comparison, compared_keys, compose_train, load
from src.comparison.differences import facts_of
from src.comparison.figures import column
from src.comparison.plan import covers
from src.comparison.run import Run, from_folder
from src.core.config import check
from src.core.leaves import leaves
from src.core.overrides import root_keys

CONF = Path(__file__).resolve().parents[2] / "conf"

COMPARED: dict[str, set[str]] = {
    "augmentation": {
        f"data.augmentation.{key}" for key in ("brightness", "contrast", "crop", "mirror", "saturation", "shift")
    },
    "backbone": {"model.backbone", "model.lora", "data.sampler.episodes_per_batch"},
    "data_size": {"data.train_episodes", "trainer.max_epochs"},
    "head": {"model.head"},
    "history": {"model.history._target_", "data.window"},
    "instruction_wording": {"data.instruction.held_out", "data.paraphrase", "model.senses"},
    "lora_placement": {"model.lora"},
    "lora_rank": {"model.lora.rank", "model.lora.alpha", "model.lora.rslora"},
    "precision": {"trainer.precision", "model.backbone.dtype"},
    "sampler": {"data.sampler", "trainer.max_epochs", "trainer.limit_train_batches"},
    "tuning": {"model.lora", "optimizer.lr", "optimizer.head_lr"},
    "window_horizon": {"data.window", "data.horizon"},
}  # fmt: skip
"""Experiment → the keys, or nodes of the config, in which its arms differ: all of them, and nothing else."""

FARTHEST = {
    "augmentation": "mirror",
    "backbone": "convnet_b1",
    "data_size": "n90",
    "head": "flow",
    "history": "interleaved",
    "instruction_wording": "one",
    "lora_placement": "everywhere",
    "lora_rank": "r64_rslora",
    "precision": "bf16_base",
    "sampler": "windows_half",
    "tuning": "full_low_lr",
    "window_horizon": "w1-h10",
}
"""Experiment → the arm that is trained here, the one farthest from the default."""

FULL_SIZE = [
    "model=kosmos_lora",
    "data=mobile_vla",
    "evaluation=offline",
    "comparison.metrics=[offline/error]",
]
"""What turns a comparison of the tiny default into one of the full-size model on recorded drives."""


def _header(name: str) -> list[str]:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line[2:] for line in lines if line.startswith("#") and "@package" not in line]


def _text(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return content


def _read(name: str) -> Comparison:
    """The comparison as its file has it, without composing anything (a composed arm costs a third of a second)."""
    return Comparison(**{key: value for key, value in _text(name)["comparison"].items() if key != "_target_"})


@cache
def _loaded(name: str) -> tuple[Comparison, dict[str, dict[str, Any]]]:
    return load(name)


def _values(comparison: Comparison, arm: str) -> dict[str, Any]:
    """Key → value of an arm's overrides."""
    pairs = (override.split("=", 1) for override in comparison.arm(arm))
    return {key: yaml.safe_load(value) for key, value in pairs}


# ---------------------------------------------------------------- what a file says of itself


def test_every_comparison_is_tested_here_and_listed_in_the_docs() -> None:
    names = sorted(
        path.stem for path in (CONF / "experiment").glob("*.yaml") if _text(path.stem).get("comparison")
    )
    assert names == sorted(COMPARED)
    page = (CONF.parent / "docs" / "comparisons.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+) × (\d+) \| (\d+) min \|$", page, re.MULTILINE)
    for name, arms, seeds, minutes in rows:
        comparison = _read(name)
        assert (int(arms), int(seeds)) == (len(comparison.arms), len(comparison.seeds)), name
        assert f"about {minutes} min" in _header(name)[2], name
    assert sorted(name for name, *_ in rows) == names


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_the_header_says_question_what_is_fixed_what_decides_time_and_commands(name: str) -> None:
    comparison, trainer = _read(name), _text(name).get("trainer", {})
    question, decides, time, run = _header(name)[:4]
    assert re.match(r"Question: .+\? Held fixed: .+\.", question)
    suite, split = comparison.metrics[0].split("/")[1:3]
    assert f"success on {suite}" in decides and decides.endswith(f"mean of {len(comparison.seeds)} seeds.")
    assert split == "layout" or f"{suite}/{split}" in decides
    runs = len(comparison.arms) * len(comparison.seeds)
    assert re.match(
        rf"Time: {runs} runs of the tiny default, about \d+ min on 2 cores with hydra/launcher=processes",
        time,
    )
    assert (
        run
        == f"Run: python -m src.train --multirun experiment={name}; python -m src.compare experiment={name}"
    )
    assert "max_epochs" not in trainer or f" {trainer['max_epochs']} epochs" in question


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_every_metric_is_known_to_the_table_and_asked_of_the_evaluation(name: str) -> None:
    shared = yaml.safe_load((CONF / "evaluation" / "comparison.yaml").read_text(encoding="utf-8"))
    suites = _text(name).get("evaluation", {}).get("suites", shared["suites"])
    for metric in _read(name).metrics:
        assert column(metric).better is not None
        part, *rest = metric.split("/")
        assert part != "closed_loop" or "/".join(rest[:2]) in suites
        assert part != "probes" or rest[1] in shared["parts"]["probes"]["driven"]


def test_adapters_of_every_rank_are_scaled_by_the_stated_rule() -> None:
    comparison = _read("lora_rank")
    for arm in comparison.arms:
        values = _values(comparison, arm)
        rank, alpha, rslora = (values.get(f"model.lora.{key}") for key in ("rank", "alpha", "rslora"))
        scale = alpha / (rank**0.5 if rslora else rank)
        assert scale == (0.25 if arm == "r64_rslora" else 0.5), arm


def test_every_size_of_data_gets_the_same_number_of_steps() -> None:
    comparison = _read("data_size")
    per_step = _text("data_size")["data"]["sampler"]["episodes_per_batch"]
    steps = {}
    for arm in comparison.arms:
        values = _values(comparison, arm)
        batches = -(-values["data.train_episodes"] // per_step)
        steps[arm] = batches * values["trainer.max_epochs"]
    assert steps == {"n90": 720, "n180": 720, "n360": 720, "n720": 720}


@pytest.mark.parametrize(("arm", "left"), [("one", 1), ("four", 4)])
def test_hidden_phrasings_leave_as_many_as_the_arm_is_called(arm: str, left: int) -> None:
    from src.data.instruction import FromFile
    from src.sim.tasks import sample_task

    task, unheard = sample_task("full1", "train", 0), sample_task("full1", "phrasing", 0)
    texts = (task.instruction, *task.paraphrases)
    source = FromFile(held_out=_values(_read("instruction_wording"), arm)["data.instruction.held_out"])
    assert len(texts) == 8 and sum(not source.holds_out(text) for text in texts) == left
    assert not {unheard.instruction, *unheard.paraphrases} & set(texts)


# ---------------------------------------------------------------- what it becomes


@pytest.mark.parametrize("name", sorted(FARTHEST))
def test_the_farthest_arm_composes_and_passes_the_check_of_the_command_line(name: str) -> None:
    cfg = compose_train(name, [*_read(name).arm(FARTHEST[name]), f"arm={FARTHEST[name]}"])
    check(cfg, root_keys(CONF, "train"))
    assert cfg.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMPARED))
def test_all_arms_compose_and_differ_in_exactly_what_is_compared(name: str) -> None:
    from omegaconf import OmegaConf

    comparison, configs = _loaded(name)
    assert list(configs) == list(comparison.arms)
    for config in configs.values():
        check(OmegaConf.create(config), root_keys(CONF, "train"))
    keys = compared_keys(configs)
    for key in keys:
        assert any(covers(node, key) for node in COMPARED[name]), key
    for node in COMPARED[name]:
        assert any(covers(node, key) for key in keys), f"no arm changes {node}"
    plain = [{key: value for key, value in leaves(config) if key != "arm"} for config in configs.values()]
    assert all(one != other for i, one in enumerate(plain) for other in plain[:i]), "two arms are the same"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmentation", "history"])
def test_the_arms_fit_the_full_size_model_on_recorded_drives(name: str) -> None:
    comparison = _read(name)
    for arm, _, overrides in comparison.jobs(seeds=[0]):
        cfg = compose_train(name, [*FULL_SIZE, *overrides])
        check(cfg, root_keys(CONF, "train"))
        assert "kosmos-2-patch14-224" in cfg.model.backbone.checkpoint and cfg.arm == arm


# ---------------------------------------------------------------- what is measured


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for 20 demonstrations in the simulator, made by the first run."""
    return tmp_path_factory.mktemp("data") / "sim"


def _trained(name: str, arm: str, drives: Path, folder: Path) -> Run:
    from src.train import train

    sizes = ["data.train_episodes=9"] if name == "data_size" else []
    cfg = compose_train(name, [
        *_read(name).arm(arm), *sizes, f"arm={arm}", "seed=0", f"data.root={drives}",
        "data.source.episodes=20", "data.source.workers=1", "data.source.progress=false",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
        "trainer.log_every_n_steps=1", "logger=csv", "callbacks.progress=null",
        "evaluation.episodes=2", "evaluation.parts.closed_loop.every_n_epochs=null",
        "evaluation.parts.probes.every_n_epochs=null", "evaluation.parts.probes.episodes=2",
        "evaluation.parts.probes.recorded_episodes=2", "evaluation.parts.latency.steps=3",
        "evaluation.parts.latency.warmup=1",
    ])  # fmt: skip
    cfg.run_folder = str(folder)
    train(cfg)
    return from_folder(folder)


@pytest.fixture(scope="module")
def usual(drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The arm that is the tiny default."""
    return _trained("lora_placement", "text", drives, tmp_path_factory.mktemp("usual"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FARTHEST))
def test_the_farthest_arm_trains_gives_every_figure_and_differs_only_as_declared(
    name: str, usual: Run, drives: Path, tmp_path: Path
) -> None:
    run, comparison = _trained(name, FARTHEST[name], drives, tmp_path), _read(name)
    assert run.state == "finished" and run.arm == FARTHEST[name]
    assert set(comparison.metrics) <= run.metrics.keys()
    # What a comparison measures is its own matter, and files may be edited while this runs.
    told, said = (
        {
            key: value
            for key, value in facts_of(one).items()
            if key != "code" and not key.startswith("evaluation.")
        }
        for one in (usual, run)
    )
    differ = {fact for fact in told.keys() | said.keys() if told.get(fact) != said.get(fact)}
    if any(
        covers("model.backbone", node) for node in COMPARED[name]
    ):  # then the table expects other base weights
        differ = {fact for fact in differ if not covers("base_model", fact)}
    undeclared = {fact for fact in differ if not any(covers(known, fact) for known in comparison.may_differ)}
    assert not undeclared, f"add to may_differ, or find out why: {undeclared}"
    assert all(any(covers(known, fact) for fact in differ) for known in comparison.may_differ)
