"""What the check shows of a folder: its contents, a sentence per bad file, how much was decoded, the split it found."""

import html
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from src.data.check import runner
from src.data.check.finding import Fault
from src.data.check.look import seconds_to_decode
from src.data.check.outcome import Outcome
from src.data.check.runner import check
from src.data.check.screen import show
from src.data.episode import open_episode, write_episode
from src.data.instruction import ScenarioMap
from src.data.layouts import LabOptions
from src.data.split import SplitRule, load_or_make_split
from tests.data.builders import write_lab_file
from tests.data.check.folders import data_of, drive, sound


def _lines(outcome: Outcome, width: int = 120) -> list[str]:
    stream = io.StringIO()
    show(outcome, Console(file=stream, width=width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_screen_begins_with_what_is_in_the_folder_and_fits_40_lines(tmp_path: Path) -> None:
    """A usual folder of the lab: two scenarios, half of the files with a sentence, one bad file, a stored split."""
    rng = np.random.default_rng(0)
    for i in range(12):
        side = ("left", "right")[i % 2]
        moves = rng.choice([-1.15, 0, 1.15], (5, 3)).astype(np.float32)
        name = f"episode_20260129_0104{i:02d}_1box_hori_{side}_core.h5"
        frames = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
        write_lab_file(tmp_path / name, frames, moves, text="Go to the ball." if i < 6 else None)
    (tmp_path / "bad.h5").write_bytes(b"")
    words = ScenarioMap(
        "my.yaml", {f"1box_hori_{s}": f"Pass on the {s}." for s in ("left", "right")}, prefer_file=True
    )
    found = check(data_of(tmp_path, lab=LabOptions(), instruction=words), workers=1, progress=False)
    lines = _lines(found)
    assert len(lines) <= 40
    first = lines[: lines.index("")]
    table = {line[:20].strip(): line[20:].strip() for line in first if line[:1] != " "}
    assert table["found"] == "13 files: 12 episodes, 1 that cannot be used"
    assert table["layouts"] == "lab V1-V4 (12)" and table["frame sizes (W x H)"] == "8x8 (12)"
    assert table["frames"].startswith("60, 5 per episode")
    assert table["scenarios"] == "2 in 12 groups: 1box_hori_left (6), 1box_hori_right (6)"
    assert table["instructions"] == "3 different; from my.yaml (6), the episode file (6); 6 files hold none"
    assert table["linear_x (m/s)"].startswith("-1.15 to 1.15, mean ")
    assert re.fullmatch(r"train \d+, val \d+, test \d+", table["split"])
    assert any("empty_file" in line for line in lines[len(first) :])
    own = next(f for f in found.findings if f.code == "no_own_sentence")
    assert own.severity == "note" and len(own.files) == 6 and "in my.yaml" in own.reason
    report = json.loads((found.out / "check.json").read_text(encoding="utf-8"))
    assert report["contents"]["layouts"] == "lab V1-V4 (12)"
    assert report["figures"]["worded_by"] == {"the episode file": 6, "my.yaml": 6}


def test_sentences_that_the_map_replaces_are_said(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    write_lab_file(tmp_path / "episode_20260129_010400_1box_hori_left.h5", frames, text="Go to the ball.")
    words = ScenarioMap("my.yaml", {"1box_hori_left": "Pass on the left."}, prefer_file=False)
    found = check(data_of(tmp_path, lab=LabOptions(), instruction=words), workers=1, progress=False)
    (unused,) = [f for f in found.findings if f.code == "own_sentence_unused"]
    assert "my.yaml replaces it" in unused.reason and found.figures["files_without_sentence"] == 0


def test_every_file_has_its_sentence_on_page_and_json_and_the_screen_says_how_many_more(
    tmp_path: Path,
) -> None:
    for episode in sound(4):
        write_episode(tmp_path / f"{episode.id}.h5", episode)
    for i in range(5):
        path = tmp_path / f"bad{i}.h5"
        write_episode(path, drive(f"bad{i}", 8))
        with h5py.File(path, "r+") as file:
            del file["actions"]
            file["actions"] = np.zeros((i + 1, 3), np.float32)
    found = check(data_of(tmp_path), workers=1, progress=False)
    wanted = [f"bad{i}.h5: actions have shape ({i + 1}, 3), expected (8, 3)" for i in range(5)]
    page = html.unescape((found.out / "check.html").read_text(encoding="utf-8"))
    card = (found.out / "dataset_card.md").read_text(encoding="utf-8")
    report = json.loads((found.out / "check.json").read_text(encoding="utf-8"))
    (shapes,) = [f for f in report["findings"] if f["code"] == "wrong_shape"]
    assert [row["file"] for row in shapes["each"]] == [f"bad{i}.h5" for i in range(5)]
    for i, words in enumerate(wanted):
        assert words in page and words in card and words in shapes["each"][i]["sentence"]
    said = "\n".join(_lines(found, 1000))
    assert [words in said for words in wanted] == [True] * 3 + [False] * 2
    assert "2 more files" in said and "5 of 9 files cannot be used" in said


def _damage(path: Path, step: int) -> None:
    """Turn over one byte of a stored frame."""
    with h5py.File(path, "r") as file:
        chunk = file["frames"].id.get_chunk_info(step)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 50] ^= 255
    path.write_bytes(content)


def test_damage_inside_a_small_folder_is_found_and_a_large_one_says_how_much_is_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, taken for small and for large: the bound is lowered, the estimate is the real one."""
    for episode in sound(6):
        write_episode(tmp_path / f"{episode.id}.h5", episode)
    _damage(tmp_path / "e002.h5", 3)
    whole = check(data_of(tmp_path), workers=1, progress=False)
    (damaged,) = [f for f in whole.findings if f.code == "damaged_frames"]
    assert damaged.files == (tmp_path / "e002.h5",) and "frame 3 cannot be decoded" in damaged.reason
    assert whole.frames_unseen == 0 and whole.whole_seconds < 20
    monkeypatch.setattr(runner, "SECONDS", 0.9 * whole.whole_seconds)
    large = check(data_of(tmp_path), workers=1, progress=False)
    total = sum(6 + i % 4 for i in range(6))
    assert not [f for f in large.findings if f.code == "damaged_frames"]
    assert large.frames_unseen == total - 12
    assert f"other {total - 12} is not seen here: frames=all decodes them" in large.decoded
    asked = check(data_of(tmp_path), frames="all", workers=1, progress=False)
    assert [f.files for f in asked.findings if f.code == "damaged_frames"] == [damaged.files]


def test_the_estimate_grows_with_frames_and_shrinks_with_processes(tmp_path: Path) -> None:
    """Lengths and sizes as of 20 files of the lab: 18 frames at 720p take 0.1 s of a core each."""
    episode = SimpleNamespace(length=18, frame_shape=(720, 1280, 3))
    found: Any = [(episode, None)] * 20
    assert seconds_to_decode(found, 1) == pytest.approx(20 * 18 * 0.1, rel=0.05)
    assert seconds_to_decode(found, 2) == pytest.approx(seconds_to_decode(found, 1) / 2)
    assert seconds_to_decode([Fault(tmp_path, "empty_file", "")], 1) == 0


def test_a_stored_split_with_old_time_stamps_stays_as_it_is(tmp_path: Path) -> None:
    episodes = []
    for episode in sound(24):
        write_episode(tmp_path / f"{episode.id}.h5", episode)
        episodes.append(open_episode(tmp_path / f"{episode.id}.h5"))
    made = load_or_make_split(episodes, SplitRule(), tmp_path)
    stored = SplitRule().file(tmp_path)
    for file in episodes:
        os.utime(file.path, ns=(1, 1))
    before, stamp = stored.read_bytes(), stored.stat().st_mtime_ns
    found = check(data_of(tmp_path), out=str(tmp_path / "out"), workers=1, progress=False)
    assert (stored.read_bytes(), stored.stat().st_mtime_ns) == (before, stamp)
    assert found.facts.split == {i: name for name, ids in made.members.items() for i in ids}
    load_or_make_split(episodes, SplitRule(), tmp_path)  # a training does note them
    assert stored.read_bytes() != before


def test_a_training_that_skips_bad_files_keeps_its_split_and_the_check_says_so(tmp_path: Path) -> None:
    episodes = []
    for episode in sound(24):
        write_episode(tmp_path / f"{episode.id}.h5", episode)
        episodes.append(open_episode(tmp_path / f"{episode.id}.h5"))
    made = load_or_make_split(episodes, SplitRule(), tmp_path)
    lost = made.members["train"][0]
    (tmp_path / f"{lost}.h5").write_bytes(b"")
    for how, fits in (("skip", True), ("error", False)):
        found = check(
            data_of(tmp_path, on_bad_files=how), out=str(tmp_path / "out"), workers=1, progress=False
        )
        assert ("unusable_split" not in {f.code for f in found.findings}) is fits
        assert lost not in found.facts.split
