"""Owns where a study lives: a journal file beside its trials by default, or a database that several machines share.

In: hydra.sweeper.storage and the sweep's folder. Out: the place as every process names it, an Optuna storage, a lock.
A journal is the default because it needs no server and no package, and because three processes that start at once
never broke it, while two of three died creating the same SQLite file (measured with Optuna 5.0).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from src.core.errors import ProjectError
from src.core.files import exclusive

_BUSY_S = 60.0
"""Seconds that a process waits for SQLite's lock; its own default of 5 is less than a burst of reports can take."""
_ATTEMPTS = 5
"""Of creating the tables: the loser of a race between two machines sees the winner's tables a moment later."""


def place_of(storage: str | None, folder: Path) -> str:
    """The storage as jobs in other processes and working folders are told it.

    Raises:
        ProjectError: not a path that ends in .journal, nor the URL of a database; or it holds a password.
    """
    if storage is None:
        return str((folder / "study.journal").resolve())
    if "://" not in storage:
        if not storage.endswith(".journal"):
            raise ProjectError(
                f"hydra.sweeper.storage: found {storage}, expected null, a path that ends in .journal, or a URL like "
                "sqlite:///study.db or postgresql://host/database; correct it."
            )
        return str(Path(storage).resolve())
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise ProjectError(
            f"hydra.sweeper.storage: found a URL that cannot be read ({error}); correct it."
        ) from error
    if url.password is not None:
        raise ProjectError(
            "hydra.sweeper.storage: found a password, which every run.json and W&B would show; leave it out and put "
            "it into ~/.pgpass, or set the environment variable PGPASSWORD."
        )
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg" and importlib.util.find_spec("psycopg") is None:
        raise ProjectError(
            "hydra.sweeper.storage: PostgreSQL needs the package psycopg, which is not installed; run "
            "pip install -c constraints.txt -e '.[search]'."
        )
    return url.render_as_string(hide_password=False)


def file_of(place: str) -> Path | None:
    """The file that holds the study; None: a server does."""
    if "://" not in place:
        return Path(place)
    return Path(place.split("///", 1)[1]) if place.startswith("sqlite") else None


def guard(place: str, folder: Path) -> AbstractContextManager[None]:
    """A lock under which one process of this machine at a time decides about trials."""
    path = file_of(place) or folder / "study"
    return exclusive(path.with_name(f"{path.name}.ask"))


def open_storage(place: str) -> BaseStorage:
    """The storage at `place`; its tables are created by one process, however many start at once.

    Raises:
        ProjectError: it cannot be reached or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = file_of(place)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    if "://" not in place:
        return JournalStorage(JournalFileBackend(place, lock_obj=_FileLock(Path(place))))
    if path is None:
        return _database(
            place, {"pool_pre_ping": True}
        )  # a server drops what idles during an hour of training
    with exclusive(path):
        return _database(place, {"connect_args": {"timeout": _BUSY_S}})


def close(storage: BaseStorage) -> None:
    """Give the connections of a database back."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _database(place: str, engine: dict[str, object]) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return RDBStorage(place, engine_kwargs=engine)
        except ImportError as error:
            raise ProjectError(
                f"hydra.sweeper.storage: {place} needs a driver ({error}); install it."
            ) from error
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, AssertionError) as error:
            if attempt == _ATTEMPTS:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise ProjectError(
                    f"hydra.sweeper.storage: {place} cannot be used ({reason}); is the server running, and may you "
                    "write there?"
                ) from error
            time.sleep(0.3 * attempt)
    raise AssertionError("unreachable")


class _FileLock(BaseJournalFileLock):
    """The lock of a journal, which the system lets go of when its process is killed.

    Optuna's own is a link that stays, and then everybody waits 30 seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: AbstractContextManager[None] | None = None

    def acquire(self) -> bool:
        held = exclusive(self._path)
        held.__enter__()
        self._held = held
        return True

    def release(self) -> None:
        assert self._held is not None
        self._held.__exit__(None, None, None)
        self._held = None


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turn what a lost connection raises into a sentence.

    Raises:
        ProjectError: the database went away.
    """
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ProjectError(
            f"{place}: lost in the middle ({reason}); the same command again takes every trial up."
        ) from error
