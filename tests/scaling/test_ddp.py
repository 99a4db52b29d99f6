"""Several processes on one run: the same training as one process, one record, and no process left behind."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, load_policy, read_checkpoint
from src.experiment.csv_logger import read_metrics
from src.experiment.ranks import refuse_foreign_start
from src.experiment.signals import Interrupted
from tests.scaling.conftest import Config, record_of, wait_for

Run = Callable[..., dict[str, float]]
Start = Callable[..., "subprocess.Popen[str]"]
EXACT = ["data.sampler.episodes_per_batch=1", "callbacks.checkpoint.every_n_steps=1"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"]
EPOCHS = 6
LONG = [*DDP, *EXACT, f"trainer.max_epochs={EPOCHS}"]


def weights(folder: Path, which: str = "last") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(checkpoint_path(folder, which))["state_dict"]
    return found


def same(a: Path, b: Path, tolerance: float) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=name)


def others_of(pid: int) -> list[int]:
    """Living processes that `pid` has started."""
    listing = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [int(row[0]) for row in rows if not row[1].startswith("Z")]


def is_running(pid: int) -> bool:
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Two processes, 10 batches an epoch, from the first to the last step."""
    folder = tmp_path_factory.mktemp("ddp") / "run"
    run(folder, *LONG)
    return folder


@pytest.mark.slow
def test_two_processes_train_what_one_trains_on_the_same_global_batches(
    whole: Path, run: Run, tmp_path: Path
) -> None:
    run(tmp_path / "one", *EXACT, f"trainer.max_epochs={EPOCHS}", "trainer.accumulate_grad_batches=2")
    same(whole, tmp_path / "one", 1e-6)
    two, one = read_metrics(whole), read_metrics(tmp_path / "one")
    for key, tolerance in (("val/loss", 1e-6), ("val/mae/linear_x", 1e-6)):
        found, expected = ([row[key] for row in rows if key in row] for rows in (two, one))
        assert found == pytest.approx(expected, abs=tolerance) and len(found) == EPOCHS
    steps = [row["step"] for row in two if "train/loss" in row]
    assert steps == sorted(set(steps)) and len(steps) == 5 * EPOCHS  # one writer
    record = record_of(whole)
    assert record["state"] == "finished" and record["training"]["processes"] == 2
    assert record["training"]["steps"] == 5 * EPOCHS
    assert record["training"]["windows"] == EPOCHS * record["data"]["splits"]["train"]["frames_used"]
    assert load_policy(whole)[0] is not None
    assert {p.name for p in whole.iterdir()} >= {"run.json", "metrics.csv", "checkpoints"}
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


@pytest.mark.slow
def test_divided_frozen_weights_train_the_same_and_leave_the_same_files(
    whole: Path, run: Run, tmp_path: Path
) -> None:
    run(tmp_path / "run", *LONG, "trainer=fsdp", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1")
    same(whole, tmp_path / "run", 1e-6)
    assert read_checkpoint(checkpoint_path(tmp_path / "run", "last")).keys() == (
        read_checkpoint(checkpoint_path(whole, "last")).keys()
    )
    assert load_policy(tmp_path / "run")[0] is not None


@pytest.mark.slow
@pytest.mark.timeout(900)  # five starts of torch, one after the other
def test_broken_off_in_every_way_it_goes_on_to_the_same_weights(
    whole: Path, start: Start, run: Run, tmp_path: Path
) -> None:
    """A cluster's signal, then one process killed, then the first one killed; each time nothing stays behind.

    This process is the first one where it survives, which saves its start.
    """
    folder = tmp_path / "run"

    def step() -> int:
        if not (folder / "run.json").exists():
            return 0
        return int(record_of(folder)["checkpoints"].get("last", {}).get("step", 0))

    with (
        once(lambda: step() >= 2, lambda _: os.kill(os.getpid(), signal.SIGUSR1)) as others,
        pytest.raises(Interrupted) as stopped,
    ):
        run(folder, *LONG)
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert record_of(folder)["state"] == "interrupted"
    assert len(others) == 1 and not any(map(is_running, others))
    reached = step()

    with (
        once(lambda: step() > reached, lambda started: os.kill(started[0], signal.SIGKILL)) as others,
        pytest.raises(ProjectError, match="process 1 of 2 was killed by signal 9") as failed,
    ):
        run(folder, f"resume={folder}")
    record = record_of(folder)
    assert record["state"] == "failed" and record["error"] == str(failed.value)
    assert not any(map(is_running, others))
    reached = step()

    third = start(f"resume={folder}", small=False)
    wait_for(lambda: step() > reached, third)
    (other,) = others_of(third.pid)
    third.kill()
    third.communicate(timeout=60)
    wait_for_end(other)
    assert 2 <= reached < step() < 5 * EPOCHS, "each of the three went on, and none to the end"

    run(folder, f"resume={folder}")
    assert record_of(folder)["state"] == "finished" and len(record_of(folder)["starts"]) == 4
    same(whole, folder, 0.0)
    keys = ("step", "train/loss", "val/loss")
    rows = [[{k: row[k] for k in keys if k in row} for row in read_metrics(f)] for f in (whole, folder)]
    # A step's row follows its checkpoint, so a kill between the two costs that one row; there were two kills.
    assert [row for row in rows[0] if row in rows[1]] == rows[1]
    lost = [row for row in rows[0] if row not in rows[1]]
    assert len(lost) <= 2 and not any("val/loss" in row for row in lost)


@contextmanager
def once(condition: Callable[[], bool], act: Callable[[list[int]], None]) -> Iterator[list[int]]:
    """Beside a run in this process: `act` as soon as `condition` holds, told the processes that this one has started.
    Yields the list of these, filled by then."""
    before = others_of(os.getpid())
    others: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if condition():
                others.extend(pid for pid in others_of(os.getpid()) if pid not in before and is_rank(pid))
                act(others)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield others
    finally:
        over.set()
        thread.join()


def is_rank(pid: int) -> bool:
    """Is this a process of a run, not the `ps` that lists them?"""
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "src.train" in shown.stdout


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < until, f"process {pid} outlived its run"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_arms_one_after_the_other_in_one_command(start: Start, tmp_path: Path) -> None:
    process = start(
        "--multirun", *DDP, "trainer.limit_train_batches=1", "optimizer.lr=1e-3,1e-4",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output
    arms = sorted(p for p in tmp_path.iterdir() if p.is_dir())
    assert len(arms) == 2 and [record_of(arm)["state"] for arm in arms] == ["finished"] * 2
    assert not (Path.cwd() / "train.log").exists()
    second = record_of(arms[0])["training"]["first_step_s"], record_of(arms[1])["training"]["first_step_s"]
    assert sum(second) < sum(record_of(arm)["wall_s"] for arm in arms) + 60


def test_a_resumed_run_keeps_its_number_of_processes(run: Run, small_cfg: Config, tmp_path: Path) -> None:
    from src.experiment.ranks import refuse_other_size

    refuse_other_size({}, 2, tmp_path)
    refuse_other_size({"processes": 2}, 2, tmp_path)
    with pytest.raises(ProjectError, match=r"began with 2 processes, found 1; .*trainer\.devices"):
        refuse_other_size({"processes": 2}, 1, tmp_path)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.strategy=ddp_spawn", "trainer.strategy: found DDPStrategy"),
        ("+trainer.num_nodes=2", "trainer.num_nodes: found 2"),
    ],
)
def test_other_ways_to_share_the_work_are_refused(
    run: Run, tmp_path: Path, override: str, sentence: str
) -> None:
    with pytest.raises(ProjectError, match=sentence):
        run(tmp_path / "run", "trainer.devices=2", "trainer.strategy=ddp", override)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_STEP_NUM_TASKS"])
def test_a_run_started_several_times_by_another_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    refuse_foreign_start()
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ProjectError, match=f"{variable}: found 4"):
        refuse_foreign_start()


# ---------------------------------------------------------------- questions to all ranks


def _ask(rank: int, port: int, answers: Any) -> None:
    from datetime import timedelta

    from src.experiment import ranks

    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timeout=timedelta(seconds=30), rank=rank, world_size=3
    )
    cpu = torch.device("cpu")
    answers[rank] = (
        ranks.agreed(0, cpu),
        ranks.agreed([0, 15, 10][rank], cpu),
        ranks.total(rank + 0.5, cpu),
        ranks.first_sentence(None, cpu),
        ranks.first_sentence("NaN in ep_07" if rank == 1 else None, cpu),
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_hear_the_same_answer() -> None:
    """So a NaN on one process, or a signal to one, stops all of them with the sentence of the one."""
    from src.experiment.ranks import _free_port

    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        answers = manager.dict()
        port = _free_port()
        processes = [context.Process(target=_ask, args=(rank, port, answers)) for rank in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert dict(answers) == dict.fromkeys(range(3), (0, 15, 4.5, None, "rank 1 of 3: NaN in ep_07"))


def test_one_process_asks_itself() -> None:
    from src.experiment import ranks

    cpu = torch.device("cpu")
    assert ranks.agreed(15, cpu) == 15 and ranks.total(3, cpu) == 3
    assert ranks.first_sentence(None, cpu) is None and ranks.first_sentence("NaN", cpu) == "NaN"
