"""A stand-in for the W&B server around each test, and runs that log to it without a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wandb.runs import LoggedRun, logged
from tests.wandb.standin import Standin, serving

Log = Callable[..., LoggedRun]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """A server of its own for this test, that this process is logged in to; W&B starts and ends with the test."""
    from src.experiment import wandb_server

    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    with serving() as standin:
        for key, value in standin.environment(str(home)).items():
            monkeypatch.setenv(key, value)
        wandb_server.abandon()  # one of an earlier test talks to another server
        try:
            yield standin
        finally:
            wandb_server.abandon()
        assert standin.unknown == [], "the client asked for something that the stand-in does not know"


@pytest.fixture
def log(server: Standin) -> Log:
    """`log(folder, rows=12, …)`: a run that logs and ends, see `tests.wandb.runs.logged`."""
    return logged
