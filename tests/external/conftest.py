"""What the tests of the external benchmark share."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from src.data.actions import ActionSpace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def space() -> ActionSpace:
    """The action space of conf/data/action/babyai.yaml."""
    tree = yaml.safe_load((ROOT / "conf/data/action/babyai.yaml").read_text(encoding="utf-8"))
    tree.pop("_target_")
    return ActionSpace(**tree)


@pytest.fixture(scope="session")
def actions() -> list[np.ndarray]:
    """Recorded actions of two drives: forward five times in eight; first left, then forward."""
    left, ahead, right = (0.0, np.pi / 2), (1.0, 0.0), (0.0, -np.pi / 2)
    return [
        np.array([left, ahead, ahead, right], dtype=np.float32),
        np.array([left, ahead, ahead, ahead], dtype=np.float32),
    ]
