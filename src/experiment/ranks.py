"""Owns the processes that train one run together: rank 0, which the user started, and those that it starts.

In: a trainer of several devices. Out: one process per device, each in the same run folder with the same config; rank 0
alone prepares data, writes, prints and evaluates, the others follow it and leave after the training. Collective
questions (`agreed`, `first_sentence`, `total`) get one answer on all of them, so that no rank waits for one that left.

Lightning would start the command line again, which in a sweep means the whole sweep; here the others are told the
config and the checkpoint on their standard input. They end when rank 0 ends, however it ends, and it ends when one of
them is lost: no process stays behind.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from src.core.errors import ProjectError
from src.experiment import preemption
from src.experiment.signals import Interrupted, Pruned

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from src.experiment.run_record import RunRecord

_ROOT = Path(__file__).resolve().parents[2]
_MARK = "MOBILE_VLA_RANK"  # number of the process within the run; rank 0 has none
_LEAVE_S = 60.0  # how long the others may take to leave after the training
_STUCK_S = 20.0  # how long rank 0 may wait for a lost process before it ends the run
_BLAME_S = 5.0  # a process that failed takes so long to end after its connections broke


@dataclass(frozen=True)
class Post:
    """What rank 0 told this process: config, run folder and the checkpoint to start from."""

    cfg: DictConfig
    folder: Path
    checkpoint: Path | None


def rank() -> int:
    """Number of this process within its run; 0 for the one the user started."""
    return int(os.environ.get(_MARK, "0"))


@functools.cache
def post() -> Post | None:
    """What rank 0 wants of this process, None in rank 0 itself. Begins to watch whether rank 0 lives."""
    if rank() == 0:
        return None
    for signum in preemption.SIGNALS:  # until the training heeds them
        signal.signal(signum, signal.SIG_IGN)
    told = OmegaConf.create(sys.stdin.read())
    threading.Thread(target=_follow, args=(int(told.parent),), daemon=True).start()
    checkpoint = told.checkpoint
    return Post(
        OmegaConf.create(told.config), Path(told.folder), None if checkpoint is None else Path(checkpoint)
    )


def _follow(parent: int) -> None:
    """End with rank 0, also where this process waits in a collective that nobody will finish."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def refuse_foreign_start() -> None:
    """One command starts one run; it starts its other processes itself.

    Raises:
        ProjectError: torchrun, srun or the like started several of it.
    """
    if rank() != 0:
        return
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    for name, foreign in (
        ("LOCAL_RANK", "LOCAL_RANK" in os.environ),
        ("SLURM_STEP_NUM_TASKS", tasks not in ("", "1")),
    ):
        if foreign:
            raise ProjectError(
                f"{name}: found {os.environ[name]}, so another program starts the processes of this run, expected one; "
                "start it once (no torchrun, one task in SLURM): trainer=ddp starts one process per device itself."
            )


# ---------------------------------------------------------------- questions to all ranks


def _several() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agreed(value: int, device: Any) -> int:
    """The largest `value` of all ranks; every rank has to ask. Costs one exchange of a number."""
    if not _several():
        return value
    import torch

    shared = torch.tensor(value, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return int(shared)


def total(value: float, device: Any) -> float:
    """The sum of `value` over all ranks; every rank has to ask."""
    if not _several():
        return value
    import torch

    shared = torch.tensor(
        value, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
    )
    torch.distributed.all_reduce(shared)
    return float(shared)


def first_sentence(sentence: str | None, device: Any) -> str | None:
    """What is wrong on the first rank where something is, None where nothing is; every rank has to ask."""
    if not agreed(int(sentence is not None), device):
        return None
    if not _several():
        return sentence
    import torch

    sentences: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(sentences, sentence)
    return next(
        f"rank {index} of {len(sentences)}: {text}"
        for index, text in enumerate(sentences)
        if text is not None
    )


# ---------------------------------------------------------------- the other processes


class Crew:
    """The other processes of a run while it trains, as a context manager of rank 0. Does nothing for one device."""

    def __init__(self, size: int, record: RunRecord, checkpoint: Path | None) -> None:
        """
        Args:
            size: processes of the run, this one included.
            record: of the run; says where it lies and with which config.
            checkpoint: to start from.
        """
        self.size, self.record, self.checkpoint = size, record, checkpoint
        self._others: dict[int, subprocess.Popen[str]] = {}
        self._over = threading.Event()
        self._environment: dict[str, str | None] = {}
        self._threads = 0

    def __enter__(self) -> Crew:
        if self.size == 1 or rank() != 0:
            return self
        import torch

        self._threads = torch.get_num_threads()
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.size),
        }
        self._environment = {key: os.environ.get(key) for key in (*shared, "OMP_NUM_THREADS")}
        os.environ.update(shared)
        try:
            for index in range(1, self.size):
                self._others[index] = self._start(index)
        except BaseException:
            self._end()
            raise
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _start(self, index: int) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, _MARK: str(index), "LOCAL_RANK": str(index), "PYTHONPATH": path}
        with self._log(index).open("w") as log:
            process = subprocess.Popen(
                # The config comes by standard input; Hydra only opens the door and leaves no trace.
                [sys.executable, "-m", "src.train", "hydra.run.dir=.", "hydra.output_subdir=null",
                 "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, text=True, env=environment,
                start_new_session=True,  # Ctrl-C reaches rank 0, which stops all of them after the same step
            )  # fmt: skip
        told = {
            "config": self.record.config,
            "folder": str(self.record.folder),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "parent": os.getpid(),
        }
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(OmegaConf.to_yaml(OmegaConf.create(told)))
        return process

    def _log(self, index: int) -> Path:
        return self.record.folder / f"rank{index}.log"

    def _watch(self) -> None:
        """A lost process makes the others wait for it; where their waiting does not end, end the run."""
        while not self._over.wait(0.5):
            if self._lost() is not None and not self._over.wait(_STUCK_S):
                error = ProjectError(self._blame() or "a process of the run was lost")
                self.record.__exit__(ProjectError, error, None)
                self._kill()
                print(error, file=sys.stderr, flush=True)
                os._exit(1)

    def _lost(self) -> int | None:
        """The first process that ended badly."""
        return next((k for k, p in self._others.items() if p.poll() not in (None, 0)), None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._others:
            return
        self._over.set()
        expected = isinstance(error, (ProjectError, Interrupted, Pruned, KeyboardInterrupt))
        if error is not None and not expected:
            self._wait(_BLAME_S, until_lost=True)
        patience = _LEAVE_S if error is None or expected else 0.0
        self._wait(patience)
        blame = None if expected else self._blame()
        self._end()
        if blame is not None:
            raise ProjectError(blame) from error

    def _blame(self) -> str | None:
        index = self._lost()
        if index is None:
            return None
        code = self._others[index].returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        said = self._log(index).read_text(errors="replace").strip()
        reason = f" (what it said stands in {self._log(index).name})" if said else ""
        return (
            f"{self.record.folder}: process {index} of {self.size} {how}{reason}, expected all of them to train to the "
            "end; go on from the last checkpoint with resume=<run>."
        )

    def _wait(self, seconds: float, until_lost: bool = False) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(p.poll() is None for p in self._others.values()):
            if until_lost and self._lost() is not None:
                return
            time.sleep(0.05)

    def _kill(self) -> None:
        for process in self._others.values():
            if process.poll() is None:
                process.kill()

    def _end(self) -> None:
        """End those that stay, and make this process the only one again."""
        import torch

        self._kill()
        for process in self._others.values():
            process.wait()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            with suppress(RuntimeError):  # of peers that are gone
                torch.distributed.destroy_process_group()
        for index in self._others:
            if self._log(index).stat().st_size == 0:
                self._log(index).unlink()
        torch.set_num_threads(self._threads)
        for key, value in self._environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refuse_other_size(training: Mapping[str, Any], size: int, folder: Path) -> None:
    """A run goes on with as many processes as it began with: the shares of an epoch depend on it.

    Raises:
        ProjectError: it began with another number.
    """
    began = training.get("processes")
    if began is not None and began != size:
        raise ProjectError(
            f"{folder}: began with {began} processes, found {size}; go on where trainer.devices gives {began}, or "
            "start a new run."
        )


def sanctioned(trainer: Trainer) -> int:
    """The number of processes of a trainer whose way to start them is this module's.

    Raises:
        ProjectError: several machines, or a strategy that shares the work in another way.
    """
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

    from src.experiment.sharded import FrozenSharded

    if trainer.num_nodes != 1:
        raise ProjectError(
            f"trainer.num_nodes: found {trainer.num_nodes}, expected 1; a run has one machine, a sweep has as many as "
            "its launcher finds."
        )
    strategy = trainer.strategy
    starts = getattr(strategy, "_start_method", "popen") == "popen"
    ours = (DDPStrategy, FrozenSharded, SingleDeviceStrategy)
    if not starts or not isinstance(strategy, ours):
        raise ProjectError(
            f"trainer.strategy: found {type(strategy).__name__}, expected auto, trainer=ddp or trainer=fsdp; "
            "choose one of them."
        )
    return int(trainer.world_size)
