"""The store: rows come back bit for bit, damage shows, and neither company nor kill -9 leaves a wrong row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.model.features.store import FeatureStore

ROOT = Path(__file__).resolve().parents[3]
ROWS, SHAPE = 40, (3, 5)


def store(folder: Path, dtype: torch.dtype = torch.float32, rows: int = ROWS) -> FeatureStore:
    return FeatureStore(folder / "store", {"weights": "a"}, rows, SHAPE, dtype)


def values(rows: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What belongs into each row: a function of its number."""
    return (torch.from_numpy(rows)[:, None, None] * 100.0 + torch.arange(15.0).view(3, 5)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_back_bit_for_bit_in_another_process_too(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = np.array([3, 39, 0, 7])
    first = store(tmp_path, dtype)
    first.write(rows, values(rows, dtype))
    for reader in (first, store(tmp_path, dtype)):
        found, known = reader.read(np.array([0, 1, 3, 3, 7, 39]))
        assert known.tolist() == [True, False, True, True, True, True]
        assert torch.equal(found[known], values(np.array([0, 3, 3, 7, 39]), dtype))
        assert found.dtype == dtype and reader.known == 4


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=90), min_size=1, max_size=4))
def test_known_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]) -> None:
    kept = store(tmp_path_factory.mktemp("any"))
    for part in parts:
        kept.write(np.array(part), values(np.array(part)))
    found, known = kept.read(np.arange(ROWS))
    written = {row for part in parts for row in part}
    assert set(np.flatnonzero(known)) == written
    assert torch.equal(found[known], values(np.flatnonzero(known)))


def test_holes_cost_no_disk(tmp_path: Path) -> None:
    kept = FeatureStore(tmp_path / "big", {}, 10_000, (64, 2048), torch.float32)
    kept.write(np.array([9_999]), torch.ones(1, 64, 2048))
    files = [path.stat() for path in (tmp_path / "big").iterdir()]
    assert sum(stat.st_size for stat in files) > 5e9
    assert sum(stat.st_blocks * 512 for stat in files) < 2e6


@pytest.mark.parametrize("where", ["values.bin", "known.bin"])
def test_a_damaged_row_counts_as_missing_and_can_be_made_again(tmp_path: Path, where: str) -> None:
    store(tmp_path).write(np.arange(4), values(np.arange(4)))
    path = tmp_path / "store" / where
    size = path.stat().st_size // ROWS
    content = bytearray(path.read_bytes())
    content[2 * size + 1] ^= 4
    path.write_bytes(content)
    again = store(tmp_path)
    _, known = again.read(np.arange(4))
    assert known.tolist() == [True, True, False, True]
    again.write(np.array([2]), values(np.array([2])))
    found, known = store(tmp_path).read(np.arange(4))
    assert known.all() and torch.equal(found, values(np.arange(4)))


def test_a_row_whose_checksum_would_be_zero_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.model.features.store.zlib.crc32", lambda data: 0)
    kept = store(tmp_path)
    kept.write(np.array([1]), values(np.array([1])))
    assert store(tmp_path).read(np.array([1]))[1].all()


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for wrong in (-1, ROWS):
        with pytest.raises(IndexError, match=str(wrong)):
            kept.read(np.array([0, wrong]))
    with pytest.raises(ProjectError, match="float64"):
        kept.write(np.array([0]), values(np.array([0]), torch.float64))
    with pytest.raises(ProjectError, match="delete this folder"):
        store(tmp_path, torch.bfloat16)
    (tmp_path / "store" / "values.bin").write_bytes(b"short")
    with pytest.raises(ProjectError, match="delete this folder"):
        store(tmp_path)


def test_a_creation_that_was_cut_off_is_begun_anew_and_no_rows_are_nothing_to_write(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "values.bin").write_bytes(b"x" * 7)
    kept = store(tmp_path)
    assert kept.known == 0
    kept.write(np.array([0]), values(np.array([0])))
    none = np.array([], np.int64)
    kept.write(none, values(none))
    assert kept.known == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept._files["values.bin"] = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(ProjectError, match=r"features\.folder: .* (No space left|cannot be written)"):
        kept.write(np.array([0]), values(np.array([0])))


WRITER = """
import sys, zlib
from pathlib import Path
import numpy as np, torch
from src.model.features.store import FeatureStore
seed = int(sys.argv[2])
store = FeatureStore(Path(sys.argv[1]), {}, 2000, (5000,), torch.float32)
print("ready", flush=True)
order = np.random.default_rng(seed).permutation(2000)
for part in order.reshape(-1, 8):
    found, known = store.read(part)
    rows = part[~known]
    assert torch.equal(found[known], torch.from_numpy(part[known])[:, None].expand(-1, 5000).float())
    store.write(rows, torch.from_numpy(rows)[:, None].expand(-1, 5000).float())
"""


def test_it_holds_what_is_written_and_undamaged(tmp_path: Path) -> None:
    rows, values = np.array([1, 3, 4]), torch.arange(6.0).view(3, 2)
    first = FeatureStore(tmp_path / "store", {}, 6, (2,), torch.float32)
    first.write(rows, values)
    assert first.holds(rows) and first.holds(rows[:0]) and not first.holds(np.array([1, 2]))
    with pytest.raises(IndexError):
        first.holds(np.array([-1]))
    content = bytearray((tmp_path / "store" / "values.bin").read_bytes())
    content[3 * 8] ^= 1  # of row 3
    (tmp_path / "store" / "values.bin").write_bytes(content)
    again = FeatureStore(tmp_path / "store", {}, 6, (2,), torch.float32)
    assert again.holds(rows[[0, 2]]) and not again.holds(rows)
    again.write(rows[1:2], values[1:2])
    assert again.holds(rows) and torch.equal(again.read(rows)[0], values)


@pytest.mark.slow
def test_two_processes_fill_it_and_kill_minus_nine_leaves_only_right_rows(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    def start(seed: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    both = [start(0), start(1)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    kept = FeatureStore(folder, {}, 2000, (5000,), torch.float32)
    while kept.known < 100:
        time.sleep(0.001)
    both[0].send_signal(signal.SIGKILL)
    left, _ = both[1].communicate(timeout=60), both[0].communicate()
    assert both[0].returncode == -signal.SIGKILL and both[1].returncode == 0, left
    found, known = FeatureStore(folder, {}, 2000, (5000,), torch.float32).read(np.arange(2000))
    assert known.sum() >= 1999  # a row that the killed one was writing over may have to be made again
    right = torch.arange(2000.0)[:, None].expand(-1, 5000)
    assert torch.equal(found[known], right[known])
