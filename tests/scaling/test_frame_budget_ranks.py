"""Several processes under a frame budget: the training of one process without it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from tests.scaling.conftest import record_of

Run = Callable[..., dict[str, float]]
EPOCH = ["data.sampler.episodes_per_batch=1", "trainer.max_epochs=1"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(checkpoint_path(folder, "last"))["state_dict"]
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """One process, no limit, the same global batches."""
    folder = tmp_path_factory.mktemp("one") / "run"
    run(folder, *EPOCH, "trainer.accumulate_grad_batches=2")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "budget"), [("ddp", "4"), ("fsdp", "7")])
def test_two_processes_train_the_same_in_parts(
    one: Path, run: Run, tmp_path: Path, trainer: str, budget: str
) -> None:
    """Episodes have 6 to 9 frames: with 7 at once the processes would call layers differently often."""
    limit = f"data.max_frames_per_batch={budget}"
    run(tmp_path / "two", *EPOCH, f"trainer={trainer}", "trainer.accelerator=cpu", limit)
    ours, theirs = weights(tmp_path / "two"), weights(one)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6, msg=name)
    assert record_of(tmp_path / "two")["training"]["processes"] == 2


def test_a_number_is_not_sought_where_weights_are_divided(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"found auto with trainer=fsdp"):
        run(tmp_path / "two", "trainer=fsdp", "trainer.accelerator=cpu", "data.max_frames_per_batch=auto")
