"""The lab's layouts V5 and V6, and the one place where order, signs and classes of its actions are applied."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import LAYOUTS, EpisodeFile, open_episode
from src.data.lab_actions import motion
from src.data.lab_keys import AXES
from src.data.layouts import LabOptions
from src.data.scan import scan
from tests.data.builders import SPACE, make_episode, write_episode, write_lab_file, write_lab_v5, write_lab_v6

V5 = "episode_20260203_101500_target_left_right_path__core__medium.h5"
V6 = "episode_20260310_120000.h5"
F, L, R, S = (1.15, 0, 0), (0, 1.15, 0), (0, 0, -1.15), (0, 0, 0)


def pictures(steps: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(steps).integers(0, 256, (steps, size, size, 3), dtype=np.uint8)


def keys(*presses: tuple[float, float, float]) -> np.ndarray:
    return np.array(presses, np.float32)


def write_any(folder: Path, kind: str, steps: int = 4) -> Path:
    frames = pictures(steps)
    if kind == "own":
        write_episode(folder / "e0.h5", make_episode(length=steps, frames=frames))
        return folder / "e0.h5"
    if kind == "own jpeg":
        write_episode(folder / "e0.h5", make_episode(length=steps, frames=frames), frames="jpeg")
        return folder / "e0.h5"
    if kind == "V1-V4":
        return write_lab_file(folder / "episode_20260129_010422_1box_hori_left_core_medium.h5", frames)
    return write_lab_v5(folder / V5, frames) if kind == "V5" else write_lab_v6(folder / V6, frames)


KINDS = ("own", "own jpeg", "V1-V4", "V5", "V6")


# ---------------------------------------------------------------- V5 and V6


@pytest.mark.parametrize("steps", [14, 19])
def test_v5_is_read_with_its_own_sentence(tmp_path: Path, steps: int) -> None:
    frames = pictures(steps)
    path = write_lab_v5(tmp_path / V5, frames, text="Drive around the box to the basket.")
    file = open_episode(path)
    assert (file.length, file.frame_shape) == (steps, (8, 8, 3))
    assert file.scenario == "left_right"
    assert file.instructions == ("Drive around the box to the basket.",)
    assert set(file.meta.from_name) == {"id", "scenario", "pattern", "distance"}
    assert "no action is a stop, so stopping cannot be learned from the file" in file.meta.remarks
    assert "action_events" not in file.attributes
    np.testing.assert_array_equal(file.frames(3, 9), frames[3:9])
    np.testing.assert_array_equal(
        open_episode(path, LabOptions(colour_order="bgr")).frames(), frames[..., ::-1]
    )
    file.load()


@pytest.mark.parametrize("steps", [62, 80])
def test_v6_states_its_scenario_itself(tmp_path: Path, steps: int) -> None:
    """Even where the file name says something else."""
    actions = np.tile(keys(F, L), (steps // 2, 1))
    path = write_lab_v6(
        tmp_path / V5,
        pictures(steps),
        actions,
        np.tile([1, 2], steps // 2),
        position="center",
        route="straight",
    )
    file = open_episode(path, LabOptions())
    assert file.length == steps
    assert file.scenario == "center_straight"
    assert file.instructions == ()
    assert "scenario" not in file.meta.from_name
    assert file.attributes["runtime_config"] == '{"hz": 2.5}'
    assert file.attributes["control_mode"] == "keyboard"
    assert file.attributes["action_events"] == f"episode_start x1, start_action x{steps - 1}"
    assert file.attributes["action_classes"] == f"1=forward x{steps // 2}, 2=left x{steps // 2}"
    np.testing.assert_array_equal(file.frames(steps - 2), pictures(steps)[-2:])


def test_v6_without_its_attributes_is_refused(tmp_path: Path) -> None:
    path = write_lab_v6(tmp_path / V6, pictures(4))
    with h5py.File(path, "a") as file:
        del file.attrs["cx_path"]
    with pytest.raises(ProjectError, match="no attribute 'cx_path' .*'cx_position'"):
        open_episode(path, LabOptions())


def test_every_file_is_known_to_one_layout_whatever_it_is_called(tmp_path: Path) -> None:
    expected = {"own": 0, "own jpeg": 0, "V1-V4": 1, "V5": 2, "V6": 3}
    for kind, place in expected.items():
        (tmp_path / kind).mkdir()
        path = write_any(tmp_path / kind, kind)
        renamed = path.with_name("target_left_right_path_1box_hori_left.h5")
        path.rename(renamed)
        with h5py.File(renamed) as file:
            assert [layout.matches(file) for layout in LAYOUTS] == [i == place for i in range(4)], kind
        assert open_episode(renamed, LabOptions()).layout is LAYOUTS[place]


def test_frames_in_two_places_are_no_known_layout(tmp_path: Path) -> None:
    for kind in ("V1-V4", "V6"):
        path = write_any(tmp_path, kind)
        with h5py.File(path, "a") as file:
            file["observations/images"] = pictures(4)
        with pytest.raises(ProjectError, match="no known layout"):
            open_episode(path, LabOptions())


# ---------------------------------------------------------------- processes


def _checksum(file: EpisodeFile) -> int:
    return int(file.frames().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_closed_between_calls_and_pickled_without_frames(tmp_path: Path, kind: str) -> None:
    path = write_any(tmp_path, kind, 30)
    file = open_episode(path, LabOptions())
    total = _checksum(file)
    held = [link for link in _open_files() if link.endswith(".h5")]
    assert not held
    packed = pickle.dumps(file)
    assert len(packed) < 5000  # 30 frames of 8 px are 5,760 bytes
    assert _checksum(pickle.loads(packed)) == total


def _open_files() -> list[str]:
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(handle.readlink()))
        except OSError:  # the handle of this listing
            continue
    return found


FORK = """
import os, sys
from pathlib import Path
from src.data.episode import open_episode
from src.data.layouts import LabOptions
files = [open_episode(Path(p), LabOptions()) for p in sys.argv[1:]]
before = [int(file.frames().sum()) for file in files]
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if [int(file.frames().sum()) for file in files] == before else 1)
    assert [int(file.frames().sum()) for file in files] == before
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("same")
"""


def test_parent_and_forked_children_read_the_same_at_once(tmp_path: Path) -> None:
    paths = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        paths.append(str(write_any(tmp_path / kind, kind)))
    child = subprocess.run([sys.executable, "-c", FORK, *paths], capture_output=True, text=True, timeout=60)
    assert child.stdout == "same\n", child.stderr


@pytest.mark.slow
def test_spawned_workers_read_every_layout(tmp_path: Path) -> None:
    files = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        files.append(open_episode(write_any(tmp_path / kind, kind), LabOptions()))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_checksum, files) == [_checksum(file) for file in files]


# ---------------------------------------------------------------- order, signs, axes


@given(
    order=st.permutations(AXES), columns=st.integers(1, 3), lateral=st.sampled_from([1, -1]),
    rotation=st.sampled_from([1, -1]), seed=st.integers(0, 99),
)  # fmt: skip
def test_order_and_signs_equal_a_slow_reference(
    order: list[str], columns: int, lateral: int, rotation: int, seed: int
) -> None:
    order = order[:columns]
    stored = np.random.default_rng(seed).normal(size=(4, columns)).astype(np.float32)
    options = LabOptions(axis_order=order, lateral_sign=lateral, rotation_sign=rotation)
    found = motion(stored, options, "file")
    for row, result in zip(stored, found, strict=True):
        values = dict(zip(order, row, strict=True))
        expected = (
            values.get("linear_x", 0.0),
            lateral * values.get("linear_y", 0.0),
            rotation * values.get("angular_z", 0.0),
        )
        np.testing.assert_array_equal(result, np.array(expected, np.float32))


@pytest.mark.parametrize("kind", ["V1-V4", "V5", "V6"])
def test_every_layout_applies_the_declared_convention(tmp_path: Path, kind: str) -> None:
    path = write_any(tmp_path, kind, 3)
    stored = np.array([[1, 2, 3], [-1, 0, 0.5], [0, 0, 0]], np.float32)
    with h5py.File(path, "a") as file:
        file["actions"][...] = stored
    options = LabOptions(axis_order=("angular_z", "linear_x", "linear_y"), lateral_sign=-1, rotation_sign=-1)
    expected = np.stack([stored[:, 1], -stored[:, 2], -stored[:, 0]], axis=1)
    np.testing.assert_array_equal(open_episode(path, options).actions, expected)


def test_unused_axes_can_be_left_out_for_a_smaller_base(tmp_path: Path) -> None:
    path = write_lab_v5(tmp_path / V5, pictures(2), keys(F, L))
    file = open_episode(path, LabOptions(axes=("linear_y", "linear_x")))
    assert (file.action_names, file.action_units) == (("linear_y", "linear_x"), ("m/s", "m/s"))
    np.testing.assert_array_equal(file.actions, np.array([[0, 1.15], [1.15, 0]], np.float32))
    omni2d = ActionSpace(("linear_x", "linear_y"), ("m/s", "m/s"), (-1.15,) * 2, (1.15,) * 2, 0.4)
    assert len(scan(tmp_path, omni2d, LabOptions(axes=omni2d.names))) == 1
    write_lab_v5(tmp_path / V5, pictures(3), keys(F, R, R))
    with pytest.raises(
        ProjectError, match=r"leaves out angular_z, but 2 of 3 actions use it, first at step 1"
    ):
        scan(tmp_path, omni2d, LabOptions(axes=omni2d.names))


def test_a_base_without_rotation_may_store_two_columns(tmp_path: Path) -> None:
    path = write_lab_v5(tmp_path / V5, pictures(2), keys(F, L)[:, :2])
    with pytest.raises(ProjectError, match=r"shape \(2, 2\), expected \(T, 3\) .*data\.lab\.axis_order"):
        open_episode(path)
    file = open_episode(path, LabOptions(axis_order=("linear_x", "linear_y")))
    assert file.action_names == ("linear_x", "linear_y")
    with pytest.raises(ProjectError, match=r"data\.lab\.axes is .*angular_z"):
        LabOptions(axis_order=("linear_x", "linear_y"), axes=("linear_x", "angular_z"))


# ---------------------------------------------------------------- stored classes against actions

TABLE = ("stop", "forward", "left", "rotate_right")


def test_declared_class_numbers_have_to_fit_every_action(tmp_path: Path) -> None:
    path = write_lab_v6(tmp_path / V6, pictures(4), keys(S, F, L, R), np.array([0, 1, 2, 3]))
    file = open_episode(path, LabOptions(class_names=TABLE))
    assert file.meta.remarks == ()
    assert file.attributes["action_classes"] == "0=stop x1, 1=forward x1, 2=left x1, 3=rotate_right x1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lateral_sign": -1}, r"action_classes is 2 \('left'\) at step 2, but the action there is 'right'"),
        ({"rotation_sign": -1}, r"3 \('rotate_right'\) at step 3, but the action there is 'rotate_left'"),
        ({"axis_order": ("linear_y", "linear_x", "angular_z")}, r"1 \('forward'\) at step 1, .* 'left'"),
        (
            {"class_names": ("forward", "stop", "left", "rotate_right")},
            r"0 \('forward'\) at step 0, .* 'stop'",
        ),
        ({"class_names": ("stop", "forward", "left")}, r"is 3 \(beyond the list\) at step 3"),
    ],
)
def test_a_wrong_sign_order_or_table_shows_in_the_classes(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_lab_v6(tmp_path / V6, pictures(4), keys(S, F, L, R), np.array([0, 1, 2, 3]))
    with pytest.raises(ProjectError, match=message) as caught:
        open_episode(path, LabOptions(**{"class_names": TABLE, **changes}))
    assert str(path) in str(caught.value)


def test_undeclared_class_numbers_are_kept_and_remarked(tmp_path: Path) -> None:
    path = write_lab_v6(tmp_path / V6, pictures(4), keys(S, F, L, F), np.array([7, 8, 8, 9]))
    file = open_episode(path, LabOptions())
    assert file.attributes["action_classes"] == "7=stop x1, 8=forward x1, 8=left x1, 9=forward x1"
    assert file.meta.remarks == (
        "action_classes are left aside, data.lab.class_names does not say what they mean",
        "one number of action_classes stands for actions of several directions",
    )


def test_layouts_mix_in_one_folder(tmp_path: Path) -> None:
    write_any(tmp_path, "own")
    for kind in ("V1-V4", "V5", "V6"):
        write_any(tmp_path, kind)
    found = scan(tmp_path, SPACE, LabOptions())
    assert {file.layout.name[:6] for file in found} == {"mobile", "lab V1", "lab V5", "lab V6"}
