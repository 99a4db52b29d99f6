"""Stopping and going on: after any batch, with and without workers, alone and under Lightning."""

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

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.sampler import EpisodeSampler, Sampler, WindowSampler
from src.data.split import SplitRule
from tests.data.builders import make_folder
from tests.data.modules import make_module

Seen = tuple[tuple[tuple[str, int], ...], int]


def seen(batch: Batch) -> Seen:
    """What tells two batches apart: samples, and content including the wording."""
    return tuple(batch.keys), int(batch.frames.sum()) + int(batch.instruction_ids.sum())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    make_folder(path, [5, 3, 7, 4, 6, 2, 8, 5, 4, 6, 3, 5])
    return path


def module(root: Path, workers: int = 0, sampler: Sampler | None = None) -> EpisodeDataModule:
    made = make_module(
        root, num_workers=workers, sampler=sampler or EpisodeSampler(2, 4), paraphrase="random",
        split=SplitRule(0.75, 0.25, 0.0),
    )  # fmt: skip
    made.setup("fit")
    return made


def epoch(loader: Any, number: int) -> list[Seen]:
    loader.set_epoch(number)
    return [seen(batch) for batch in loader]


@pytest.mark.parametrize("sampler", [EpisodeSampler(2, 4), WindowSampler(6)])
def test_resumes_after_every_batch(root: Path, sampler: Sampler) -> None:
    whole = module(root, sampler=sampler).train_dataloader()
    expected = [epoch(whole, number) for number in range(3)]
    assert expected[0] != expected[1]
    for stop in range(1, len(expected[1])):
        loader = module(root, sampler=sampler).train_dataloader()
        assert epoch(loader, 0) == expected[0]
        loader.set_epoch(1)
        iterator = iter(loader)
        first = [seen(next(iterator)) for _ in range(stop)]
        state = loader.state_dict()
        assert state == {"epoch": 1, "batches": stop}
        resumed = module(root, sampler=sampler).train_dataloader()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert first + [seen(batch) for batch in resumed] == expected[1]
        assert epoch(resumed, 2) == expected[2]
        assert len(resumed) == len(expected[2])


def test_batches_that_workers_prepared_ahead_do_not_count(root: Path) -> None:
    expected = [epoch(module(root).train_dataloader(), number) for number in range(2)]
    loader = module(root, workers=2).train_dataloader()
    loader.set_epoch(0)
    iterator = iter(loader)
    first = [seen(next(iterator)) for _ in range(2)]  # two workers have prepared four more by now
    state = loader.state_dict()
    assert state == {"epoch": 0, "batches": 2}
    rest = [seen(batch) for batch in iterator]
    assert first + rest == expected[0]
    assert epoch(loader, 1) == expected[1]  # persistent workers follow the new epoch
    resumed = module(root, workers=2).train_dataloader()
    resumed.load_state_dict(state)
    assert [seen(batch) for batch in resumed] == rest


def test_an_abandoned_epoch_does_not_leak_into_the_next(root: Path) -> None:
    for workers in (0, 2):
        loader = module(root, workers=workers).train_dataloader()
        loader.set_epoch(0)
        iterator = iter(loader)
        next(iterator)
        expected = epoch(module(root).train_dataloader(), 1)
        assert epoch(loader, 1) == expected


def test_a_finished_epoch_is_not_gone_into_again(root: Path) -> None:
    loader = module(root).train_dataloader()
    expected = epoch(loader, 1)
    epoch(loader, 0)
    state = loader.state_dict()
    assert state == {"epoch": 0, "batches": len(loader)}
    resumed = module(root).train_dataloader()
    resumed.load_state_dict(state)
    assert epoch(resumed, 1) == expected


def test_a_state_of_other_data_is_refused(root: Path) -> None:
    loader = module(root).train_dataloader()
    with pytest.raises(ProjectError, match="stopped at batch 99 of epoch 0"):
        loader.load_state_dict({"epoch": 0, "batches": 99})


class Recorder(lightning.LightningModule):
    """A model of one number that depends on every sample it saw, in order."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.log_of_batches: list[tuple[int, Seen]] = []
        self.fail_at = fail_at

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        if self.fail_at is not None and self.global_step == self.fail_at:
            raise RuntimeError("out of memory")
        self.log_of_batches.append((self.current_epoch, seen(batch)))
        return (self.weight * batch.actions.mean() - index) ** 2

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("val/loss", self.weight.detach(), batch_size=batch.size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(
    root: Path, out: Path, *, epochs: int = 3, workers: int = 0, checkpoint: str | None = None,
    fail_at: int | None = None, every: int = 1, **options: Any,
) -> tuple[Recorder, int]:  # fmt: skip
    callback = ModelCheckpoint(
        out, filename="{epoch}-{step}", save_top_k=-1, every_n_train_steps=every, save_on_exception=True
    )
    epoch_end = ModelCheckpoint(out, filename="end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    validated = ModelCheckpoint(out, filename="val-{epoch}", save_top_k=-1, monitor="val/loss")
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[callback, epoch_end, validated],
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    model, data = Recorder(fail_at), module(root, workers)
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return model, len(data.train_dataloader())


IGNORED = [
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
]


@pytest.mark.filterwarnings(*IGNORED)
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_exactly_from_any_checkpoint(root: Path, tmp_path: Path, workers: int) -> None:
    whole, per_epoch = fit(root, tmp_path / "whole", workers=workers)
    history = whole.log_of_batches
    assert len(history) == 3 * per_epoch
    checkpoints = {path.stem: path for path in (tmp_path / "whole").glob("*.ckpt")}
    middle = per_epoch + per_epoch // 2
    cases = {
        f"epoch=1-step={middle}": middle,  # in the middle of an epoch
        f"epoch=1-step={2 * per_epoch}": 2 * per_epoch,  # after its last batch, before validation
        "val-epoch=1": 2 * per_epoch,  # after validation
        "end-epoch=0": per_epoch,  # after the epoch
    }
    if workers:  # starting workers is slow; the middle is the case they could spoil
        cases = {f"epoch=1-step={middle}": middle}
    for name, done in cases.items():
        model, _ = fit(root, tmp_path / f"again-{name}", workers=workers, checkpoint=str(checkpoints[name]))
        assert model.log_of_batches == history[done:], name
        assert torch.equal(model.weight, whole.weight), name


@pytest.mark.filterwarnings(*IGNORED)
def test_a_batch_that_failed_is_given_out_again(root: Path, tmp_path: Path) -> None:
    whole, per_epoch = fit(root, tmp_path / "whole", epochs=2)
    broken = per_epoch + 2
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(root, tmp_path / "broken", epochs=2, fail_at=broken, every=1000)
    saved = tmp_path / "broken" / f"epoch=1-step={broken}.ckpt"  # written while the batch was in hand
    model, _ = fit(root, tmp_path / "again", epochs=2, checkpoint=str(saved), every=1000)
    assert model.log_of_batches == whole.log_of_batches[broken:]
    assert torch.equal(model.weight, whole.weight)


@pytest.mark.filterwarnings(*IGNORED)
def test_an_epoch_cut_short_by_a_limit_is_over(root: Path, tmp_path: Path) -> None:
    whole, _ = fit(root, tmp_path / "whole", limit_train_batches=2)
    assert [number for number, _ in whole.log_of_batches] == [0, 0, 1, 1, 2, 2]
    saved = str(tmp_path / "whole" / "end-epoch=0.ckpt")
    model, _ = fit(root, tmp_path / "again", checkpoint=saved, limit_train_batches=2)
    assert model.log_of_batches == whole.log_of_batches[2:]


@pytest.mark.filterwarnings(*IGNORED)
def test_overfitting_sees_one_batch_in_one_wording(root: Path, tmp_path: Path) -> None:
    model, _ = fit(root, tmp_path / "overfit", epochs=4, overfit_batches=1)
    assert [number for number, _ in model.log_of_batches] == [0, 1, 2, 3]
    assert len({batch for _, batch in model.log_of_batches}) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings(*IGNORED)
def test_two_processes_share_an_epoch(root: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
import lightning, torch
from tests.data.test_loader import Recorder, module
out = Path(sys.argv[2])
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
model, data = Recorder(), module(Path(sys.argv[1]))
trainer.fit(model, data)
batches = [[epoch, keys] for epoch, (keys, _) in model.log_of_batches]
(out / f"rank{trainer.global_rank}.json").write_text(json.dumps([batches, model.weight.item()]))
"""
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(script), str(root), str(tmp_path)], check=True, env=environment, timeout=240
    )
    (one, weight_one), (two, weight_two) = (
        json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1)
    )
    assert weight_one == weight_two
    for number in range(2):
        expected = [[list(key) for key in keys] for keys, _ in epoch(module(root).train_dataloader(), number)]
        parts = [[keys for n, keys in part if n == number] for part in (one, two)]
        assert len(parts[0]) == len(parts[1])
        alternating = [keys for pair in zip(*parts, strict=True) for keys in pair]
        # The last rounds are cut anew where they would not come out even; no sample is lost or seen twice.
        even = len(expected) // 2 * 2 - 2
        assert alternating[:even] == expected[:even]
        assert len(alternating) == len(expected) + len(expected) % 2
        assert sorted(sum(alternating, [])) == sorted(sum(expected, []))
