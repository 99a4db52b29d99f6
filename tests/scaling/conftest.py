"""Small runs in this process and in processes of their own, as tests/experiment makes them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from src.train import train

ROOT = Path(__file__).resolve().parents[2]
Config = Callable[..., DictConfig]


@pytest.fixture(scope="session")
def small_cfg(compose: Callable[..., Any], small_overrides: list[str]) -> Config:
    """`small_cfg(folder, *overrides)`: the composed config of a small run into `folder`."""

    def composed(folder: Path, *overrides: str) -> DictConfig:
        cfg: DictConfig = compose("train", *small_overrides, f"run_folder={folder}", *overrides)
        cfg.evaluation = None
        return cfg

    return composed


@pytest.fixture(scope="session")
def run(small_cfg: Config) -> Callable[..., dict[str, float]]:
    """`run(folder, *overrides)`: train in this process; returns the figures."""

    def trained(folder: Path, *overrides: str) -> dict[str, float]:
        return train(small_cfg(folder, *overrides))

    return trained


@pytest.fixture(scope="session")
def start(small_overrides: list[str]) -> Callable[..., "subprocess.Popen[str]"]:
    """`start(*overrides)`: src.train in a process of its own, with the small run's overrides before these."""

    def started(*arguments: str, small: bool = True) -> "subprocess.Popen[str]":
        flags = [text for text in arguments if text.startswith("--")]  # argparse wants them first
        rest = [text for text in arguments if text not in flags]
        return subprocess.Popen(
            [sys.executable, "-m", "src.train", *flags, *(small_overrides if small else []), *rest],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return started


def record_of(folder: Path) -> dict[str, Any]:
    """run.json as it stands."""
    fields: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return fields


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]", seconds: float = 240) -> None:
    """Wait until `condition`; a process that ended before it is a failure with its output."""
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}:\n{process.communicate()[0]}")
        assert time.monotonic() < until, "took too long"
        time.sleep(0.05)
