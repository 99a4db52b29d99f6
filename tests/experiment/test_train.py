"""A small training run end to end: what it leaves, and that the trainer's switches act."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from src.core.errors import ProjectError
from src.experiment import stages
from src.experiment.checkpoint import checkpoint_path, load_policy, read_checkpoint
from src.experiment.csv_logger import read_metrics
from src.train import train

Run = Callable[..., dict[str, float]]
Config = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, compose: Any, small_overrides: list[str]) -> Path:
    """The folder of a finished run of 2 epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    cfg = compose("train", *small_overrides, f"run_folder={folder}")
    cfg.evaluation = None
    train(cfg)
    return folder


def test_a_run_leaves_its_record(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["state"] == "finished" and record["error"] is None
    assert record["seed"] == 0 and record["wall_s"] > 0 and record["memory"]["process_gb"] > 0
    assert record["data"]["data_hash"] and record["data"]["split_hash"]
    assert record["packages"]["torch"].startswith("2.13") and record["machine"]["host"]
    assert record["training"]["steps"] == 10 and record["training"]["first_step_s"] > 0
    for which in ("best", "last"):
        size = checkpoint_path(finished, which).stat().st_size
        assert record["checkpoints"][which]["bytes"] == size
    assert record["checkpoints"]["best"]["val/loss"] == record["metrics"]["best/val/loss"]


def test_a_run_records_what_its_model_is_and_costs(finished: Path, small_kosmos: Path) -> None:
    model = json.loads((finished / "run.json").read_text())["model"]
    policy, _ = load_policy(finished)
    backbone, words = policy.backbone, model["prompt_tokens"]
    assert words == int(policy.tokenize(["drive to the red ball on its left side"])[1].sum())
    assert model["flops_per_frame"] == backbone.image_flops() + backbone.text_flops(words) > 0
    assert model["base_model"]["id"] == str(small_kosmos) and model["prompt"] == backbone.prompt
    assert model["trainable"] == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_a_run_leaves_its_adapter_for_peft(finished: Path) -> None:
    saved = read_checkpoint(checkpoint_path(finished, "best"))["state_dict"]
    adapter = load_file(finished / "adapter" / "adapter_model.safetensors")
    trained = {name: value for name, value in saved.items() if "lora_" in name}
    assert len(adapter) == len(trained) > 0
    for name, value in trained.items():
        path = name.removeprefix("backbone.network.").replace(".default.", ".")
        assert torch.equal(adapter[f"base_model.model.{path}"], value)
    size = sum(file.stat().st_size for file in (finished / "adapter").iterdir())
    assert json.loads((finished / "run.json").read_text())["checkpoints"]["adapter"]["bytes"] == size


def test_a_run_without_an_adapter_exports_none_and_says_what_it_kept(
    run: Run, small_cfg: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "lora", "trainer.max_epochs=1")
    kept = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("kept"))
    assert all(f"{name} 0.0" in kept for name in ("best.safetensors", "last.ckpt", "adapter/"))
    cfg = small_cfg(tmp_path / "none", "trainer.max_epochs=1")
    cfg.model.lora = {"_target_": "src.model.lora.NonePlacement"}
    train(cfg)
    out = capsys.readouterr().out
    assert "adapter/" not in out and not (tmp_path / "none" / "adapter").exists()
    policy, _ = load_policy(tmp_path / "none")
    assert f"        {policy.backbone.describe(9)[:40]}" in out


@pytest.mark.parametrize("placement", ["text_all_tiny", "head_only", "full"])
def test_the_placement_table_adds_up(
    compose: Any, small_overrides: list[str], tmp_path: Path, placement: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fitted: list[Any] = []

    def fit(_: Any, policy: Any, *__: Any) -> None:
        fitted.append(policy)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "fit", fit)
    kept = [text for text in small_overrides if not text.startswith("model.lora.")]
    cfg = compose("train", *kept, f"model/lora={placement}", f"run_folder={tmp_path / 'run'}")
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    found = re.findall(
        r"^ {10}(.*?) +(\d+) modules +([\d,]+) trainable$", capsys.readouterr().out, re.MULTILINE
    )
    rows = {site: (int(modules), int(trains.replace(",", ""))) for site, modules, trains in found}
    assert len(rows) == len(found) == {"text_all_tiny": 4, "head_only": 1, "full": 3}[placement]
    policy = fitted[0]
    assert sum(trains for _, trains in rows.values()) == sum(
        p.numel() for p in policy.parameters() if p.requires_grad
    )
    owners = {name.rpartition(".")[0] for name, _ in policy.head.named_parameters()}
    assert rows["head"] == (len(owners), sum(p.numel() for p in policy.head.parameters()))


def test_metrics_csv_holds_every_step_and_every_validation(finished: Path) -> None:
    rows = read_metrics(finished)
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == list(range(10))
    assert [row["step"] for row in rows if "val/loss" in row] == [4, 9]
    assert all(
        {"train/lr", "train/grad_norm", "train/windows_per_s"} <= row.keys()
        for row in rows
        if "train/loss" in row
    )


def test_the_best_checkpoint_is_the_one_with_the_smallest_validation_loss(finished: Path) -> None:
    losses = {int(row["step"]) + 1: row["val/loss"] for row in read_metrics(finished) if "val/loss" in row}
    best = read_checkpoint(checkpoint_path(finished, "best"))
    assert best["global_step"] == min(losses, key=lambda step: losses[step])
    assert best["metrics"]["val/loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_a_checkpoint_describes_itself_and_holds_no_frozen_weight(finished: Path) -> None:
    best = read_checkpoint(checkpoint_path(finished, "best"))
    about = best["about"]
    assert about["config"]["data"]["window"] == 3 and about["packages"]["torch"]
    assert about["action_space"]["names"] == ["linear_x", "linear_y", "angular_z"]
    assert about["data"]["split_hash"] and about["base_model"]
    policy, _ = load_policy(finished)
    frozen = {name for name, p in policy.named_parameters() if not p.requires_grad}
    assert frozen and not frozen & best["state_dict"].keys()
    assert any(key.startswith("normalizer.") for key in best["state_dict"])


def test_load_policy_gives_the_trained_weights_in_eval_mode(finished: Path) -> None:
    policy, cfg = load_policy(finished, "last")
    saved = read_checkpoint(finished / "checkpoints" / "last.ckpt")["state_dict"]
    state = policy.state_dict()
    assert saved and all(torch.equal(state[name], value) for name, value in saved.items())
    assert not policy.training and cfg.data.window == 3
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again, _ = load_policy(finished, "last")
    assert torch.equal(before, torch.random.get_rng_state()), (
        "loading must not disturb the caller's generator"
    )
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), policy.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    finished: Path, run: Run, tmp_path: Path
) -> None:
    run(tmp_path / "same")
    run(tmp_path / "other", "seed=1")
    first, same, other = (_weights(folder) for folder in (finished, tmp_path / "same", tmp_path / "other"))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first if "normalizer" not in name)


def test_gradient_accumulation_acts(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run", "trainer.accumulate_grad_batches=2")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["training"]["steps"] == 6  # 5 batches an epoch: 2 + 2 + 1


def test_gradient_clipping_acts(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "free", "trainer.gradient_clip_val=null", "trainer.max_epochs=1")
    run(tmp_path / "clipped", "trainer.gradient_clip_val=1e-6", "trainer.max_epochs=1")
    free, clipped = _weights(tmp_path / "free"), _weights(tmp_path / "clipped")
    moved = max(float((free[name] - clipped[name]).abs().max()) for name in free)
    assert moved > 1e-6
    last = read_checkpoint(tmp_path / "clipped" / "checkpoints" / "last.ckpt")["optimizer_states"][0]["state"]
    assert max(float(state["exp_avg"].norm()) for state in last.values()) <= 1e-6


def test_a_nan_stops_the_run_before_it_reaches_a_weight_and_names_the_samples(
    small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.model.policy import Policy

    original, calls = Policy.compute_loss, []

    def poisoned(self: Policy, batch: Any) -> Any:
        terms, prediction = original(self, batch)
        calls.append({name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad})
        if len(calls) == 3:
            terms = {name: value * math.nan for name, value in terms.items()}
        return terms, prediction

    monkeypatch.setattr(Policy, "compute_loss", poisoned)
    with pytest.raises(ProjectError, match=r"step 2: the loss is nan.*ep_\d\d frames 0-\d"):
        train(small_cfg(tmp_path / "run", "callbacks.checkpoint.every_n_steps=1"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "failed" and "loss is nan" in record["error"]
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(saved[name], calls[-1][name]) for name in calls[-1])


def test_a_loss_that_is_finite_with_a_gradient_that_is_not_stops_too(
    small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.model.policy import Policy

    original = Policy.compute_loss

    def poisoned(self: Policy, batch: Any) -> Any:
        terms, prediction = original(self, batch)
        zero = sum((p * 0).sum() for p in self.head.parameters())
        return {**terms, "loss": terms["loss"] + torch.sqrt(zero)}, prediction  # d sqrt(0) is infinite

    monkeypatch.setattr(Policy, "compute_loss", poisoned)
    with pytest.raises(ProjectError, match="gradient is not"):
        train(small_cfg(tmp_path / "run"))


def test_a_metric_that_nobody_logs_is_refused_with_a_suggestion(small_cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(
        ProjectError, match="callbacks.checkpoint.monitor: found 'val/los'.*did you mean val/loss"
    ):
        train(small_cfg(tmp_path / "run", "callbacks.checkpoint.monitor=val/los"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.window=0", "data.window"),
        ("optimizer.lr=-1", "optimizer.lr: found -1, expected a finite number above 0"),
        ("scheduler.warmup_fraction=2", "scheduler.warmup_fraction"),
        ("callbacks.checkpoint.every_n_steps=0", "callbacks.checkpoint.every_n_steps"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_key(
    small_cfg: Config, tmp_path: Path, override: str, sentence: str
) -> None:
    with pytest.raises(ProjectError, match=sentence):
        train(small_cfg(tmp_path / "run", override))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_missing_gpu_is_one_sentence(small_cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(
        ProjectError, match="trainer.accelerator: found 'gpu'.*sees no GPU.*trainer.accelerator=auto"
    ):
        train(small_cfg(tmp_path / "run", "trainer.accelerator=gpu"))


def test_a_folder_that_holds_a_run_is_not_written_over(finished: Path, small_cfg: Config) -> None:
    before = (finished / "run.json").read_bytes()
    with pytest.raises(ProjectError, match="holds a run already.*resume="):
        train(small_cfg(finished))
    assert (finished / "run.json").read_bytes() == before


def test_debug_overfit_learns_one_batch(small_cfg: Config, tmp_path: Path) -> None:
    train(small_cfg(tmp_path / "run", "debug=overfit", "trainer.max_epochs=40", "optimizer.lr=2e-2"))
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "run") if "train/loss" in row]
    assert len(losses) == 40, "one batch an epoch"
    assert losses[-1] < 0.85 * losses[0]  # of frames and actions that are noise


def test_without_loggers_the_record_and_the_checkpoints_remain(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run", "logger=none", "trainer.max_epochs=1")
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert checkpoint_path(tmp_path / "run", "best").exists() and (tmp_path / "run" / "run.json").exists()


def _weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    return state
