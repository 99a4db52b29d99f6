"""Every finding about files: what triggers it, and that sound files do not. One bad file never hides the others."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.check import files, look
from src.data.check.actions import missing_stop
from src.data.check.finding import ERROR, Facts, Fault, Finding, refuse
from src.data.check.kinds import kind_of
from src.data.check.look import look_at_all, sample_steps
from src.data.check.quick import FILE_CHECKS, quick_check, usable
from src.data.episode import write_episode
from src.data.layouts import LabOptions
from tests.data.builders import SPACE, make_folder, write_lab_file
from tests.data.check.folders import actions, ask, drive, gather, sound

LAB = "episode_20260129_010422_1box_hori_left.h5"


def test_sound_files_raise_nothing(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound(8))
    checkers = (
        *FILE_CHECKS, files.duplicate_episodes, files.blank_frames, files.frozen_camera, files.assumed_meaning,
        files.remarks,
    )  # fmt: skip
    assert [f.code for checker in checkers for f in checker(facts)] == []


def _rewrite(path: Path, key: str, value: np.ndarray | None) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    "code",
    [
        "lfs_pointer",
        "empty_file",
        "not_hdf5",
        "truncated",
        "non_finite_actions",
        "wrong_shape",
        "missing_data",
    ],
)
def test_each_kind_of_bad_file_is_named_and_the_others_are_read(tmp_path: Path, code: str) -> None:
    make_folder(tmp_path, [5, 5, 5])
    bad = tmp_path / "e001.h5"
    whole = bad.read_bytes()
    if code == "lfs_pointer":
        bad.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif code == "empty_file":
        bad.write_bytes(b"")
    elif code == "not_hdf5":
        bad.write_bytes(b"some text")
    elif code == "truncated":
        bad.write_bytes(whole[: len(whole) // 2])
    elif code == "non_finite_actions":
        _rewrite(bad, "actions", np.full((5, 3), np.nan, np.float32))
    elif code == "wrong_shape":
        _rewrite(bad, "actions", np.zeros((4, 3), np.float32))
    else:
        _rewrite(bad, "frames", None)
    facts = gather(tmp_path, [])
    assert len(facts.episodes) == 2
    found = ask(files.unusable_files, facts)
    assert list(found) == [code]
    assert found[code].severity == ERROR and found[code].files == (bad,) and str(bad) in found[code].reason
    left, findings = usable(tmp_path, SPACE)
    assert [e.id for e in left] == ["e000", "e002"] and [f.code for f in findings] == [code]


def test_kinds_of_bad_jpeg_files_are_named_as_well(tmp_path: Path) -> None:
    for name, value in (
        ("nan", np.full((8, 3), np.nan, np.float32)),
        ("short", np.zeros((7, 3), np.float32)),
    ):
        write_episode(tmp_path / f"{name}.h5", drive(name), frames="jpeg")
        _rewrite(tmp_path / f"{name}.h5", "actions", value)
    kinds = {fault.path.stem: fault.code for fault in gather(tmp_path, []).faults}
    assert kinds == {"nan": "non_finite_actions", "short": "wrong_shape"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    make_folder(tmp_path, [5])
    (tmp_path / "e000.h5").chmod(0)
    assert kind_of(tmp_path / "e000.h5", None) == "unreadable"


def test_a_broken_link_is_unreadable(tmp_path: Path) -> None:
    make_folder(tmp_path, [5])
    (tmp_path / "gone.h5").symlink_to(tmp_path / "nowhere")
    assert [f.code for f in gather(tmp_path, []).faults] == ["unreadable"]


def test_other_axes(tmp_path: Path) -> None:
    write_episode(tmp_path / "a.h5", drive("a", control_period=0.2))
    assert list(ask(files.unusable_files, gather(tmp_path, []))) == ["wrong_action_space"]


def test_whatever_a_reader_raises_is_a_fault_of_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, [5, 5])

    def odd(path: Path, lab: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(files, "open_episode", odd)
    episodes, faults = files.open_all(tmp_path, SPACE, None)
    assert not episodes and [f.code for f in faults] == ["unusable"] * 2
    assert "ZeroDivisionError: surprise" in faults[0].sentence
    with pytest.raises(ProjectError, match="none of 2 files can be used"):
        usable(tmp_path, SPACE)


def test_places_never_written_are_found(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    path = write_lab_file(tmp_path / LAB, frames, text="go")
    with h5py.File(path, "r+") as file:
        del file["images"]
        images = file.create_dataset("images", (6, 8, 8, 3), "u1", chunks=(1, 8, 8, 3), compression="gzip")
        images[:4] = frames[:4]
    fault = files.open_one(path, SPACE, LabOptions())
    assert isinstance(fault, Fault) and fault.code == "unwritten_data" and "4 of 6 chunks" in fault.sentence


def test_a_damaged_picture_is_found_where_it_is_decoded(tmp_path: Path) -> None:
    write_episode(tmp_path / "a.h5", drive("a", 4, size=32))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        chunk = file["frames"].id.get_chunk_info(0)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[chunk.byte_offset + 100] ^= 255
    (tmp_path / "a.h5").write_bytes(content)
    found = look.look(tmp_path / "a.h5", SPACE, None, 2)
    assert isinstance(found, Fault) and found.code == "damaged_frames" and "frame 0" in found.sentence


def test_double_ids_and_mixed_sizes(tmp_path: Path) -> None:
    same = [
        drive("same"),
        drive("same", 9),
        drive("other"),
        drive("odd", frames=np.zeros((8, 6, 8, 3), np.uint8)),
    ]
    facts = gather(tmp_path, same)
    double = ask(files.double_ids, facts)["double_id"]
    assert [p.name for p in double.files] == ["001-same.h5"]
    mixed = ask(files.mixed_sizes, facts)["mixed_sizes"]
    assert [p.name for p in mixed.files] == ["003-odd.h5"] and mixed.severity == ERROR
    facts.allow_mixed_sizes = True
    assert ask(files.mixed_sizes, facts)["mixed_sizes"].severity == "note"
    left, _ = usable(tmp_path, SPACE)
    assert [e.path.name for e in left] == ["002-other.h5", "000-same.h5"]


def test_many_double_ids_are_one_finding_with_a_sentence_for_each(tmp_path: Path) -> None:
    facts = gather(tmp_path, [drive(name) for name in ("a", "a", "b", "b", "b", "c")])
    (found,) = files.double_ids(facts)
    assert [p.name for p in found.files] == ["001-a.h5", "003-b.h5", "004-b.h5"]
    assert found.headline == "2 names are those of several episodes each"
    assert all("000-a.h5" in s or "002-b.h5" in s for s in found.sentences)
    left, (said,) = usable(tmp_path, SPACE)
    assert [e.path.name for e in left] == ["000-a.h5", "002-b.h5", "005-c.h5"] and said.code == "double_id"


def test_copies_are_found_by_content_and_equal_actions_alone_are_none(tmp_path: Path) -> None:
    one = drive("one")
    copy = drive("copy", frames=one.frames, actions=one.actions)
    other = drive("other", actions=one.actions)
    facts = gather(tmp_path, [one, copy, other])
    found = ask(files.duplicate_episodes, facts)["duplicate_episodes"]
    assert [p.name for p in found.files] == ["001-copy.h5"] and "1 of 3" in found.reason


def test_copies_of_recorder_files_are_found_without_decoding(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    one = write_lab_file(tmp_path / LAB, frames, text="go")
    (tmp_path / LAB.replace("0129", "0130")).write_bytes(one.read_bytes())
    write_lab_file(tmp_path / LAB.replace("0129", "0131"), frames[::-1], text="go")
    episodes, _ = files.open_all(tmp_path, SPACE, LabOptions())
    found = {f.code: f for f in quick_check(episodes, SPACE, tmp_path)}
    assert [p.name for p in found["duplicate_episodes"].files] == [LAB.replace("0129", "0130")]


def test_blank_and_frozen_pictures(tmp_path: Path) -> None:
    still = np.repeat(drive("x").frames[:1], 8, axis=0)
    blank = drive("blank").frames.copy()
    blank[0] = 7
    waiting = drive("waiting", frames=still, actions=actions(*[STOP_ROW] * 8))
    facts = gather(
        tmp_path, [drive("good"), drive("frozen", frames=still), drive("blank", frames=blank), waiting]
    )
    assert [p.name for p in ask(files.blank_frames, facts)["blank_frames"].files] == ["002-blank.h5"]
    assert [p.name for p in ask(files.frozen_camera, facts)["frozen_camera"].files] == ["001-frozen.h5"]


STOP_ROW = (0.0, 0.0, 0.0)


def test_what_data_lab_assumes_is_said(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    write_lab_file(tmp_path / LAB, frames, text="go")
    facts = gather(tmp_path, [])
    assert {"confirm_meaning", "from_file_name"} <= set(ask(files.assumed_meaning, facts))


def test_a_drive_without_stop_is_reported_once(tmp_path: Path) -> None:
    """The reader remarks it, missing_stop finds it; where data.action names no classes only the remark is left."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    write_lab_file(tmp_path / LAB, frames, text="go", action_classes=np.zeros(4, np.int64))
    with h5py.File(tmp_path / LAB, "r+") as file:
        file.attrs.update(cx_position="center", cx_path="left")
    facts = gather(tmp_path, [])
    assert files.NO_STOP in facts.episodes[0].meta.remarks
    (other,) = files.remarks(facts)  # what the reader says besides is still said
    assert "action_classes are left aside" in other.reason
    assert [f.code for f in missing_stop(facts)] == ["no_stop"]
    facts = Facts(tmp_path, replace(SPACE, classes={}), facts.episodes)
    assert len(list(files.remarks(facts))) == 2 and not list(missing_stop(facts))


def test_a_file_that_ends_the_process_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the pool is replaced by one that loses what it worked on when it meets the bad file."""
    make_folder(tmp_path, [3] * 10)
    paths = sorted(tmp_path.glob("*.h5"))

    def pool(one: object, some: dict[Path, int], workers: int, tick: object) -> dict[Path, look.Looked]:
        lost = paths[4] in some
        return {
            p: look.look(p, SPACE, None, n)
            for p, n in list(some.items())[: 2 if lost else None]
            if p != paths[4]
        }

    monkeypatch.setattr(look, "_in_processes", pool)
    found = look_at_all(paths, SPACE, None, 1, 2, lambda: None)
    assert [isinstance(f, Fault) for f in found] == [p == paths[4] for p in paths]
    assert isinstance(found[4], Fault) and found[4].code == "crashes_reader"


def _ends_on_bad(path: Path, frames: int) -> look.Looked:
    """Stands in for `look`: a file named bad… ends the process, as a fault inside the HDF5 library would."""
    if path.stem.startswith("bad"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Fault(path, "unusable", f"read, {frames}")


@pytest.mark.slow
def test_real_processes_that_die_cost_their_file_alone() -> None:
    names = [f"e{i:02d}" for i in range(12)]
    names[7] = "bad"
    paths, ticks = [Path(name) for name in names], []
    found = look._all(_ends_on_bad, dict.fromkeys(paths, 3), 2, lambda: ticks.append(1))
    assert set(found) == set(paths) and len(ticks) == 12
    codes = {path.stem: f.code for path, f in found.items() if isinstance(f, Fault)}
    assert {name for name, code in codes.items() if code == "crashes_reader"} == {"bad"}


def test_a_flat_picture_is_one_colour_in_every_pixel() -> None:
    frame = np.full((70, 90, 3), 7, np.uint8)
    assert look.is_flat(frame)
    frame[33, 41, 2] = 8  # between the pixels that are compared first
    assert not look.is_flat(frame)
    assert not look.is_flat(np.arange(70 * 90 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 90, 3))


def test_a_copy_is_found_where_the_other_was_looked_at_more_closely(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    for day, stored in ((29, frames), (30, frames), (31, frames[::-1])):
        write_lab_file(tmp_path / LAB.replace("0129", f"01{day}"), stored, text="go", more=rng.random(day))
    found = look_at_all(sorted(tmp_path.glob("*.h5")), SPACE, None, 2, 1, lambda: None, sampled=1)
    both = [pair for pair in found if not isinstance(pair, Fault)]
    assert [sample.steps for _, sample in both] == [(0, 3), (0,), (0,)]
    facts = Facts(tmp_path, SPACE, [e for e, _ in both], samples={e.path: sample for e, sample in both})
    copies = ask(files.duplicate_episodes, facts)["duplicate_episodes"]
    assert [path.name for path in copies.files] == [LAB.replace("0129", "0130")]


@pytest.mark.slow
def test_several_processes_read_the_same_as_one(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 10)
    (tmp_path / "e003.h5").write_bytes(b"x")
    paths, ticks = sorted(tmp_path.glob("*.h5")), []
    two = look_at_all(paths, SPACE, None, 2, 2, lambda: ticks.append(1))
    one = look_at_all(paths, SPACE, None, 2, 1, lambda: None)
    assert len(ticks) == 10
    for a, b in zip(one, two, strict=True):
        assert a == b if isinstance(a, Fault) else a[1].digests == b[1].digests  # type: ignore[index]


def test_of_many_episodes_some_are_looked_at_closely_and_all_once(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 6)
    found = look_at_all(sorted(tmp_path.glob("*.h5")), SPACE, None, 3, 1, lambda: None, sampled=3)
    steps = [f[1].steps for f in found if not isinstance(f, Fault)]
    assert steps == [(0, 2, 3), (0,), (0, 2, 3), (0,), (0,), (0, 2, 3)]
    assert look.spread(5, None) == look.spread(5, 9) == [0, 1, 2, 3, 4]


def test_first_frames_are_kept_at_the_size_that_the_split_compares(tmp_path: Path) -> None:
    from src.data.groups import CELLS, LEVELS, first_cells

    make_folder(tmp_path, [3], size=96)
    found = look.look(tmp_path / "e000.h5", SPACE, None, 1)
    assert not isinstance(found, Fault) and look.CELLS == CELLS
    own = found[1].first.astype(int).transpose(2, 0, 1).reshape(-1)
    assert np.abs(own - first_cells(found[0])).max() <= 1 < LEVELS


def test_sampled_steps_hold_both_ends() -> None:
    assert sample_steps(18, 2) == (0, 17) and sample_steps(18, 3) == (0, 8, 17)
    assert sample_steps(1, 5) == (0,) and sample_steps(2, 5) == (0, 1) and sample_steps(18, 1) == (0,)


def test_refuse_names_the_first_error_and_counts_the_others(tmp_path: Path) -> None:
    note = Finding("n", "note", "r", "a")
    refuse([note], tmp_path)
    errors = [
        Finding(code, "error", f"reason {code}", "do it", (tmp_path / "x.h5",)) for code in ("one", "two")
    ]
    with pytest.raises(ProjectError, match=r"reason one \(x\.h5\); do it\. 1 more kinds of error: two"):
        refuse([note, *errors], tmp_path)
