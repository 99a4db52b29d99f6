"""data.max_frames_per_batch=auto: found before the first step, halved where it proves too large, kept in the record."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch import Tensor, nn

from src.core.config import build
from src.core.errors import ProjectError
from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.sampler import WindowSampler
from src.experiment import frame_budget, quiet
from src.experiment.callbacks.step_seed import StepSeed
from src.experiment.checkpoint import build_policy
from src.experiment.frame_budget import FrameBudget, find, halves, out_of_memory, untouched
from src.experiment.run_record import RunRecord, read_record
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.policy import Policy
from src.train import train

Config = Callable[..., DictConfig]
ROOT = Path(__file__).resolve().parents[2]
FREE = 100_000_000
AUTO = "data.max_frames_per_batch=auto"


class _Kill(BaseException):
    """Stands for a process that is gone."""


class Device:
    """A device whose memory holds so many frames at once: beyond them a backbone's pass runs out of memory."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.room, self.backward, self.calls = 10**6, False, 0
        encode = Kosmos2Backbone.encode

        def narrow(backbone: Kosmos2Backbone, latents: Tensor, *rest: Tensor) -> Tensor:
            self.calls += 1
            full = latents.shape[0] * latents.shape[1] > self.room
            if full and not self.backward:
                _run_out()
            states = encode(backbone, latents, *rest)
            if full and states.requires_grad:
                states.register_hook(_run_out)
            return states

        patch.setattr(Kosmos2Backbone, "encode", narrow)


def _run_out(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def assembled(cfg: DictConfig) -> tuple[EpisodeDataModule, Policy]:
    """As src/train.py puts them together."""
    quiet.silence()
    pl.seed_everything(0, verbose=False)
    datamodule = build(cfg.data)
    policy = build_policy(cfg, datamodule.action_space, datamodule.normalizer)
    datamodule.setup("fit")
    policy.fit_actions(datamodule.training_actions())
    datamodule.bind(policy.tokenize)
    policy.train()
    return datamodule, policy


@pytest.fixture
def learn(small_cfg: Config, tmp_path: Path) -> Callable[..., tuple[Policy, dict[str, Any]]]:
    """`learn(*overrides, …)`: one epoch; the policy and what the record says of the training."""

    def learned(
        *overrides: str, accumulate: int = 1, more: tuple[pl.Callback, ...] = ()
    ) -> tuple[Policy, dict[str, Any]]:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        cfg = small_cfg(folder, *overrides)
        datamodule, policy = assembled(cfg)
        with RunRecord(folder, cfg) as record:
            trainer = pl.Trainer(
                max_epochs=1, limit_train_batches=4, accelerator="cpu", devices=1, limit_val_batches=0, logger=False,
                enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                accumulate_grad_batches=accumulate, callbacks=[StepSeed(0), FrameBudget(record), *more],
            )  # fmt: skip
            trainer.fit(policy, datamodule=datamodule)
        return policy, record.fields["training"]

    return learned


def same(ours: Policy, theirs: Policy, tolerance: float) -> None:
    expected = theirs.trained_state()
    for name, value in ours.trained_state().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance, msg=name)


# ---------------------------------------------------------------- the key


@pytest.mark.parametrize("value", ["2", "0", "-4", "some"])
def test_what_cannot_be_a_budget_is_refused(small_cfg: Config, tmp_path: Path, value: str) -> None:
    cfg = small_cfg(tmp_path / "run", f"data.max_frames_per_batch={value}")  # data.window is 3
    with pytest.raises(ProjectError, match=r"data\.max_frames_per_batch"):
        build(cfg.data)


def test_every_data_config_has_the_key() -> None:
    for path in sorted((ROOT / "conf" / "data").glob("*.yaml")):
        tree = yaml.safe_load(path.read_text())
        if tree.get("_target_", "").endswith("EpisodeDataModule"):
            assert "max_frames_per_batch" in tree, path


def test_every_batch_is_told(small_cfg: Config, tmp_path: Path) -> None:
    """Also one that was assembled before the number was known."""
    datamodule, _ = assembled(small_cfg(tmp_path / "run", "data.max_frames_per_batch=4"))
    loaders = (datamodule.train_dataloader(), datamodule.val_dataloader())
    assert [batch.max_frames for loader in loaders for batch in loader] == [4] * sum(map(len, loaders))
    early = next(iter(datamodule.train_dataloader()))
    datamodule.limit_frames(7)
    assert datamodule.on_after_batch_transfer(early, 0).max_frames == 7
    assert {batch.max_frames for batch in datamodule.val_dataloader()} == {7}
    with pytest.raises(ProjectError, match="at least data.window=3"):
        datamodule.limit_frames(2)


@pytest.mark.parametrize("sampler", ["episodes", "windows"])
def test_the_heaviest_batch_is_the_largest_of_the_epoch_in_the_longest_words(
    small_cfg: Config, tmp_path: Path, sampler: str
) -> None:
    datamodule, policy = assembled(small_cfg(tmp_path / "run", "data/augmentation=default", AUTO))
    if sampler == "windows":
        datamodule.sampler = WindowSampler(9)
    heavy = datamodule.heaviest_batch()
    heavy.validate()
    batches = list(datamodule.train_dataloader())
    assert len(heavy.frames) == max(len(batch.frames) for batch in batches)
    assert heavy.origin is None and batches[0].origin is not None
    longest = max(int(batch.instruction_mask.sum(dim=1).max()) for batch in batches)
    assert int(heavy.instruction_mask.sum(dim=1).min()) >= longest


# ---------------------------------------------------------------- the search


def test_halves_end_at_the_least() -> None:
    assert list(halves(17, 3)) == [17, 9, 5, 3]
    assert list(halves(2, 3)) == [2]


@pytest.mark.parametrize(("history", "backward"), [("per_frame", False), ("interleaved", True)])
def test_the_largest_half_that_fits_is_found_and_the_policy_left_as_it_was(
    device: Device, small_cfg: Config, tmp_path: Path, backward: bool, history: str
) -> None:
    cfg = small_cfg(tmp_path / "run", f"model/history={history}", "model.lora.dropout=0.3", AUTO)
    datamodule, policy = assembled(cfg)
    batch = datamodule.on_after_batch_transfer(datamodule.heaviest_batch(), 0)
    whole = len(batch.frames) if history == "per_frame" else batch.windows.numel()
    tried = list(halves(whole, 3))
    device.room, device.backward = tried[2], backward
    weights = {name: value.clone() for name, value in policy.state_dict(keep_vars=False).items()}
    buffers = {name: value.clone() for name, value in policy.named_buffers()}
    kept = torch.ones_like(policy.backbone.queries)
    policy.backbone.queries.grad = kept
    draws = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    found, failed = find(policy, batch, nullcontext, 0)
    assert (found, failed) == (tried[2], tried[1])
    assert all(torch.equal(weights[name], value) for name, value in policy.state_dict().items())
    assert all(torch.equal(buffers[name], value) for name, value in policy.named_buffers())
    assert policy.backbone.queries.grad is kept and bool((kept == 1).all())
    assert all(p.grad is None for p in policy.parameters() if p is not policy.backbone.queries)
    assert torch.equal(draws[0], torch.get_rng_state()) and random.getstate() == draws[2]
    assert np.array_equal(draws[1], np.random.get_state()[1])  # type: ignore[index]


def test_what_changes_inside_is_undone_whatever_happens() -> None:
    net = nn.BatchNorm1d(2)
    mean, draw = net.running_mean.clone(), torch.get_rng_state()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="inside"), untouched(net):
        net(torch.randn(8, 2) + 5).sum().backward()
        raise ValueError("inside")
    assert torch.equal(net.running_mean, mean) and torch.equal(torch.get_rng_state(), draw)  # type: ignore[arg-type]
    assert net.weight.grad is None


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("CUDA")):
        assert not out_of_memory(error)
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(found.value) and out_of_memory(MemoryError())


# ---------------------------------------------------------------- in a training


def test_a_training_within_the_found_number_gives_the_same_weights(
    device: Device, learn: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = learn()
    device.room = 5
    ours, record = learn(AUTO)
    same(ours, plain, 1e-6)
    assert record["max_frames_per_batch"] == 5  # 17 frames: 17, 9, 5
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("budget")]
    assert lines == ["budget  5 frames at once: of the largest batch (17 frames) more do not fit the memory"]


class _Tighter(pl.Callback):
    """From a batch on less fits, as where memory is in pieces."""

    def __init__(self, device: Device, batch: int) -> None:
        self.device, self.batch = device, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.batch:
            self.device.room = 8


@pytest.mark.parametrize(("backward", "accumulate", "at"), [(False, 1, 1), (True, 2, 3)])
def test_a_batch_that_runs_out_of_memory_is_repeated(
    device: Device, learn: Any, capsys: pytest.CaptureFixture[str], backward: bool, accumulate: int, at: int
) -> None:
    """Also in the middle of accumulated batches: what they left in the gradients stays."""
    plain, _ = learn(accumulate=accumulate)
    device.backward = backward
    ours, record = learn(AUTO, accumulate=accumulate, more=(_Tighter(device, at),))
    same(ours, plain, 1e-6)
    assert record["max_frames_per_batch"] == 5
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("budget")]
    assert len(lines) == 3 and "fits whole" in lines[0] and "ran out of memory" in lines[2], lines


def test_a_chosen_number_that_does_not_fit_is_one_sentence(device: Device, learn: Any) -> None:
    device.room = 8
    with pytest.raises(
        ProjectError, match=r"data\.max_frames_per_batch: found 12, and .* choose auto, or .* 6\."
    ):
        learn("data.max_frames_per_batch=12")


def test_where_not_even_a_window_fits_a_sentence_says_what_to_do(device: Device, learn: Any) -> None:
    device.room = 2
    with pytest.raises(ProjectError, match=r"not even 3 frames at once .*gradient_checkpointing=true"):
        learn(AUTO)


@pytest.mark.slow
def test_a_resumed_run_takes_the_number_that_it_found(
    device: Device, small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, exact = tmp_path / "run", [AUTO, "callbacks.checkpoint.every_n_steps=1", "trainer.max_epochs=1"]
    device.room = 5
    with monkeypatch.context() as patch:
        target = "src.experiment.callbacks.clock.RunClock.on_train_batch_end"
        patch.setattr(target, lambda *_: (_ for _ in ()).throw(_Kill()))
        with pytest.raises(_Kill):
            train(small_cfg(folder, *exact))
    assert read_record(folder)["training"]["max_frames_per_batch"] == 5
    monkeypatch.setattr(frame_budget, "find", None)  # nothing is sought
    device.room = 10**6
    train(small_cfg(folder, *exact, f"resume={folder}"))
    assert read_record(folder)["training"]["max_frames_per_batch"] == 5
    assert "budget  5 frames at once, as this run found before" in capsys.readouterr().out


# ---------------------------------------------------------------- memory that really runs out

LIMITED = """
import json, resource, sys
from contextlib import nullcontext
from pathlib import Path
import lightning.pytorch as pl
from hydra import compose, initialize_config_dir
from src.core.overrides import register_resolvers
from src.experiment.frame_budget import MARGIN, FrameBudget, find
from src.experiment.run_record import RunRecord
from tests.experiment.test_frame_budget import assembled

folder, free, overrides = Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
register_resolvers()
with initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
    cfg = compose("train", overrides=[*overrides, f"run_folder={folder}"])
datamodule, policy = assembled(cfg)
batch = datamodule.on_after_batch_transfer(datamodule.heaviest_batch(), 0)
print("unlimited", *find(policy, batch, nullcontext, 0))
del batch
with RunRecord(folder, cfg) as record:
    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=0, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[FrameBudget(record)],
    )
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = int((taken + free) / (1 - MARGIN))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    trainer.fit(policy, datamodule=datamodule)
print("trained", trainer.global_step)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_process_with_too_little_memory_for_the_whole_batch_trains(
    small_overrides: list[str], tmp_path: Path
) -> None:
    """75 frames need far more than the FREE bytes that are left: allocations fail, and the search goes on."""
    sizes = TinySizes(
        image_size=32, patch_size=16, vision_width=32, vision_layers=1, text_width=128, text_layers=2, heads=4,
        latents=64, max_tokens=160,
    )  # fmt: skip
    build_tiny(
        tmp_path / "kosmos", ["drive to the red ball on its left right side", "An image of a robot"], sizes
    )
    overrides = [
        *small_overrides, AUTO, f"model.backbone.checkpoint={tmp_path / 'kosmos'}",
        "data.sampler.episodes_per_batch=10",
    ]  # fmt: skip
    # Freed memory goes back to the system at once, so what is taken is what is held.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run"), str(FREE), json.dumps(overrides)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "unlimited 75 None" in done.stdout and "trained 1" in done.stdout
    assert 3 <= read_record(tmp_path / "run")["training"]["max_frames_per_batch"] <= 38
    assert "more do not fit the memory" in done.stdout
