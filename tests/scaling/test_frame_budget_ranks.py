"""Several processes under a frame budget: the training of one process without it."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from src.experiment.frame_budget import MARGIN
from src.model.backbone.tiny import TinySizes, build_tiny
from tests.scaling.conftest import record_of

Run = Callable[..., dict[str, float]]
FREE = 60e6  # 18 of 36 frames fit; all of them with 90e6, 9 with 50e6
EPOCH = ["data.sampler.episodes_per_batch=1", "trainer.max_epochs=1"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(checkpoint_path(folder, "last"))["state_dict"]
    return found


def kosmos(folder: Path, **sizes: int) -> str:
    """The override that chooses a random Kosmos-2 of these sizes, with several text layers."""
    words = ["drive to the red ball on its left right side", "An image of a robot"]
    build_tiny(
        folder, words, TinySizes(image_size=32, patch_size=16, vision_width=32, vision_layers=1, **sizes)
    )
    return f"model.backbone.checkpoint={folder}"


def same(ours: Path, theirs: Path) -> None:
    found, expected = weights(ours), weights(theirs)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three text layers: what is divided is put together and let go several times in each call."""
    sizes = {"text_width": 32, "text_layers": 3, "heads": 2, "latents": 4, "max_tokens": 96}
    return kosmos(tmp_path_factory.mktemp("deep") / "kosmos", **sizes)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, run: Run, deep: str) -> Path:
    """One process, no limit, the same global batches."""
    folder = tmp_path_factory.mktemp("one") / "run"
    run(folder, *EPOCH, deep, "trainer.accumulate_grad_batches=2")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "budget"), [("ddp", "4"), ("fsdp", "7")])
def test_two_processes_train_the_same_in_parts(
    one: Path, run: Run, deep: str, tmp_path: Path, trainer: str, budget: str
) -> None:
    """Episodes have 6 to 9 frames: with 7 at once the processes would call layers differently often."""
    limit = f"data.max_frames_per_batch={budget}"
    run(tmp_path / "two", *EPOCH, deep, f"trainer={trainer}", "trainer.accelerator=cpu", limit)
    same(tmp_path / "two", one)
    assert record_of(tmp_path / "two")["training"]["processes"] == 2


class LessMemory(pl.Callback):
    """Leaves one process of a run only so much memory as it holds when the training begins, and `free` bytes more."""

    def __init__(self, rank: int, free: float) -> None:
        self.rank, self.free = rank, free

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_rank == self.rank:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = int((taken + self.free) / (1 - MARGIN))
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_where_one_process_lacks_memory_both_take_its_number(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory really runs out, in the process that this one starts; what is learned stays the same."""
    for name, value in (("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_ARENA_MAX", "1")):
        monkeypatch.setenv(name, value)  # freed memory goes back at once, so what is taken is what is held
    sizes = {"text_width": 128, "text_layers": 2, "heads": 4, "latents": 64, "max_tokens": 160}
    small = [
        kosmos(tmp_path / "kosmos", **sizes),
        "trainer.max_epochs=1",
        "data.sampler.episodes_per_batch=5",
    ]
    run(tmp_path / "one", *small, "trainer.accumulate_grad_batches=2")
    run(
        tmp_path / "two", *small, "trainer=ddp", "trainer.accelerator=cpu", "data.max_frames_per_batch=auto",
        "+callbacks.less._target_=tests.scaling.test_frame_budget_ranks.LessMemory", "+callbacks.less.rank=1",
        f"+callbacks.less.free={FREE}",
    )  # fmt: skip
    assert "more do not fit the memory" in capsys.readouterr().out
    assert 3 <= record_of(tmp_path / "two")["training"]["max_frames_per_batch"] < 36
    same(tmp_path / "two", tmp_path / "one")


def test_a_number_is_not_sought_where_weights_are_divided(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"found auto with trainer=fsdp"):
        run(tmp_path / "two", "trainer=fsdp", "trainer.accelerator=cpu", "data.max_frames_per_batch=auto")
