"""What a report suggests next: commands that keep the run's choices and that the project takes."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.core.config import build, check
from src.evaluation.advice import ideas

LORA = {
    "lora": {"_target_": "src.model.lora.LoraPlacement", "sites": {"text_attention": "all"}, "rank": 2},
    "backbone": {"dtype": "float32", "quantization": None},
}
DEAF = {
    "verdict": {"listens": {"answer": "no"}, "not_beaten": []},
    "settings": {"suites": [], "offline_split": None},
}


def advised(run: Path, typed: list[str], cfg: dict[str, Any], suites: list[dict[str, str]]) -> list[str]:
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(typed), run / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create(cfg), run / ".hydra" / "config.yaml")
    verdict = {"listens": {"answer": "no"}, "not_beaten": ["clock"]}
    report = {"verdict": verdict, "settings": {"suites": suites, "offline_split": "val"}}
    return [command for command, _ in ideas(report, run)]


def test_advice_keeps_the_choices_of_the_run(tmp_path: Path) -> None:
    typed = ["data=mobile_vla", "data.root=my data", "trainer.max_epochs=7", "hydra.run.dir=x", "name=a"]
    cfg = {"seed": 2, "trainer": {"max_epochs": 7}, "data": {"source": None}, "model": LORA}
    own = "python -m src.train data=mobile_vla 'data.root=my data'"
    recorded_only = advised(tmp_path / "a", typed, cfg, [])
    assert recorded_only == [
        f"{own} trainer.max_epochs=7 model/lora=full",
        f"{own} trainer.max_epochs=14",
        f"python -m src.evaluate run={tmp_path / 'a'}",
        f"{own} trainer.max_epochs=7 seed=3",
    ]
    full = {"lora": {"_target_": "src.model.lora.FullPlacement"}, "backbone": {"dtype": "float32"}}
    cfg = {"seed": 0, "trainer": {"max_epochs": 20}, "data": {"source": {"episodes": 300}}, "model": full}
    driven = advised(
        tmp_path / "b", ["model/lora=full", "data.root=d"], cfg, [{"suite": "reach", "split": "layout"}]
    )
    assert driven[0] == "python -m src.train model/lora=full data.root=d trainer.max_epochs=40"
    assert "'evaluation.suites=[reach/look]'" in driven[1]
    assert driven[2] == "python -m src.train model/lora=full data.source.episodes=600"
    unknown = {
        "verdict": {"listens": {"answer": "no"}, "not_beaten": ["clock"]},
        "settings": {"suites": [], "offline_split": None},
    }
    assert ideas(unknown, tmp_path) == [(f"python -m src.evaluate run={tmp_path}", "measure this run")]


@pytest.mark.parametrize(
    ("typed", "change"),
    [
        ([], "model/lora=full"),
        (["model.lora.rank=8", "++model.lora.sites.vision=all", "model.head.layers=1"], "model/lora=full"),
        (["model/lora=text_top8", "model.backbone.num_queries=2"], "model/lora=full"),
        (["experiment=example"], "model/lora=full"),
        (["model/lora=head_only"], "model/lora=full"),
        (["model=kosmos_full"], "trainer.max_epochs=10"),
        (["model=convnet"], "trainer.max_epochs=10"),
        (["model=kosmos_lora", "model.lora.rank=8"], "model/lora=all"),
        (["model=kosmos_qlora"], "model/lora=all"),
        (["model=kosmos_qlora", "model/lora=all", "model.lora.rank=8"], "model.lora.rank=16"),
        (["model=kosmos_frozen"], "model/lora=text_all"),
        (["model=kosmos_frozen", "model/lora=head_only"], "model/lora=text_all"),
        (["model=smolvlm2"], "model/lora=all"),
        (["model.backbone.dtype=bfloat16"], "model/lora=all"),
    ],
)
def test_a_deaf_policy_is_advised_what_its_backbone_takes(
    compose: Any, tmp_path: Path, typed: list[str], change: str
) -> None:
    """The command composes and passes the check of its options; what is refused on the weights is never named."""
    (tmp_path / ".hydra").mkdir()
    cfg = compose("train", *typed, f"run_folder={tmp_path}")
    OmegaConf.save(OmegaConf.create(typed), tmp_path / ".hydra" / "overrides.yaml")
    OmegaConf.save(cfg, tmp_path / ".hydra" / "config.yaml")
    command, reason = ideas(DEAF, tmp_path)[0]
    assert shlex.split(command)[-1] == change and reason.startswith("it is deaf")
    then = compose("train", *shlex.split(command)[3:], f"run_folder={tmp_path}")
    check(then)
    build(then.model.lora)  # its constructor takes what is left
    assert (then.model.lora, then.trainer.max_epochs) != (cfg.model.lora, cfg.trainer.max_epochs)
    assert then.model.backbone == cfg.model.backbone and then.model.head == cfg.model.head
    assert len({text for text, _ in ideas(DEAF, tmp_path)}) == len(ideas(DEAF, tmp_path))
