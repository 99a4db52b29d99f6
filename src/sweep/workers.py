"""Owns who works on a trial, and whether that process still lives.

In: the sweep's folder and an Optuna storage. Out: marks on running trials (`owner`, `seen`), and the answer whether the
owner of one is dead, so that somebody else may take it up. On one machine a lock tells: the system lets go of it
however its process ends. A process of another machine is dead when it has not been seen for long enough.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

OWNER, SEEN = "owner", "seen"
_SETTLE_S = 2.0
"""Seconds between a claim across machines and reading it back: longer than any write takes (Fischer's protocol)."""


class Worker:
    """This process, while it works on a study; a context manager.

    Args:
        storage: of the study.
        folder: of the sweep; the lock lies in its `.workers/`.
        stale_after_s: seconds without a sign of life after which a process of another machine is given up.
    """

    def __init__(self, storage: BaseStorage, folder: Path, stale_after_s: float) -> None:
        self.storage, self.stale_after_s = storage, stale_after_s
        self.owner = {
            "id": uuid.uuid4().hex[:12],
            "host": socket.gethostname(),
            "folder": str(folder.resolve()),
        }
        self._open: set[int] = set()
        self._mutex, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._lock: IO[str] | None = None

    def __enter__(self) -> Worker:
        path = _lock_path(self.owner)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("w")
        # A lock of the process, not of the open file: a child that outlives it must not look like the worker.
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        assert self._lock is not None
        if not self._open:
            _lock_path(self.owner).unlink(missing_ok=True)  # nobody will ask about it any more
        self._lock.close()

    # ---- this process's trials

    def begin(self, trial_id: int) -> None:
        """Mark a trial as ours."""
        self.storage.set_trial_user_attr(trial_id, OWNER, self.owner)
        self.storage.set_trial_user_attr(trial_id, SEEN, time.time())
        with self._mutex:
            self._open.add(trial_id)

    def end(self, trial_id: int) -> None:
        """Mark nothing more on a trial."""
        with self._mutex:
            self._open.discard(trial_id)

    def _beat(self) -> None:
        while not self._end.wait(min(30.0, self.stale_after_s / 10)):
            with self._mutex:
                for trial_id in self._open:
                    # A server that is away for a moment is asked again at the next beat; the main thread will tell.
                    with suppress(StorageInternalError, UpdateFinishedTrialError):
                        self.storage.set_trial_user_attr(trial_id, SEEN, time.time())

    # ---- other processes' trials

    def take_up(self, trial: FrozenTrial, guarded: bool) -> bool:
        """Make a dead process's trial ours; False: its process lives, or somebody else was faster.

        Args:
            trial: running, not ours.
            guarded: the study is in a file, and this process holds the lock under which trials are begun.
        """
        owner = trial.user_attrs.get(OWNER)
        if owner is not None and owner["id"] == self.owner["id"]:
            with self._mutex:
                free = trial._trial_id not in self._open  # claimed before, and let go of again
                self._open.add(trial._trial_id)
            return free
        with self._grave(trial, owner, guarded) as (dead, known):
            if not dead:
                return False
            now = self.storage.get_trial(trial._trial_id)
            if now.state.is_finished() or now.user_attrs.get(OWNER) != owner:
                return False
            self.storage.set_trial_user_attr(trial._trial_id, OWNER, self.owner)
            self.storage.set_trial_user_attr(trial._trial_id, SEEN, time.time())
            if not known:
                time.sleep(_SETTLE_S)
                if self.storage.get_trial(trial._trial_id).user_attrs[OWNER] != self.owner:
                    return False
        with self._mutex:
            self._open.add(trial._trial_id)
        return True

    @contextmanager
    def _grave(
        self, trial: FrozenTrial, owner: dict[str, Any] | None, guarded: bool
    ) -> Iterator[tuple[bool, bool]]:
        """Is the owner dead, and do we know it for sure (holding its lock, so that nobody else takes the trial)?"""
        if owner is None:
            # Killed between asking and marking. Where asking needs the lock that we hold, nobody is at it now.
            began = (trial.datetime_start or datetime.now()).timestamp()
            yield guarded or self._stale(began), guarded
            return
        path = _lock_path(owner)
        if owner["host"] != self.owner["host"] or not path.exists():
            yield self._stale(float(trial.user_attrs.get(SEEN, 0.0))), False
            return
        with path.open("r+") as handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False, True
                return
            yield True, True

    def _stale(self, seen: float) -> bool:
        return time.time() - seen > self.stale_after_s


def _lock_path(owner: dict[str, Any]) -> Path:
    return Path(owner["folder"]) / ".workers" / f"{owner['id']}.lock"
