"""Cache files of resized frames: trusted only when whole and of the present source, shared by processes, fast."""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from src.core.errors import ProjectError
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.frame_cache import CacheEntry, Source
from src.data.frames import FrameStore, resize_frames
from src.data.layouts import LabOptions
from tests.data.builders import make_episode, write_lab_file
from tests.data.check.folders import scene
from tests.data.processes import go, waiting

ROOT = Path(__file__).resolve().parents[2]
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def entry(tmp_path: Path) -> CacheEntry:
    (tmp_path / "e.h5").write_bytes(b"an episode")
    return CacheEntry(tmp_path / "cache", Source(tmp_path / "e.h5", "rgb", "layout"), FRAMES.shape)


def parts() -> Iterator[np.ndarray]:
    yield FRAMES[:2]
    yield FRAMES[2:]


def never() -> Iterator[np.ndarray]:
    raise AssertionError("made again")


def test_made_once_mapped_and_a_plain_array_for_others(entry: CacheEntry) -> None:
    assert not entry.is_current()
    made = entry.open_or_make(parts)
    assert isinstance(made, np.memmap)
    assert not made.flags.writeable
    np.testing.assert_array_equal(made, FRAMES)
    assert entry.is_current()
    np.testing.assert_array_equal(entry.open_or_make(never), FRAMES)
    np.testing.assert_array_equal(np.load(entry.path), FRAMES)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_inside(path: Path) -> None:
    """The end is there, bytes before it are not."""
    data = path.read_bytes()
    path.write_bytes(data[:200] + data[300:])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(bytes(data))


def strange_footer(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"shape": [', b'"shApe": ['))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "damaged or cut off"),
        (lambda path: path.write_bytes(b"rubbish" * 100), "no closing word"),
        (lambda path: np.save(path, FRAMES), "no closing word"),
        (cut, "no closing word"),
        (cut_inside, "bytes of array, expected"),
        (strange_footer, "shape"),
        (flip, "pixels do not fit their checksum"),
    ],
    ids=["empty", "rubbish", "other format", "cut", "cut inside", "footer", "one bit"],
)
def test_a_damaged_file_is_noticed_and_made_again(
    entry: CacheEntry, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], reason: str
) -> None:
    entry.open_or_make(parts)
    whole = entry.path.read_bytes()
    damage(entry.path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(entry.open_or_make(parts), FRAMES)
    assert len(caplog.records) == 1
    assert reason in caplog.text
    assert str(entry.path) in caplog.text
    assert entry.path.read_bytes() == whole


def test_frames_of_an_older_state_of_the_file_are_not_used(
    entry: CacheEntry, caplog: pytest.LogCaptureFixture
) -> None:
    entry.open_or_make(parts)
    stamp = entry.source.path.stat().st_mtime_ns
    entry.source.path.write_bytes(b"another one")
    os.utime(entry.source.path, ns=(stamp, stamp))
    assert not entry.is_current()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(entry.open_or_make(lambda: [255 - FRAMES]), 255 - FRAMES)
    assert "the episode changed (size 11, was 10)" in caplog.text
    os.utime(entry.source.path, ns=(stamp, stamp + 1))
    assert not entry.is_current()  # same size, a nanosecond later
    assert len(list(entry.folder.glob("*.npy"))) == 1


def test_an_episode_that_changes_while_it_is_read_is_refused(entry: CacheEntry) -> None:
    def meddled() -> Iterator[np.ndarray]:
        yield FRAMES[:2]
        entry.source.path.write_bytes(b"overwritten meanwhile")
        yield FRAMES[2:]

    for make in (meddled, lambda: [FRAMES[:3]]):
        with pytest.raises(ProjectError, match=r"e\.h5 changed while its frames were read"):
            entry.open_or_make(make)
        assert not entry.path.exists()


def test_a_vanished_episode_is_named(entry: CacheEntry) -> None:
    entry.open_or_make(parts)
    entry.source.path.unlink()
    with pytest.raises(ProjectError, match=r"e\.h5 cannot be read \(No such file"):
        entry.open_or_make(never)


# ---------------------------------------------------------------- real processes

CHILD = """
import sys, time
from pathlib import Path
import src.data.frames as frames
from src.data.episode import open_episode
root, pause = Path(sys.argv[1]), float(sys.argv[2])
real = frames.resize_frames
def slow(pixels, size):
    with (root / "work.txt").open("a") as log:
        log.write("one part\\n")
    time.sleep(pause)
    return real(pixels, size)
frames.resize_frames = slow
frames._FRAMES_AT_ONCE = 2
files = [open_episode(path) for path in sorted(root.glob("*.h5"))]
store = frames.FrameStore(files, 8, root / "cache", 0.0)
print("ready", flush=True)
sys.stdin.readline()
store.prepare()
print(int(sum(store.get(row).sum() for row in range(len(files)))))
"""


def child(root: Path, pause: float, code: str = CHILD, *arguments: str) -> "subprocess.Popen[str]":
    return waiting(code, root, pause, *arguments)


def expected_sum(root: Path) -> int:
    files = [open_episode(path) for path in sorted(root.glob("*.h5"))]
    return int(sum(resize_frames(file.frames(), 8).sum() for file in files))


def make_files(root: Path, count: int, length: int) -> None:
    for n in range(count):
        write_episode(root / f"e{n}.h5", make_episode(f"e{n}", length, size=20))


def wait_for_parts(root: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    work = root / "work.txt"
    while not (work.exists() and work.read_text().count("part") >= count):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cache_files(root: Path) -> list[Path]:
    """Finished entries; what a killed process left begins with a dot."""
    return sorted(path for path in (root / "cache" / "8px").glob("*.npy") if not path.name.startswith("."))


@pytest.mark.slow
def test_two_processes_at_once_do_the_work_once(tmp_path: Path) -> None:
    make_files(tmp_path, 6, 4)
    children = [child(tmp_path, 0.05) for _ in range(2)]
    for process in children:
        go(process)
    sums = [int(process.communicate(timeout=120)[0]) for process in children]
    assert sums == [expected_sum(tmp_path)] * 2
    assert (tmp_path / "work.txt").read_text().count("part") == 6 * 2  # two parts an episode, each made once
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6


@pytest.mark.slow
def test_a_kill_half_way_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    make_files(tmp_path, 3, 8)
    victim = child(tmp_path, 0.3)
    go(victim)
    wait_for_parts(tmp_path, 6)  # in the middle of the second episode
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=60)
    folder = tmp_path / "cache" / "8px"
    done = cache_files(tmp_path)
    left = list(folder.glob(".*.tmp*"))
    assert len(done) == 1
    assert len(left) == 1
    stamp = done[0].stat().st_mtime_ns
    heir = child(tmp_path, 0.0)
    go(heir)
    assert int(heir.communicate(timeout=120)[0]) == expected_sum(tmp_path)
    assert done[0].stat().st_mtime_ns == stamp  # what was finished is kept
    assert not list(folder.glob(".*.tmp*"))  # what was not is cleared away
    assert len(cache_files(tmp_path)) == 3


@pytest.mark.slow
def test_whoever_waits_for_a_killed_process_does_its_work(tmp_path: Path) -> None:
    """The lock dies with the process: the other run neither waits for ever nor takes the half."""
    make_files(tmp_path, 2, 8)
    victim = child(tmp_path, 0.5)
    other = child(tmp_path, 0.0)
    go(victim)
    wait_for_parts(tmp_path, 2)  # in the first episode of two, four parts each
    go(other)
    time.sleep(0.2)
    assert not cache_files(tmp_path)  # the other one does wait
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=60)
    assert int(other.communicate(timeout=60)[0]) == expected_sum(tmp_path)
    assert len(cache_files(tmp_path)) == 2
    assert not list((tmp_path / "cache" / "8px").glob(".*.tmp*"))


RENAME = """
import os, signal
import src.core.files as core
real_replace, moment = os.replace, sys.argv[3]
def replace(old, new):
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real_replace(old, new)
    os.kill(os.getpid(), signal.SIGKILL)
core.os.replace = replace
"""


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "kept"), [("before", 0), ("after", 1)])
def test_a_kill_on_either_side_of_the_rename(tmp_path: Path, moment: str, kept: int) -> None:
    """All bytes are written and the file has no name yet; or it has just got its name, and nobody was told."""
    make_files(tmp_path, 2, 4)
    code = CHILD.replace('print("ready"', RENAME + 'print("ready"', 1)
    victim = child(tmp_path, 0.0, code, moment)
    go(victim)
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    assert len(cache_files(tmp_path)) == kept
    (tmp_path / "work.txt").unlink()
    heir = child(tmp_path, 0.0)
    go(heir)
    assert int(heir.communicate(timeout=60)[0]) == expected_sum(tmp_path)
    assert (tmp_path / "work.txt").read_text().count("part") == 2 * (
        2 - kept
    )  # a finished one is not made again
    assert len(cache_files(tmp_path)) == 2
    assert not list((tmp_path / "cache" / "8px").glob(".*.tmp*"))


@pytest.mark.slow
def test_kills_at_many_instants_never_leave_a_wrong_picture(tmp_path: Path) -> None:
    """Five processes in a row, each killed a little later; what is found under a name afterwards is always whole."""
    make_files(tmp_path, 4, 6)
    files = [open_episode(path) for path in sorted(tmp_path.glob("*.h5"))]
    whole = {}
    for file in files:
        source = Source(file.path, "rgb", file.layout.name)
        entry = CacheEntry(tmp_path / "cache" / "8px", source, (file.length, 3, 8, 8))
        whole[entry.path] = (entry, resize_frames(file.frames(), 8).numpy())
    for n in range(5):
        victim = child(tmp_path, 0.01)
        go(victim)
        time.sleep(0.025 * n)
        victim.kill()
        victim.communicate(timeout=60)
        for path in cache_files(tmp_path):
            entry, frames = whole[path]
            assert entry.is_current()
            np.testing.assert_array_equal(entry.open_or_make(never), frames)
    last = child(tmp_path, 0.0)
    go(last)
    assert int(last.communicate(timeout=60)[0]) == expected_sum(tmp_path)
    assert cache_files(tmp_path) == sorted(whole)


# ---------------------------------------------------------------- speed


def seconds(task: Callable[[], object], times: int) -> float:
    """The best of some runs: other processes only make a run longer."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        task()
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "raw"])
def test_the_cache_is_twenty_times_faster_than_decoding_720p(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """`pytest -m slow -s -k twenty` prints the figures."""
    frames = scene(18)
    if kind == "gzip":
        path = write_lab_file(tmp_path / "e_1box_hori_left.h5", frames, text="Go.")
        file = open_episode(path, LabOptions())
    else:
        path = tmp_path / "e.h5"
        actions = np.zeros((18, 3), np.float32)
        write_episode(path, make_episode("e", length=18, frames=frames, actions=actions))
        file = open_episode(path)
    store = FrameStore([file], 224, tmp_path / "cache", 0.0)
    store.prepare()
    assert torch.equal(store.get(0), resize_frames(file.frames(), 224))
    slow = seconds(lambda: resize_frames(file.frames(), 224), 3)
    first = seconds(lambda: FrameStore([file], 224, tmp_path / "cache", 0.0).get(0), 10)
    later = seconds(lambda: store.get(0), 10)
    figures = {
        "file": kind,
        "mib": round(path.stat().st_size / 2**20, 1),
        "decode_ms": round(1e3 * slow, 1),
        "cache_first_ms": round(1e3 * first, 2),
        "cache_later_ms": round(1e3 * later, 2),
        "ratio_first": round(slow / first),
        "ratio_later": round(slow / later),
    }
    print(json.dumps(figures))
    record_property("figures", json.dumps(figures))
    assert slow >= 20 * later
    # The first time there is a checksum. Raw files are only copied and resized, never inflated.
    assert slow >= (20 if kind == "gzip" else 8) * first


def test_one_file_read_in_two_ways_has_two_entries(tmp_path: Path) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode("e"))
    file = EpisodeFile(path)
    keys = {Source(path, colour, layout).key() for colour in ("rgb", "bgr") for layout in ("a", "b")}
    assert len(keys) == 4
    assert Source(path, "rgb", "a").stamp()["size"] == file.path.stat().st_size
