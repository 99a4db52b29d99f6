"""Augmentation under Lightning: once per training batch, never in validation, and to the bit after resuming."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from src.data.augment import Augmentation, augmented
from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from tests.data.builders import make_folder
from tests.data.modules import make_module

IGNORED = [
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
]
CHANGES = Augmentation(0.3, 0.3, 0.3, 0.8, 1, 0.5)


def fingerprint(batch: Batch) -> str:
    """Every bit that a model can see."""
    digest = hashlib.sha256(repr(batch.keys).encode())
    for tensor in (batch.frames, batch.actions, batch.instruction_ids, batch.windows):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Counting(EpisodeDataModule):
    """Counts what the hook is given."""

    calls: list[tuple[bool, bool]]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert self.trainer is not None
        if not hasattr(self, "calls"):
            self.calls = []
        self.calls.append((bool(self.trainer.training), batch.pending))
        return super().on_after_batch_transfer(batch, dataloader_idx)


class Recorder(lightning.LightningModule):
    """Notes each batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.trained: list[str] = []
        self.validated: list[str] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        assert not batch.pending
        batch.validate()
        self.trained.append(fingerprint(batch))
        return (self.weight * batch.frames.float().mean() / 255 - batch.actions.mean()) ** 2

    def validation_step(self, batch: Batch, index: int) -> None:
        assert not batch.pending
        self.validated.append(fingerprint(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    make_folder(path, [5, 3, 7, 4, 6, 2, 8, 5, 4, 6, 3, 5])
    return path


def counting(root: Path, augmentation: Augmentation | None = CHANGES, **changes: Any) -> Counting:
    plain = make_module(root)
    made = Counting(
        root=str(root), action=plain.action_space, normalizer=plain.normalizer, sampler=EpisodeSampler(2, 4),
        split=SplitRule(0.75, 0.25, 0.0), window=3, horizon=2, image_size=8, paraphrase="random",
        augmentation=augmentation, **changes,
    )  # fmt: skip
    assert plain._tokenize is not None
    made.bind(plain._tokenize)
    return made


def fit(
    root: Path, out: Path, data: Counting, checkpoint: Path | None = None, **options: Any
) -> tuple[Recorder, lightning.Trainer]:
    callback = ModelCheckpoint(out, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    model = Recorder()
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return model, trainer


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_training_batch_is_augmented_once_and_validation_never(
    root: Path, tmp_path: Path, accumulate: int
) -> None:
    data = counting(root)
    model, trainer = fit(root, tmp_path, data, accumulate_grad_batches=accumulate, num_sanity_val_steps=1)
    per_epoch = len(data.train_dataloader())
    assert len(model.trained) == 2 * per_epoch
    assert trainer.global_step == 2 * -(-per_epoch // accumulate)
    assert data.calls.count((True, True)) == 2 * per_epoch  # once for every batch, in training
    assert (False, True) not in data.calls
    assert (True, False) not in data.calls
    plain = counting(root, augmentation=None)
    plain.setup()
    expected = [fingerprint(batch) for batch in plain.val_dataloader()]
    assert model.validated == [expected[0], *expected, *expected]  # the sanity check, then every epoch
    recorded = {fingerprint(batch) for batch in plain.train_dataloader()}
    assert not recorded & set(model.trained)
    # What the trainer saw is what one call of the function makes of the loader's batches.
    loader = data.train_dataloader()
    data.trainer = None
    assert [fingerprint(augmented(batch)) for batch in epochs(loader, 2)] == model.trained


def epochs(loader: Any, count: int) -> list[Batch]:
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        found += list(loader)
    return found


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (0, 2), (2, 1)])
def test_resuming_gives_the_same_augmented_batches_to_the_bit(
    root: Path, tmp_path: Path, workers: int, accumulate: int
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole, _ = fit(root, tmp_path / "whole", counting(root, num_workers=workers), **options)
    per_epoch = len(whole.trained) // 2
    assert whole.trained[:per_epoch] != whole.trained[per_epoch:]
    steps = -(-per_epoch // accumulate)
    for stop in (1, steps + 1):  # inside the first epoch, and inside the second
        saved = tmp_path / "whole" / f"step={stop}.ckpt"
        data = counting(root, num_workers=workers)
        again, _ = fit(root, tmp_path / f"again{stop}", data, saved, **options)
        epoch, into = divmod(stop, steps)
        assert again.trained == whole.trained[epoch * per_epoch + into * accumulate :]
        assert torch.equal(again.weight, whole.weight)
        assert data.calls.count((True, True)) == len(again.trained)


@pytest.mark.filterwarnings(*IGNORED)
def test_overfitting_a_few_batches_sees_them_as_recorded(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model, _ = fit(root, tmp_path, counting(root), overfit_batches=1)
    assert "data.augmentation is not used" in caplog.text
    plain = counting(root, augmentation=None)
    plain.setup()
    plain.paraphrase = "first"
    first = next(iter(plain._loader("train", plain.sampler, None, None)))
    assert set(model.trained) == {fingerprint(first)}


@pytest.mark.slow
def test_a_real_training_with_every_change(
    small_kosmos: Path, small_overrides: list[str], tmp_path: Path
) -> None:
    """The command line, start to end: the run record says what was changed, and the run is a function of its seed."""
    figures = []
    for number, options in enumerate((["data/augmentation=mirror"], ["data/augmentation=mirror"], [])):
        folder = tmp_path / f"run{number}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "src.train", *small_overrides, *options, "debug=limit", "logger=csv",
             "evaluation=none", "data.augmentation.shift=2", "data.train_episodes=0.75", f"hydra.run.dir={folder}"],
            env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        record = json.loads((folder / "run.json").read_text())
        assert record["state"] == "finished"
        facts = record["data"]["augmentation"]
        assert facts["shift"] == 2
        assert facts["mirror"] == (0.5 if options else 0)
        sentences = record["data"]["instruction"]["train"]["first"]
        assert sentences == [f"drive to the red ball on its {side} side" for side in ("left", "right")]
        figures.append((folder / "metrics.csv").read_text())
    assert columns(figures[0]) == columns(figures[1])
    assert columns(figures[0]) != columns(figures[2])


def columns(text: str) -> list[str]:
    """The losses; times differ from run to run."""
    names, *rows = [line.split(",") for line in text.splitlines()]
    wanted = [i for i, name in enumerate(names) if "loss" in name]
    assert wanted
    return [",".join(row[i] for i in wanted) for row in rows]
