"""The manifest: what stands in it, and that a folder that changed, or a file that did, is noticed by name."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data import manifest as manifest_module
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.layouts import LabOptions
from src.data.manifest import FORMAT, recording_hash
from src.data.split import KFold, LeaveOneScenarioOut, SplitMethod, SplitRule, load_or_make_split
from tests.data.builders import make_episode, make_folder, write_lab_file

ROOT = Path(__file__).resolve().parents[2]
RULE = SplitRule(0.5, 0.5, 0.0)


def files(root: Path, lab: LabOptions | None = None) -> list[EpisodeFile]:
    return [open_episode(path, lab) for path in sorted(root.rglob("*.h5"))]


def split(root: Path, rule: SplitMethod = RULE) -> Any:
    return load_or_make_split(files(root), rule, root)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "data", [3] * 6)
    split(tmp_path / "data")
    return tmp_path / "data"


def test_it_says_what_was_done_and_with_what(folder: Path) -> None:
    shutil.rmtree(folder)
    for n in range(6):
        twin = make_episode(f"drive{n % 5}", 3)  # e0 and e5 are the same drive
        write_episode(
            folder / "sub" / f"e{n}.h5", make_episode(f"e{n}", frames=twin.frames, actions=twin.actions)
        )
    found = split(folder)
    content = json.loads(RULE.file(folder).read_text())
    assert content["format"] == FORMAT
    assert content["rule"] == {"by": "fractions", "seed": 0, "train": 0.5, "val": 0.5, "test": 0.0}
    assert content["near_duplicates"] is True
    assert "bitwise equal actions and first frames" in content["grouping"]
    assert content["pairs"] == [{"episodes": ["e0", "e5"], "levels": 0}]
    assert content["counts"] == {"train": {"left": 3}, "val": {"left": 3}, "test": {}}
    assert (content["data_hash"], content["split_hash"]) == (found.data_hash, found.split_hash)
    rows = {row["id"]: row for row in content["episodes"]}
    assert list(rows) == [f"e{n}" for n in range(6)]
    assert rows["e5"]["file"] == "sub/e5.h5"
    assert (rows["e5"]["group"], rows["e5"]["file_group"], rows["e5"]["scenario"]) == ("e0", "e5", "left")


def test_added_removed_and_changed_files_are_named(folder: Path) -> None:
    write_episode(folder / "more" / "new.h5", make_episode("new"))
    (folder / "e003.h5").unlink()
    write_episode(folder / "e004.h5", make_episode("e004", 4, scenario="up", group="g"))
    words = make_episode("e005", 3, scenario="left", instructions=("Other words.",))
    write_episode(folder / "e005.h5", words)
    with pytest.raises(ProjectError) as caught:
        split(folder)
    sentence = str(caught.value)
    assert "1 added (more/new.h5)" in sentence
    assert "1 removed (e003.h5)" in sentence
    assert (
        "1 changed (e004.h5: scenario up, was right; file_group g, was e004; length 4, was 3; frames"
        in sentence
    )
    assert "delete the file to split anew" in sentence
    assert "e005" not in sentence  # wording is no recorded fact: an ablation of it keeps its split


def test_six_added_files_are_counted_and_five_named(folder: Path) -> None:
    for n in range(6):
        write_episode(folder / f"new{n}.h5", make_episode(f"new{n}"))
    with pytest.raises(ProjectError, match=r"6 added \(new0.h5, new1.h5, new2.h5, new3.h5, new4.h5, …\)"):
        split(folder)


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    episode = open_episode(path).load()
    change(episode)
    write_episode(path, episode)


def edit(path: Path, key: str, place: tuple[int, ...]) -> None:
    """In place, as a script would do it: header and file size stay as they were."""
    with h5py.File(path, "r+") as file:
        file[key][place] = file[key][place] + 1


def flip_pixel(episode: Any) -> None:
    episode.frames[1, 2, 3, 0] ^= 1


def nudge(episode: Any) -> None:
    episode.actions[0, 0] += 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda path: rewrite(path, flip_pixel),
        lambda path: rewrite(path, nudge),
        lambda path: edit(path, "frames", (2, 7, 7, 2)),
        lambda path: edit(path, "actions", (2, 2)),
    ],
    ids=["pixel", "action", "pixel in place", "action in place"],
)
def test_changed_recordings_are_noticed_and_restored_ones_fit_again(
    folder: Path, change: Callable[[Path], None]
) -> None:
    first = split(folder)
    path = folder / "e002.h5"
    original = path.read_bytes()
    change(path)
    with pytest.raises(
        ProjectError, match=r"1 changed \(e002\.h5: frames, actions or other recorded values\)"
    ):
        split(folder)
    path.write_bytes(original)
    assert split(folder) == first


def test_a_changed_pixel_in_a_compressed_file_of_the_lab_is_noticed(tmp_path: Path) -> None:
    options = LabOptions()
    rng = np.random.default_rng(0)
    for n in range(4):
        frames = rng.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
        write_lab_file(tmp_path / f"{n}_1box_hori_left.h5", frames)
    load_or_make_split(files(tmp_path, options), RULE, tmp_path)
    edit(tmp_path / "2_1box_hori_left.h5", "images", (1, 20, 20, 1))
    with pytest.raises(ProjectError, match=r"1 changed \(2_1box_hori_left\.h5: frames"):
        load_or_make_split(files(tmp_path, options), RULE, tmp_path)
    turned = LabOptions(colour_order="bgr", rotation_sign=-1)
    edit(tmp_path / "2_1box_hori_left.h5", "images", (1, 20, 20, 1))
    RULE.file(tmp_path).unlink()
    one = load_or_make_split(files(tmp_path, options), RULE, tmp_path)
    assert (
        load_or_make_split(files(tmp_path, turned), RULE, tmp_path) == one
    )  # reading it otherwise changes no data


def test_files_are_hashed_again_only_where_they_were_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = recording_hash
    monkeypatch.setattr(
        manifest_module, "recording_hash", lambda path: hashed.append(path.name) or real(path)
    )
    first = split(folder)
    assert hashed == []
    os.utime(folder / "e001.h5")
    assert split(folder) == first
    assert hashed == ["e001.h5"]
    assert split(folder) == first
    assert hashed == ["e001.h5"]  # the new time was noted


def test_a_copied_folder_keeps_its_split(folder: Path, tmp_path: Path) -> None:
    first = split(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert split(tmp_path / "copy") == first


@pytest.mark.parametrize("key", ["part", "group", "scenario", "recording"])
def test_a_manifest_edited_by_hand_is_refused(folder: Path, key: str) -> None:
    path = RULE.file(folder)
    content = json.loads(path.read_text())
    content["episodes"][0][key] = {"train": "val", "val": "train"}.get(content["episodes"][0][key], "else")
    path.write_text(json.dumps(content))
    with pytest.raises(ProjectError, match=r"do not fit its (split|group|data)_hash: was it edited by hand"):
        split(folder)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "mobile-vla-split/1"}', "\x00"])
def test_a_broken_manifest_is_not_replaced_silently(folder: Path, content: str) -> None:
    RULE.file(folder).write_text(content)
    with pytest.raises(ProjectError, match="no readable split file .* delete it to split anew"):
        split(folder)
    assert RULE.file(folder).read_text() == content


def test_a_manifest_of_the_first_format_names_the_one_file_to_delete(folder: Path) -> None:
    path = RULE.file(folder)
    path.write_text('{"format": "mobile-vla-split/1", "seed": 0, "episodes": []}')
    with pytest.raises(ProjectError) as caught:
        split(folder)
    command = re.findall("`(.*)`", str(caught.value))
    assert [shlex.split(one) for one in command] == [["rm", str(path)]]
    path.unlink()
    assert split(folder).members["train"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SplitRule(0.5, 0.5, 0.0, 1), "was made with by fractions, seed 0, .* asks for by fractions, seed 1"),
        (SplitRule(0.6, 0.4, 0.0), r"train 0\.5, .*data\.split asks for .*train 0\.6"),
        (SplitRule(0.5, 0.5, 0.0, near_duplicates=False), "near_duplicates True, .* near_duplicates False"),
        (KFold(3), "asks for by folds, seed 0, folds 3"),
        (LeaveOneScenarioOut("left"), "asks for by scenario, seed 0, scenario left"),
    ],
)
def test_a_manifest_of_another_rule_is_refused(folder: Path, other: SplitMethod, message: str) -> None:
    import dataclasses

    given = dataclasses.replace(other, path=str(RULE.file(folder)))  # type: ignore[type-var]
    with pytest.raises(ProjectError, match=message):
        split(folder, given)


def test_the_hash_sees_numbers_not_words(tmp_path: Path) -> None:
    def written(name: str, **more: Any) -> str:
        with h5py.File(tmp_path / name, "w") as file:
            file["frames"] = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
            file.create_dataset("deep/actions", data=np.ones((4, 3)), chunks=(2, 3), compression="gzip")
            for key, value in more.items():
                file[key] = value
            file.attrs["note"] = name
        return recording_hash(tmp_path / name)

    plain = written("a.h5")
    assert plain == written("b.h5", text="some words")
    assert plain != written("c.h5", extra=np.zeros(3))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        jpegs = file.create_dataset("jpegs", (2,), dtype=h5py.vlen_dtype(np.uint8))
        jpegs[0], jpegs[1] = np.uint8([1, 2]), np.uint8([3])
    two = recording_hash(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["jpegs"][1] = np.uint8([4])
    assert len({plain, two, recording_hash(tmp_path / "a.h5")}) == 3
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["text"] = "only words"
    before = recording_hash(tmp_path / "words.h5")
    with h5py.File(tmp_path / "words.h5", "r+") as file:
        file["more"] = "words"
    assert recording_hash(tmp_path / "words.h5") != before
    (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:900])
    with pytest.raises(ProjectError, match=r"cut\.h5 cannot be read to the end"):
        recording_hash(tmp_path / "cut.h5")


CHILD = """
import sys, time
from pathlib import Path
from src.data.episode import open_episode
from src.data.split import SplitRule, load_or_make_split
root = Path(sys.argv[1])
found = [open_episode(path) for path in sorted(root.glob("*.h5"))]
print("ready", flush=True)
sys.stdin.readline()
print(load_or_make_split(found, SplitRule(0.5, 0.25, 0.25), root).split_hash)
"""


@pytest.mark.slow
def test_two_processes_make_one_manifest(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 40)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    hashes = {child.communicate(timeout=120)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(hashes) == 1
    assert len(list(tmp_path.glob("*.json"))) == 1
