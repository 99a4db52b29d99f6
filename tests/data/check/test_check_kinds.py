"""The diagnosis of each kind of file that cannot be used, on real files with one fault each, and who says it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from src.data.check.files import ADVICE, open_one, unusable_files
from src.data.check.finding import Facts, Fault
from src.data.episode import EpisodeFile, write_episode
from src.data.layouts import LabOptions
from tests.data.builders import NAMES, SPACE, write_lab_file, write_lab_v5, write_lab_v6
from tests.data.check.folders import drive

STEPS = 6
FRAMES = np.random.default_rng(0).integers(0, 256, (STEPS, 8, 8, 3), dtype=np.uint8)
MOVES = np.ones((STEPS, 3), np.float32)
Change = Callable[[h5py.File], Any]


def _put(key: str, value: Any = None, **how: Any) -> Change:
    """Replace a dataset, or take it away."""

    def change(file: h5py.File) -> None:
        if key in file:
            del file[key]
        if value is not None:
            file.create_dataset(key, data=value, **how)

    return change


def _lab(root: Path) -> Path:
    return write_lab_file(root / "episode_20260129_010422_1box_hori_left.h5", FRAMES, MOVES)


def _v5(root: Path) -> Path:
    return write_lab_v5(root / "episode_20260129_010422_target_center_left_path__core.h5", FRAMES, MOVES)


def _v6(root: Path) -> Path:
    return write_lab_v6(root / "episode_20260129_010422.h5", FRAMES, MOVES)


def _own(root: Path) -> Path:
    write_episode(root / "own.h5", drive("own", STEPS))
    return root / "own.h5"


def _jpeg(root: Path) -> Path:
    write_episode(root / "own.h5", drive("own", STEPS), frames="jpeg")
    return root / "own.h5"


def _header(**changes: Any) -> Change:
    def change(file: h5py.File) -> None:
        file.attrs["header"] = json.dumps({**json.loads(file.attrs["header"]), **changes})

    return change


EVENTS = h5py.string_dtype()


@pytest.mark.parametrize(
    ("make", "change", "code"),
    [
        (_lab, _put("images"), "missing_data"),
        (_lab, _put("actions"), "missing_data"),
        (_lab, _put("action_event_types"), "missing_data"),
        (_v5, _put("actions"), "missing_data"),
        (_v5, _put("observations/images"), "missing_data"),
        (_v6, _put("actions"), "missing_data"),
        (_own, _put("frames"), "missing_data"),
        (_jpeg, _put("frames_jpeg"), "missing_data"),
        (_lab, _put("actions", MOVES[:, :2]), "wrong_shape"),
        (_lab, _put("actions", MOVES[:5]), "wrong_shape"),
        (_lab, _put("actions", MOVES[0]), "wrong_shape"),
        (_lab, _put("actions", MOVES.astype(np.int32)), "wrong_shape"),
        (_lab, _put("images", FRAMES[..., 0]), "wrong_shape"),
        (_lab, _put("images", FRAMES.transpose(0, 3, 1, 2)), "wrong_shape"),
        (_lab, _put("images", FRAMES.astype(np.float32)), "wrong_shape"),
        (_lab, _put("images", FRAMES[:0]), "wrong_shape"),
        (_lab, _put("action_event_types", ["x"] * 5, dtype=EVENTS), "wrong_shape"),
        (_lab, _put("action_event_types", np.arange(STEPS)), "wrong_shape"),
        (_v5, _put("actions", MOVES[:, :2]), "wrong_shape"),
        (_v6, _put("action_classes", np.ones(STEPS, np.float32)), "wrong_shape"),
        (_v6, _put("action_classes", np.ones(STEPS - 1, np.int64)), "wrong_shape"),
        (_own, _put("actions", MOVES[:5]), "wrong_shape"),
        (_own, _put("timestamps", np.zeros(3)), "wrong_shape"),
        (_own, _put("poses", np.zeros((STEPS, 2))), "wrong_shape"),
        (_lab, _put("actions", np.full_like(MOVES, np.nan)), "non_finite_actions"),
        (_own, _put("actions", np.full_like(MOVES, np.inf)), "non_finite_actions"),
        (_lab, _put("language_instruction", np.array([b"\xff\xfe"], "S4")), "broken_text"),
        (_lab, _put("language_instruction", np.arange(3)), "broken_text"),
        (_own, _header(instructions=[" "]), "missing_instruction"),
        (_own, lambda file: file.attrs.update(header="{"), "broken_header"),
        (_own, _header(action_names=list(NAMES[::-1])), "wrong_action_space"),
    ],
)  # fmt: skip
def test_each_fault_has_its_code(
    tmp_path: Path, make: Callable[[Path], Path], change: Change, code: str
) -> None:
    path = make(tmp_path)
    assert isinstance(open_one(path, SPACE, LabOptions()), EpisodeFile)
    with h5py.File(path, "r+") as file:
        change(file)
    found = open_one(path, SPACE, LabOptions())
    assert isinstance(found, Fault) and found.code == code and code in ADVICE
    assert str(path) in found.sentence


def test_a_name_without_scenario(tmp_path: Path) -> None:
    path = _lab(tmp_path).rename(tmp_path / "episode_20260129_010422.h5")
    found = open_one(path, SPACE, LabOptions())
    assert isinstance(found, Fault) and found.code == "missing_scenario"
    assert isinstance(open_one(path, SPACE, LabOptions(scenario_from="none")), EpisodeFile)


def test_options_that_contradict_the_file(tmp_path: Path) -> None:
    classes = open_one(_v6(tmp_path), SPACE, LabOptions(class_names=["stop", "backward"]))
    assert isinstance(classes, Fault) and classes.code == "wrong_classes"
    axes = open_one(_lab(tmp_path), SPACE, LabOptions(axes=["linear_x"]))
    assert isinstance(axes, Fault) and axes.code == "wrong_action_space"


def test_what_is_no_episode_at_all(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_bytes(b"hello world")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["temperature"] = np.zeros(3)
    found = {p.stem: open_one(p, SPACE, LabOptions()) for p in tmp_path.iterdir()}
    codes = {name: fault.code for name, fault in found.items() if isinstance(fault, Fault)}
    assert codes == {
        "folder": "not_hdf5",
        "empty": "empty_file",
        "text": "not_hdf5",
        "other": "unknown_layout",
    }
    said = {name: fault.sentence for name, fault in found.items() if isinstance(fault, Fault)}
    assert "0 bytes" in said["empty"] and "b'hello world'" in said["text"] and "is a folder" in said["folder"]


def test_every_file_of_a_kind_has_its_own_sentence(tmp_path: Path) -> None:
    """Five files of one kind: the finding, its JSON and its lines name each fault; the first example is not all."""
    faults = [Fault(tmp_path / f"{i}.h5", "wrong_shape", f"{tmp_path}/{i}.h5: fault {i}.") for i in range(5)]
    (found,) = unusable_files(Facts(tmp_path, SPACE, [], faults))
    assert found.headline == "5 of 5 files cannot be used" and "the first: " in found.reason
    assert found.by_file() == {tmp_path / f"{i}.h5": f"{tmp_path}/{i}.h5: fault {i}." for i in range(5)}
    assert found.to_dict(tmp_path)["each"] == [
        {"file": f"{i}.h5", "sentence": f"{tmp_path}/{i}.h5: fault {i}."} for i in range(5)
    ]
    assert found.lines(tmp_path, 2)[:2] == ["0.h5: fault 0.", "1.h5: fault 1."]
    assert "3 more files" in found.lines(tmp_path, 2)[2] and len(found.lines(tmp_path)) == 5
    (single,) = unusable_files(Facts(tmp_path, SPACE, [], faults[:1]))
    assert single.lines(tmp_path) == [] and single.headline == ""
    assert single.by_file() == {tmp_path / "0.h5": f"{tmp_path}/0.h5: fault 0."}
