"""A run that starts from the weights of another: only where they mean the same, in the units they were trained in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from src.core.annotations import locate, signature_of
from src.core.cli import CONF
from src.core.errors import ProjectError
from src.experiment import stages
from src.experiment.checkpoint import checkpoint_path, load_policy, read_about, read_checkpoint
from src.experiment.compatible import FREE, differences
from src.model.policy import Policy
from src.train import train

Config = Callable[..., DictConfig]


class _Begun(BaseException):
    """Ends a run where its training would begin."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, compose: Any, small_overrides: list[str]) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("source") / "run"
    cfg = compose("train", *small_overrides, "trainer.max_epochs=1", f"run_folder={folder}")
    cfg.evaluation = None
    train(cfg)
    return folder


@pytest.fixture
def other_data(small_data: Path, tmp_path: Path) -> Path:
    """The same episodes driven at half the speed: other recordings, so the split of the first does not come along."""
    folder = shutil.copytree(small_data, tmp_path / "slow", ignore=shutil.ignore_patterns("split-*.json"))
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            name = next(name for name in ("actions", "action") if name in file)
            file[name][...] = file[name][...] / 2
    return folder


@pytest.fixture
def begun(small_cfg: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Policy]:
    """`begun(folder, *overrides)`: the policy as it is when training begins."""

    def begin(folder: Path, *overrides: str) -> Policy:
        caught: list[Policy] = []

        def fit(trainer: Any, policy: Policy, *_: Any) -> None:
            caught.append(policy)
            raise _Begun

        with monkeypatch.context() as patch, pytest.raises(_Begun):
            patch.setattr(stages, "fit", fit)
            train(small_cfg(folder, *overrides))
        return caught[0]

    return begin


def test_it_starts_from_the_weights_and_in_the_units_of_the_run(
    source: Path,
    other_data: Path,
    begun: Callable[..., Policy],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fresh = begun(tmp_path / "fresh", f"data.root={other_data}")
    policy = begun(tmp_path / "run", f"init_from={source}", f"data.root={other_data}")
    saved = read_checkpoint(checkpoint_path(source, "best"))["state_dict"]
    state = policy.trained_state()
    assert state.keys() == saved.keys() and all(
        torch.equal(state[name], value) for name, value in saved.items()
    )
    ratio = fresh.normalizer.scale / policy.normalizer.scale
    torch.testing.assert_close(ratio, torch.full((3,), 0.5), rtol=0.2, atol=0)
    said = capsys.readouterr().out
    assert (
        f"start   {checkpoint_path(source, 'best')}" in said and "its action normaliser comes along" in said
    )
    kept, fitted = float(policy.normalizer.scale[0]), float(fresh.normalizer.scale[0])
    assert f"± {kept:.3f} (" in said and f"± {fitted:.3f})" in said
    about = read_about(checkpoint_path(source, "best"))
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["model"]["init_from"]
    assert noted["split_hash"] == about["split_hash"] and noted["checkpoint"].startswith(str(source))


def test_the_same_data_say_so(
    source: Path, begun: Callable[..., Policy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path / "run", f"init_from={source}")
    assert "the data at hand have the same statistics" in capsys.readouterr().out


def test_another_configuration_is_refused_with_every_difference_before_any_data_are_read(
    source: Path, small_cfg: Config, tmp_path: Path
) -> None:
    cfg = small_cfg(
        tmp_path / "run", f"init_from={source}", "data.root=nowhere", "model.head.hidden_size=16", "data.horizon=3",
        "model.lora.sites.text_mlp=1", "data/normalizer=meanstd", "model.lora.dropout=0.5", "optimizer.lr=1e-5",
    )  # fmt: skip
    with pytest.raises(
        ProjectError, match=r"best\.safetensors: was trained with another configuration"
    ) as refused:
        train(cfg)
    for line in (
        "model.head.hidden_size: checkpoint 8, this configuration 16",
        "data.horizon: checkpoint 2, this configuration 3",
        "model.lora.sites.text_mlp: checkpoint all, this configuration 1",
        "data.normalizer: checkpoint src.data.normalizer.MinMaxNormalizer, this configuration src.data.normalizer.Mean",
    ):
        assert line in str(refused.value)
    assert "dropout" not in str(refused.value) and "lr" not in str(refused.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_acts_in_training_only_may_differ(
    source: Path, begun: Callable[..., Policy], tmp_path: Path
) -> None:
    changes = ["model.lora.dropout=0.5", "model.head.huber_delta=0.3", "optimizer.lr=1e-5"]
    assert begun(tmp_path / "run", f"init_from={source}", *changes).head.huber_delta == 0.3


def test_another_base_model_is_refused(
    source: Path, small_kosmos: Path, small_cfg: Config, tmp_path: Path
) -> None:
    """Under the same name or another: its frozen weights count. The same weights elsewhere are the same model."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(small_kosmos, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    changed = {name: value + 0.01 for name, value in weights.items()}
    save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
    overrides = [f"init_from={source}", f"model.backbone.checkpoint={copy}", "trainer.max_epochs=1"]
    with pytest.raises(ProjectError, match=r"other frozen weights \(.*kosmos, fing.*\) than .*copy, fing"):
        train(small_cfg(tmp_path / "run", *overrides))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    train(small_cfg(tmp_path / "again", *overrides))
    assert read_about(checkpoint_path(tmp_path / "again", "best"))["init_from"]["name"] == "train"


def test_a_resumed_run_has_its_own_weights(
    source: Path, small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(source, tmp_path / "source")
    switches = [f"init_from={own}", "callbacks.checkpoint.every_n_steps=1"]
    train(small_cfg(tmp_path / "whole", *switches))

    def end(_: Any, trainer: Any, *__: Any, **___: Any) -> None:
        if trainer.global_step == 3:
            raise _Begun

    with monkeypatch.context() as patch, pytest.raises(_Begun):
        patch.setattr("src.experiment.callbacks.clock.RunClock.on_train_batch_end", end)
        train(small_cfg(tmp_path / "run", *switches))
    shutil.rmtree(own)
    train(small_cfg(tmp_path / "run", *switches, f"resume={tmp_path / 'run'}"))
    ours, theirs = (
        read_checkpoint(checkpoint_path(tmp_path / name, "last"))["state_dict"] for name in ("run", "whole")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["init_from"]["name"] == "train"
    load_policy(tmp_path / "run")


def test_a_folder_without_weights_is_a_sentence(small_cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="init_from: found .*nothing, expected the folder of a run"):
        train(small_cfg(tmp_path / "run", f"init_from={tmp_path / 'nothing'}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProjectError, match=r"best\.safetensors: not found"):
        train(small_cfg(tmp_path / "run", f"init_from={tmp_path / 'empty'}"))


# ---------------------------------------------------------------- the rule


SPACE = {"names": ["x", "y"], "units": ["m/s", "m/s"], "control_period": 0.4}


def config(**head: Any) -> dict[str, Any]:
    return {
        "model": {
            "head": {"_target_": "src.model.heads.lstm.LSTMHead", "_partial_": True, "hidden_size": 8, **head}
        },
        "data": {"window": 2, "horizon": 1, "image_size": 32, "seed": 0},
    }


def test_an_option_left_out_has_the_default_of_its_constructor() -> None:
    assert differences(config(), config(layers=4, mlp=[1024, 512, 256]), SPACE, SPACE) == []
    found = differences(config(), config(layers=3), SPACE, SPACE)
    assert found == ["model.head.layers: checkpoint 4, this configuration 3"]


def test_another_class_is_one_difference_and_an_unknown_option_counts() -> None:
    other = config()
    other["model"]["head"] = {"_target_": "src.model.heads.mlp.MLPHead", "mlp": [3]}
    assert differences(config(), other, SPACE, SPACE) == [
        "model.head: checkpoint src.model.heads.lstm.LSTMHead, this configuration src.model.heads.mlp.MLPHead"
    ]
    assert differences(config(), config(invented=1), SPACE, SPACE) == [
        "model.head.invented: checkpoint absent, this configuration 1"
    ]
    assert differences(config(), config(dropout=0.5), SPACE, SPACE) == []


def test_the_action_space_counts() -> None:
    found = differences(
        config(), config(), SPACE, {**SPACE, "control_period": 0.1, "units": ["m/s", "rad/s"]}
    )
    assert found == [
        "data.action.control_period: checkpoint 0.4, this configuration 0.1",
        "data.action.units: checkpoint ['m/s', 'm/s'], this configuration ['m/s', 'rad/s']",
    ]


def test_class_weights_count_for_the_checkpoint_brings_its_own() -> None:
    """A run that says `balanced` would train with the weights of its source."""
    was, now = config(), config(class_weights="balanced")
    for cfg in (was, now):
        cfg["model"]["head"]["_target_"] = "src.model.heads.classes.ClassesHead"
    assert differences(was, now, SPACE, SPACE) == [
        "model.head.class_weights: checkpoint none, this configuration balanced"
    ]


def test_every_option_that_is_left_out_exists() -> None:
    """A name that no class takes any more would one day free an option of another meaning."""
    taken: set[str] = set()
    for path in (CONF / "model").rglob("*.yaml"):
        target = (yaml.safe_load(path.read_text()) or {}).get("_target_")
        taken |= set(signature_of(locate(target, str(path)))[0]) if target else set()
    assert FREE.keys() <= taken, FREE.keys() - taken


def test_a_config_is_compared_resolved(source: Path) -> None:
    stored = OmegaConf.create(read_about(checkpoint_path(source, "best"))["config"])
    assert OmegaConf.to_container(stored, resolve=True) == OmegaConf.to_container(stored, resolve=False)
