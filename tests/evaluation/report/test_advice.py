"""What a report suggests next: commands that keep the run's choices and that the project takes."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.core.config import build, check
from src.evaluation.report.advice import ideas

LORA = {
    "lora": {"_target_": "src.model.lora.LoraPlacement", "sites": {"text_attention": "all"}, "rank": 2},
    "backbone": {"dtype": "float32", "quantization": None},
}


def report(
    listens: str = "yes",
    looks: str = "yes",
    not_beaten: tuple[str, ...] = (),
    curves: dict[str, str] | None = None,
    failed: tuple[str, ...] = (),
    suites: tuple[dict[str, str], ...] = (),
    measured: bool = True,
) -> dict[str, Any]:
    verdicts = {key: {"answer": answer, "words": ""} for key, answer in (curves or {}).items()}
    return {
        "verdict": {
            "listens": {"answer": listens},
            "looks": {"answer": looks},
            "not_beaten": list(not_beaten),
        },
        "settings": {"suites": list(suites), "split": "val" if measured else None},
        "offline": {"curves": {"verdicts": verdicts}} if measured else None,
        "failed": dict.fromkeys(failed, "a reason"),
    }


DEAF = report(listens="no")


def saved(run: Path, typed: list[str], cfg: Any) -> Path:
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(typed), run / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create(cfg), run / ".hydra" / "config.yaml")
    return run


def advised(run: Path, typed: list[str], cfg: dict[str, Any], suites: list[dict[str, str]]) -> list[str]:
    found = report(listens="no", not_beaten=("clock",), suites=tuple(suites))
    return [command for command, _ in ideas(found, saved(run, typed, cfg))]


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
    unknown = report(listens="no", not_beaten=("clock",), measured=False)
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
    cfg = compose("train", *typed, f"run_folder={tmp_path}")
    saved(tmp_path, typed, cfg)
    command, reason = ideas(DEAF, tmp_path)[0]
    assert shlex.split(command)[-1] == change and reason.startswith("it is deaf")
    then = compose("train", *shlex.split(command)[3:], f"run_folder={tmp_path}")
    check(then)
    build(then.model.lora)  # its constructor takes what is left
    assert (then.model.lora, then.trainer.max_epochs) != (cfg.model.lora, cfg.trainer.max_epochs)
    assert then.model.backbone == cfg.model.backbone and then.model.head == cfg.model.head
    assert len({text for text, _ in ideas(DEAF, tmp_path)}) == len(ideas(DEAF, tmp_path))


@pytest.mark.parametrize(
    ("shown", "change", "because"),
    [
        ({"failed": ("probes", "latency")}, None, "mend and measure: probes, latency failed"),
        ({"curves": {"diverged": "yes"}}, "optimizer.lr=0.00033", "it diverged"),
        ({"looks": "no"}, "model/lora=full", "it is blind"),
        ({"looks": "no", "listens": "no"}, "model/lora=full", "it is deaf and blind"),
        (
            {"curves": {"overfits": "yes"}},
            "data.source.episodes=1600",
            "it over-fits: twice the demonstrations",
        ),
        ({"curves": {"overfits": "yes"}}, "data/augmentation=default", "it over-fits: vary the pictures"),
        ({"curves": {"overfits": "yes"}}, "trainer.max_epochs=2", "it over-fits: train half as long"),
        ({"curves": {"still_improving": "yes"}}, "trainer.max_epochs=10", "the curve still falls"),
        ({"not_beaten": ("nearest",)}, "trainer.max_epochs=10", "a baseline is as good"),
    ],
)
def test_what_the_evidence_shows_is_answered_by_a_command_that_composes(
    compose: Any, tmp_path: Path, shown: dict[str, Any], change: str | None, because: str
) -> None:
    cfg = compose("train", "trainer.max_epochs=5", f"run_folder={tmp_path}")
    found = ideas(report(**shown), saved(tmp_path, ["trainer.max_epochs=5"], cfg))
    command, reason = next((command, why) for command, why in found if why.startswith(because))
    assert found.index((command, reason)) < 3, "it stands among the first"
    if change is None:
        assert command == f"python -m src.evaluate run={tmp_path}"
        return
    assert shlex.split(command)[-1] == change
    check(compose("train", *shlex.split(command)[3:], f"run_folder={tmp_path}"))


def test_nobody_is_told_to_train_longer_what_over_fits(compose: Any, tmp_path: Path) -> None:
    cfg = compose("train", f"run_folder={tmp_path}")
    found = ideas(report(not_beaten=("clock",), curves={"overfits": "yes"}), saved(tmp_path, [], cfg))
    assert not [why for _, why in found if "twice as long" in why]


@pytest.mark.parametrize(("arm", "sense"), [("deaf", "listens"), ("blind", "looks")])
def test_an_arm_without_a_sense_is_not_told_to_get_it_back(
    compose: Any, tmp_path: Path, arm: str, sense: str
) -> None:
    typed = [f"model/senses={arm}"]
    cfg = compose("train", *typed, f"run_folder={tmp_path}")
    found = ideas(report(**{sense: "no"}), saved(tmp_path, typed, cfg))
    assert not [why for _, why in found if arm in why]


@pytest.mark.parametrize(("epochs", "first"), [(1, 5), (2, 10), (3, None)])
def test_after_one_or_two_epochs_the_first_advice_is_to_train_longer(
    compose: Any, tmp_path: Path, epochs: int, first: int | None
) -> None:
    typed = [f"trainer.max_epochs={epochs}"]
    cfg = compose("train", *typed, f"run_folder={tmp_path}")
    found = ideas(report(listens="no", not_beaten=("clock",)), saved(tmp_path, typed, cfg))
    longer = [i for i, (_, why) in enumerate(found) if "train longer" in why or "twice as long" in why]
    if first is None:
        assert found[0][1].startswith("it is deaf") and len(longer) == 1
        return
    command, reason = found[0]
    assert command == f"python -m src.train trainer.max_epochs={first}"
    assert (
        reason.startswith(f"only {epochs} epoch") and longer == [0] and found[1][1].startswith("it is deaf")
    )
    for sign in ("overfits", "diverged"):
        others = ideas(report(curves={sign: "yes"}), tmp_path)
        assert not [why for _, why in others if "train longer" in why], sign


def test_advice_for_an_arm_or_a_trial_is_a_run_of_its_own(tmp_path: Path) -> None:
    """A changed arm is no arm of the comparison any more, and a study does not wait for it."""
    typed = ["experiment=lora_placement", "model/lora=none", "arm=queries", "seed=1", "++trial={number:3}"]
    cfg = {"seed": 1, "trainer": {"max_epochs": 7}, "data": {"source": None}, "model": LORA}
    for command in advised(tmp_path / "a", typed, cfg, []):
        if command.startswith("python -m src.train"):
            assert "arm=" not in command and "trial" not in command and "comparison=null" in command
