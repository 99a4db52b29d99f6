"""Which files a run can use: damage shows before the split, what is left out is left out of everything, and noted."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data import frames as frames_module
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.layouts import LabOptions
from src.data.split import SPLITS, KFold, SplitRule
from tests.data.builders import make_episode, make_folder, write_lab_v5
from tests.data.modules import make_module
from tests.data.processes import go, waiting

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "gzip": "episode_2026010{}_101500_target_center_left_path.h5",
    "raw": "e{:03d}.h5",
    "jpeg": "e{:03d}.h5",
}


def fill(root: Path, kind: str, count: int = 8) -> list[Path]:
    """A folder of 8 px episodes of 6 steps in the lab's gzip, or the project's raw or JPEG frames."""
    root.mkdir(exist_ok=True)
    paths = [root / NAMES[kind].format(n) for n in range(count)]
    for n, path in enumerate(paths):
        episode = make_episode(f"e{n:03d}", 6)
        if kind == "gzip":
            write_lab_v5(path, episode.frames, episode.actions)
        else:
            write_episode(path, episode, frames=kind)
    return paths


def damage(path: Path) -> None:
    """The last frames as a bad disk leaves them: the file opens well, and so do the frames before."""
    with h5py.File(path) as file:
        if "frames_jpeg" in file:
            data = file["frames_jpeg"][5].tobytes()
            start, size = path.read_bytes().index(data), len(data)
        else:
            frames = file["frames" if "frames" in file else "observations/images"]
            last = frames.id.get_chunk_info(frames.id.get_num_chunks() - 1)
            start, size = last.byte_offset, last.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xa5" * size
    path.write_bytes(bytes(content))


def module(root: Path, kind: str = "raw", skip: bool = True, **changes: Any) -> EpisodeDataModule:
    lab = LabOptions() if kind == "gzip" else None
    return make_module(root, lab=lab, on_bad_files="skip" if skip else "error", **changes)


def members(made: EpisodeDataModule) -> dict[str, list[str]]:
    return {name: [episode.id for episode in made.episodes(name)] for name in SPLITS}


def files_of(made: EpisodeDataModule) -> set[Path]:
    return {episode.path for name in SPLITS for episode in made.episodes(name)}


@pytest.mark.parametrize("size", [8, 4], ids=["as stored", "resized"])
@pytest.mark.parametrize("kind", ["gzip", "raw", "jpeg"])
def test_damaged_frames_are_known_before_the_split(
    tmp_path: Path, kind: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    paths = fill(tmp_path / "data", kind)
    damage(paths[3])
    open_episode(paths[3], LabOptions())  # it opens well
    refused = module(tmp_path / "data", kind, skip=False, image_size=size)
    with pytest.raises(
        ProjectError, match=r"Or leave such files out with data\.on_bad_files=skip\.$"
    ) as caught:
        refused.setup()
    assert str(paths[3]) in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "data").glob("*.json"))  # no split was made of what cannot be trained on
    with caplog.at_level(logging.WARNING):
        made = module(tmp_path / "data", kind, image_size=size)
        made.setup()
    assert f"left out: {paths[3]}" in caplog.text
    assert [entry["file"] for entry in made.manifest()["left_out"]] == [str(paths[3])]
    assert files_of(made) == {*paths} - {paths[3]}
    stored = json.loads(made.split_rule.file(tmp_path / "data").read_text())
    assert len(stored["episodes"]) == 7
    assert stored["data_hash"] == made.manifest()["data_hash"]
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        assert all(batch.frames.shape[-1] == size for batch in loader)


def test_the_normaliser_does_not_know_a_damaged_file(tmp_path: Path) -> None:
    paths = fill(tmp_path, "raw")
    odd = make_episode("e003", 6, actions=np.full((6, 3), 1.15, np.float32))
    for n, path in enumerate(paths):
        write_episode(path, make_episode(f"e{n:03d}", 6, actions=np.full((6, 3), 0.01 * n, np.float32)))
    write_episode(paths[3], odd)
    damage(paths[3])
    made = module(tmp_path, split=SplitRule(1.0, 0.0, 0.0))
    made.setup()
    assert made.training_actions().max() == pytest.approx(0.07)


def test_nothing_but_bad_files_is_one_sentence(tmp_path: Path) -> None:
    for path in fill(tmp_path, "raw", 2):
        damage(path)
    with pytest.raises(ProjectError, match="2 of 2 files cannot be used, the first: .*e000.h5") as caught:
        module(tmp_path).setup()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- seen once


@pytest.mark.parametrize("size", [8, 4], ids=["as stored", "resized"])
def test_a_later_start_decodes_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    paths = fill(tmp_path, "raw")
    module(tmp_path, image_size=size).setup()
    seen: list[str] = []
    real = EpisodeFile.frames

    def frames(self: EpisodeFile, start: int = 0, stop: int | None = None) -> np.ndarray:
        seen.append(self.id)
        return real(self, start, stop)

    monkeypatch.setattr(EpisodeFile, "frames", frames)
    module(tmp_path, image_size=size).setup()
    assert seen == []
    os.utime(paths[2])
    module(tmp_path, image_size=size).setup()
    assert seen == ["e002"]
    module(tmp_path, image_size=size).setup()
    assert seen == ["e002"]


def test_damage_after_the_first_start_is_noticed(tmp_path: Path) -> None:
    paths = fill(tmp_path, "raw")
    module(tmp_path).setup()
    damage(paths[1])
    with pytest.raises(ProjectError, match=r"e001\.h5 is truncated, damaged .*on_bad_files=skip"):
        module(tmp_path, skip=False).setup()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "whole-files/1"}', '{"format": "other", "files": {}}']
)
def test_a_note_that_cannot_be_read_vouches_for_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    paths = fill(tmp_path, "raw")
    module(tmp_path).setup()
    note = tmp_path / ".frames" / "whole.json"
    assert len(json.loads(note.read_text())["files"]) == 8
    damage(paths[1])
    note.write_text(content)
    with caplog.at_level(logging.WARNING):
        made = module(tmp_path)
        made.setup()
    assert "whole.json is made again" in caplog.text
    assert [entry["file"] for entry in made.manifest()["left_out"]] == [str(paths[1])]
    assert str(paths[1]) not in json.loads(note.read_text())["files"]


def test_where_no_note_can_be_written_each_start_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = fill(tmp_path / "data", "raw")
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.INFO):
        module(tmp_path / "data", cache_dir=str(tmp_path / "file" / "cache")).setup()
    assert "8 files were read to the end, the next start reads them again" in caplog.text
    damage(paths[1])
    made = module(tmp_path / "data", cache_dir=str(tmp_path / "file" / "cache"))
    made.setup()
    assert [entry["file"] for entry in made.manifest()["left_out"]] == [str(paths[1])]


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    fill(tmp_path / "data", "raw")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match=r"data\.cache_dir"):
        module(tmp_path / "data", image_size=4, cache_dir=str(tmp_path / "file")).setup()


@pytest.mark.parametrize("size", [8, 4], ids=["as stored", "resized"])
@pytest.mark.parametrize("vanish", [False, True])
def test_a_file_that_is_being_copied_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, vanish: bool
) -> None:
    paths = fill(tmp_path, "raw")
    real = frames_module.FrameStore._decode

    def decode(store: Any, row: int, start: int, stop: int) -> np.ndarray:
        if row == 3:
            paths[3].unlink() if vanish else paths[3].write_bytes(paths[3].read_bytes()[:3000])
        return real(store, row, start, stop)

    monkeypatch.setattr(frames_module.FrameStore, "_decode", decode)
    message = r"e003\.h5 cannot be read" if vanish else r"e003\.h5 was replaced or changed while the run"
    with pytest.raises(ProjectError, match=message):
        module(tmp_path, image_size=size).setup()


# ---------------------------------------------------------------- a split that is stored already


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


RULES = [SplitRule(0.5, 0.25, 0.25), KFold(4, 1)]


@pytest.mark.parametrize("spoil", [truncate, damage])
@pytest.mark.parametrize("rule", RULES, ids=["fractions", "folds"])
def test_a_stored_split_goes_without_a_file_that_cannot_be_used(
    tmp_path: Path, spoil: Any, rule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, "raw")
    whole = module(tmp_path, skip=False, split=rule)
    whole.setup()
    stored = rule.file(tmp_path).read_bytes()
    victim = whole.episodes("train")[1].path
    original, stamp = victim.read_bytes(), victim.stat().st_mtime_ns
    spoil(victim)
    with pytest.raises(ProjectError, match=f"{victim.name}.*on_bad_files=skip"):
        module(tmp_path, skip=False, split=rule).setup()
    made = module(tmp_path, split=rule)
    with caplog.at_level(logging.WARNING):
        made.setup()
    expected = members(whole)
    expected["train"].remove(victim.stem)
    assert members(made) == expected
    facts = made.manifest()
    assert [entry["file"] for entry in facts["left_out"]] == [str(victim)]
    note = f"without 1 file that cannot be used: {victim.name} (train)."
    assert any(note in text for text in facts["notes"])
    assert note in caplog.text
    assert rule.file(tmp_path).read_bytes() == stored
    for key in ("data_hash", "split_hash"):
        assert facts[key] != whole.manifest()[key]
    again = module(tmp_path, split=rule)
    again.setup()
    assert again.manifest() == facts  # what is resumed or evaluated finds the same
    victim.write_bytes(original)
    os.utime(victim, ns=(stamp, stamp))
    back = module(tmp_path, split=rule)
    back.setup()
    assert back.manifest() == whole.manifest()  # and so it differs from what was trained on without it


@pytest.mark.parametrize("dangling", [False, True])
def test_a_file_that_is_really_gone_is_refused_as_before(tmp_path: Path, dangling: bool) -> None:
    paths = fill(tmp_path, "raw")
    module(tmp_path).setup()
    truncate(paths[1])
    paths[5].unlink()
    if dangling:  # listed, but there is nothing behind it
        paths[5].symlink_to(tmp_path / "nowhere.h5")
    with pytest.raises(ProjectError, match=r"any more: 1 removed \(e005\.h5\); restore") as caught:
        module(tmp_path).setup()
    assert "e001" not in str(caught.value)


def test_a_damaged_file_hides_no_change_of_the_others(tmp_path: Path) -> None:
    paths = fill(tmp_path, "raw")
    module(tmp_path).setup()
    damage(paths[1])
    write_episode(paths[2], make_episode("e002", 5))
    write_episode(tmp_path / "new.h5", make_episode("new", 5))
    with pytest.raises(ProjectError, match=r"1 added \(new\.h5\); 1 changed \(e002\.h5"):
        module(tmp_path).setup()


def test_a_part_that_loses_its_last_member_says_which_file_it_was(tmp_path: Path) -> None:
    fill(tmp_path, "raw", 4)
    rule = SplitRule(0.5, 0.25, 0.25)
    whole = module(tmp_path, split=rule)
    whole.setup()
    victim = whole.episodes("val")[0].path
    damage(victim)
    with pytest.raises(
        ProjectError, match=rf"the val split .* empty with .* without 1 file .*: {victim.name} \(val\)"
    ):
        module(tmp_path, split=rule).setup()


# ---------------------------------------------------------------- real processes

CHILD = """
import json, sys, time
from pathlib import Path
import src.data.frames as frames
from tests.data.modules import make_module
real = frames.resize_frames
def slow(pixels, size):
    if size == 4:
        with open(sys.argv[2], "a") as log:
            log.write("one\\n")
        time.sleep(float(sys.argv[3]))
    return real(pixels, size)
frames.resize_frames = slow
made = make_module(Path(sys.argv[1]), on_bad_files="skip", image_size=4)
print("ready", flush=True)
sys.stdin.readline()
made.setup()
total = sum(int(batch.frames.sum()) for batch in made.val_dataloader())
print(json.dumps({**made.manifest(), "total": total}))
"""


def child(root: Path, pause: float) -> "subprocess.Popen[str]":
    return waiting(CHILD, root / "data", root / "work.txt", pause)


def work(root: Path) -> int:
    path = root / "work.txt"
    return path.read_text().count("one") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_runs_that_start_at_once_on_a_folder_with_damage_agree(tmp_path: Path, kill: bool) -> None:
    """All decode the same folder; with `kill`, one of them dies of SIGKILL half-way through an episode."""
    paths = fill(tmp_path / "data", "raw", 12)
    damage(paths[7])
    single = shutil.copytree(tmp_path / "data", tmp_path / "single")
    expected = make_module(single, on_bad_files="skip", image_size=4)
    expected.setup()
    children = [child(tmp_path, 0.1) for _ in range(3)]
    for process in children:
        go(process)
    if kill:
        deadline = time.monotonic() + 120
        while work(tmp_path) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        victim = children.pop()
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate(timeout=60)
        assert victim.returncode == -signal.SIGKILL
    told = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in children]
    assert [process.returncode for process in children] == [0] * len(children)
    for facts in told:
        assert facts == told[0]
        assert [entry["file"] for entry in facts["left_out"]] == [str(paths[7])]
        for key in ("data_hash", "split_hash", "splits"):
            assert facts[key] == expected.manifest()[key]
        assert facts["total"] == sum(int(batch.frames.sum()) for batch in expected.val_dataloader())
    made = 11 * 1  # one part an episode; the damaged one fails before it is resized
    assert made <= work(tmp_path) <= made + kill
    folder = tmp_path / "data" / ".frames" / "4px"
    assert len([path for path in folder.glob("*.npy") if not path.name.startswith(".")]) == 11
    assert not list(folder.glob(".*.tmp*"))


@pytest.mark.slow
def test_starts_at_once_all_note_what_they_read(tmp_path: Path) -> None:
    """Frames that are used as they are stored: several folders, one note."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.data.whole_files import WholeFiles\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "for n in range(40): WholeFiles(Path(sys.argv[1])).add({Path(f'/e{sys.argv[2]}-{n}'): (n, n)})\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "whole.json"), str(n)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(3)
    ]  # fmt: skip
    for process in children:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in children:
        go(process)
    for process in children:
        process.communicate(timeout=240)
        assert process.returncode == 0
    assert len(json.loads((tmp_path / "whole.json").read_text())["files"]) == 120


def test_folders_of_both_scenarios_are_left_as_they_are(tmp_path: Path) -> None:
    """Sound data: nothing is left out, and no note stands in the record."""
    make_folder(tmp_path, [4] * 8)
    made = module(tmp_path)
    made.setup()
    facts = made.manifest()
    assert (facts["left_out"], facts["notes"]) == ([], [])
