"""What goes wrong with files, in every layout: each fault is made here, and is one sentence that names the file."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.episode import open_episode
from src.data.layouts import LabOptions
from src.data.scan import scan
from tests.data.builders import SPACE, write_lab_v5
from tests.data.test_lab_layouts import KINDS, V5, pictures, write_any

FRAMES = {"own": "frames", "own jpeg": "frames_jpeg", "V5": "observations/images"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 49766400\n"


def replaced(key: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, str], None]:
    """A fault: the dataset `key` ("images" stands for the layout's own name of the frames) becomes make(dataset)."""

    def apply(path: Path, kind: str) -> None:
        with h5py.File(path, "a") as file:
            name = FRAMES.get(kind, "images") if key == "images" else key
            value = make(file[name][()])
            del file[name]
            file[name] = value

    return apply


def removed(key: str) -> Callable[[Path, str], None]:
    """A fault: the dataset is not there."""

    def apply(path: Path, kind: str) -> None:
        with h5py.File(path, "a") as file:
            del file[FRAMES.get(kind, "images") if key == "images" else key]

    return apply


def changed(make: Callable[[bytes], bytes]) -> Callable[[Path, str], None]:
    """A fault: other bytes."""

    def apply(path: Path, kind: str) -> None:
        path.write_bytes(make(path.read_bytes()))

    return apply


def with_nan(actions: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(actions))[:, None] == 2, np.float32("nan"), actions)


ANY = [
    ("pointer", changed(lambda data: POINTER), "is a Git-LFS pointer.*git lfs pull"),
    ("truncated", changed(lambda data: data[: len(data) * 2 // 3]), "truncated, damaged or no HDF5 file"),
    ("cut head", changed(lambda data: data[:60]), "truncated, damaged or no HDF5 file"),
    ("empty", changed(lambda data: b""), "truncated, damaged or no HDF5 file"),
    ("other content", changed(lambda data: b"PK\x03\x04" * 400), "truncated, damaged or no HDF5 file"),
    ("no actions", removed("actions"), "no dataset 'actions'"),
    ("not finite", replaced("actions", with_nan), "actions hold NaN or infinity, first at step 2"),
    ("infinite", replaced("actions", lambda a: a + np.float32("inf")), "NaN or infinity, first at step 0"),
    ("whole numbers", replaced("actions", lambda a: a.astype(np.int32)), "int32.*expected float"),
    ("words", replaced("actions", lambda a: a.astype("S8")), "expected float"),
    ("one axis too many", replaced("actions", lambda a: np.pad(a, ((0, 0), (0, 1)))), "4"),
    ("flat actions", replaced("actions", lambda a: a[:, 0]), r"\(4,\)"),
    (
        "short actions",
        replaced("actions", lambda a: a[:3]),
        r"actions have shape \(3, 3\), expected \(4, 3\)",
    ),
    ("long actions", replaced("actions", lambda a: np.tile(a, (2, 1))), r"\(8, 3\), expected \(4, 3\)"),
]
PIXELS = [
    ("no frame at all", replaced("images", lambda f: f[:0]), "expected uint8 .*T above 0"),
    ("float frames", replaced("images", lambda f: (f / 255).astype(np.float32)), "float32.*expected uint8"),
    ("gray frames", replaced("images", lambda f: f[..., 0]), "expected uint8"),
    ("channels first", replaced("images", lambda f: np.moveaxis(f, 3, 1)), "expected uint8"),
]
EVENTS = [
    ("short events", replaced("action_event_types", lambda e: e[:3]), r"'action_event_types' is .*\(3,\)"),
    ("no words", replaced("action_event_types", lambda e: np.zeros(4)), "'action_event_types' is float64"),
]
CASES = [
    *((kind, *fault) for kind in KINDS for fault in ANY),
    *((kind, *fault) for kind in ("own", "V1-V4", "V5", "V6") for fault in PIXELS),
    *((kind, *fault) for kind in ("V1-V4", "V6") for fault in EVENTS),
    ("own", "no frames", removed("images"), "no dataset 'frames'"),
    ("own jpeg", "no frames", removed("images"), "no dataset 'frames_jpeg'"),
    ("own jpeg", "no checksums", removed("frames_crc32"), "no dataset 'frames_crc32'"),
    ("own jpeg", "short checksums", replaced("frames_crc32", lambda c: c[:3]), "'frames_crc32' is uint32"),
    ("own jpeg", "pixels", replaced("images", lambda f: np.zeros((4, 9), np.uint8)), "variable-length"),
    ("V1-V4", "no frames", removed("images"), "no known layout: it holds .*actions"),
    ("V1-V4", "no events", removed("action_event_types"), "no known layout: it holds .*images"),
    ("V5", "no frames", removed("images"), "no known layout: it holds .*actions"),
    ("V5", "no words", replaced("language_instruction", lambda t: np.zeros(1)), "expected text"),
    ("V6", "no events", removed("action_event_types"), "no dataset 'action_event_types'"),
    ("V6", "class per half step", replaced("action_classes", lambda c: np.repeat(c, 2)), r"int64 \(8,\)"),
    ("V6", "float classes", replaced("action_classes", lambda c: c + 0.5), "'action_classes' is float64"),
]


@pytest.mark.parametrize(
    ("kind", "fault", "apply", "message"), CASES, ids=[f"{kind}-{fault}" for kind, fault, *_ in CASES]
)
def test_one_sentence_names_the_file_and_the_fault(
    tmp_path: Path, kind: str, fault: str, apply: Callable[[Path, str], None], message: str
) -> None:
    path = write_any(tmp_path, kind)
    open_episode(path, LabOptions()).load()  # it was fine before
    apply(path, kind)
    with pytest.raises(ProjectError, match=message) as caught:
        open_episode(path, LabOptions())
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    with pytest.raises(ProjectError, match=message):
        scan(tmp_path, SPACE, LabOptions())


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is forbidden, so the refusal of the system is played."""
    path = write_any(tmp_path, "V5")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(ProjectError, match="may not be read .*permission"):
        open_episode(path)


def test_one_small_file_among_720p_is_found_unless_sizes_may_differ(tmp_path: Path) -> None:
    for index, shape in enumerate([(720, 1280), (720, 1280), (480, 640)]):
        name = V5.replace("101500", f"10150{index}")
        write_lab_v5(tmp_path / name, np.zeros((2, *shape, 3), np.uint8))
    with pytest.raises(
        ProjectError, match=r"frames of 480x640 px, but .* 1 others have 720x1280 px.*allow_mixed"
    ):
        scan(tmp_path, SPACE, LabOptions())
    assert len(scan(tmp_path, SPACE, LabOptions(), allow_mixed_sizes=True)) == 3


def test_pictures_of_two_lengths_differ() -> None:
    """The fixtures would prove little if every file held the same frames."""
    assert not np.array_equal(pictures(4), pictures(5)[:4])
