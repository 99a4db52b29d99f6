"""The action space: classes, checks, and its YAML files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.lab_keys import KEYS, UNITS

YAMLS = sorted(Path("conf/data/action").glob("*.yaml"))
FIELDS: dict[str, Any] = {
    "names": ["x", "w"],
    "units": ["m/s", "rad/s"],
    "low": [-0.5, -2],
    "high": [1, 2],
    "control_period": 0.25,
    "classes": {"stop": [0, 0], "ahead": [1, 0], "arc": [1, 1], "spin": [0, -1]},
}


def loaded(path: Path | str) -> Any:
    """What the YAML at `path` builds."""
    tree = OmegaConf.load(path)
    assert isinstance(tree, DictConfig)
    return build(tree)


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.stem)
def test_every_yaml_builds_and_classifies_its_own_directions(path: Path) -> None:
    space = loaded(path)
    assert isinstance(space, ActionSpace)
    directions = np.array(list(space.classes.values())) * space.scale
    np.testing.assert_array_equal(space.classify(directions), np.arange(len(space.classes)))
    np.testing.assert_array_equal(space.classify(0.3 * directions), np.arange(len(space.classes)))
    assert ActionSpace.from_dict(space.to_dict()) == space


def test_there_are_yamls() -> None:
    assert {"omni3d", "omni2d", "diff_drive", "lab_keys"} <= {path.stem for path in YAMLS}


def test_axes_have_one_name_unit_and_sense_in_every_yaml() -> None:
    """REP-103 by name: forward and left in m/s, counter-clockwise in rad/s, and the class names mean the same."""
    for path in YAMLS:
        space = loaded(path)
        assert all(UNITS[name] == unit for name, unit in zip(space.names, space.units, strict=True)), path
        for name, vector in space.classes.items():
            full = dict.fromkeys(UNITS, 0.0) | dict(zip(space.names, vector, strict=True))
            if {"linear_x", "linear_y"} <= set(space.names):  # an arc of a differential drive has no key
                assert tuple(full.values()) == KEYS.classes[name], (path, name)
            assert full["linear_x"] >= 0 or "backward" in name
            assert np.sign(full["linear_y"] + full["angular_z"]) == ("left" in name) - ("right" in name)


def test_the_readers_keys_are_the_yaml_s() -> None:
    assert loaded("conf/data/action/lab_keys.yaml") == KEYS


def test_lists_become_tuples_and_shapes_are_kept() -> None:
    space = ActionSpace(**FIELDS)
    assert space.names == ("x", "w")
    assert space.high == (1.0, 2.0)
    assert space.classes["arc"] == (1.0, 1.0)
    assert space.dim == 2
    result = space.classify(np.zeros((4, 5, 2)))
    assert result.shape == (4, 5)
    assert result.dtype == np.int64


def test_threshold_is_a_tenth_of_the_limits_per_axis() -> None:
    space = ActionSpace(**FIELDS)
    actions = np.array([[0.0999, -0.199], [0.1001, 0.0], [0.0, -0.2001]])
    assert [space.class_names[i] for i in space.classify(actions)] == ["stop", "ahead", "spin"]


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-4, 4)), min_size=1, max_size=20))
def test_classify_equals_a_slow_loop_over_angles(actions: list[tuple[float, float]]) -> None:
    space = ActionSpace(**FIELDS)
    for action, found in zip(actions, space.classify(np.array(actions)), strict=True):
        scaled = [action[0] / 1.0, action[1] / 2.0]
        if max(abs(scaled[0]), abs(scaled[1])) < 0.1:
            assert found == 0
            continue
        angles = []
        for vector in list(space.classes.values())[1:]:
            cosine = np.dot(vector, scaled) / (np.linalg.norm(vector) * np.linalg.norm(scaled))
            angles.append(np.arccos(np.clip(cosine, -1, 1)))
        assert found > 0
        assert angles[found - 1] <= min(angles) + 1e-3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("names", [], "names is empty"),
        ("names", ["x", "x"], "repeats an axis"),
        ("names", "x", "expected a list"),
        ("units", ["m/s"], "units has 1 values for 2 axes"),
        ("low", [0.0], "low has 1 values for 2 axes"),
        ("low", [1, -2], "axis x has low 1.0 and high 1.0"),
        ("low", [float("nan"), 0], "finite"),
        ("high", ["a", 1], "expected a list of numbers"),
        ("control_period", 0, "control_period is 0"),
        ("control_period", float("inf"), "control_period"),
        ("classes", {"stop": [0, 0], "a": [1]}, "classes.a has 1 numbers for 2 axes"),
        ("classes", {"a": [1, 0]}, "exactly one class of zeros .* found 0"),
        ("classes", {"a": [0, 0], "b": [0, 0]}, "found 2"),
        ("classes", [1], "must map"),
    ],
)
def test_bad_values_name_their_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        ActionSpace(**{**FIELDS, key: value})


def test_classify_refuses_what_it_cannot_judge() -> None:
    space = ActionSpace(**FIELDS)
    with pytest.raises(ProjectError, match="NaN"):
        space.classify(np.array([[np.nan, 0]]))
    with pytest.raises(ProjectError, match="2 axes"):
        space.classify(np.zeros((3, 3)))
    with pytest.raises(ProjectError, match="classes is empty"):
        ActionSpace(**{**FIELDS, "classes": {}}).classify(np.zeros((1, 2)))
