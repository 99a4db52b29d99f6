"""Crash-safe writing: the old file or the new one, and a sentence when the disk says no."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.core.files import (
    atomic_folder,
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    exclusive,
)


def test_writes_replace_and_leave_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "report.txt"
    atomic_write_text(target, "old\n")
    atomic_write_text(target, "néw\n")
    assert target.read_bytes() == "néw\n".encode()
    atomic_write_bytes(target, b"\0\1")
    assert target.read_bytes() == b"\0\1"
    assert [p.name for p in target.parent.iterdir()] == ["report.txt"]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_bytes(b"")
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "plain_folder").mkdir()
    for made, usual in (("a", "plain"), ("folder", "plain_folder")):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == stat.S_IMODE(
            (tmp_path / usual).stat().st_mode
        )


def test_failure_inside_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    atomic_write_bytes(target, b"old")
    with pytest.raises(RuntimeError, match="boom"), atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"half")
        raise RuntimeError("boom")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_kill_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state.bin"
    atomic_write_bytes(target, b"old")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom src.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t:\n"
        "    t.write_bytes(b'x' * 1000); print('writing', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline().strip() == "writing"
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    assert target.read_bytes() == b"old"


def test_json_is_plain_and_parses_everywhere(tmp_path: Path) -> None:
    atomic_write_json(
        tmp_path / "r.json",
        {
            "n": np.int64(3),
            "x": np.float32(0.5),
            "nan": float("nan"),
            "inf": np.array([1.0, np.inf]),
            "t": (1, 2),
            "p": Path("a/b"),
            "s": {2, 1},
            3: "한국어",
            "yes": np.bool_(True),
        },
    )

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == {
        "n": 3, "x": 0.5, "nan": None, "inf": [1.0, None], "t": [1, 2], "p": "a/b", "s": [1, 2], "3": "한국어",
        "yes": True,
    }  # fmt: skip
    assert "한국어" in text


def test_json_refuses_objects_and_keeps_the_old_file(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "r.json", 1)
    with pytest.raises(ProjectError, match=r"r\.json cannot be written as JSON"):
        atomic_write_json(tmp_path / "r.json", {"x": object()})
    assert json.loads((tmp_path / "r.json").read_text()) == 1


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    atomic_write_bytes(target, b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProjectError, match=r"a\.bin cannot be written: No space left on device"):
        atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ProjectError, match="cannot be written"):
        atomic_write_bytes(tmp_path / "file" / "a.bin", b"")
    with pytest.raises(ProjectError, match="cannot be written"), atomic_folder(tmp_path / "file" / "sub"):
        pass


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with pytest.raises(KeyError), atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("1")
        assert not target.exists()
    assert (target / "deep" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_folder_fills_an_empty_one_but_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(ProjectError, match="not an empty folder"), atomic_folder(target):
        pass
    assert (target / "a").read_text() == "1"


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom src.core.files import exclusive\n"
        "target = Path(sys.argv[1]) / 'data'\n"
        "with exclusive(target):\n"
        "    target.mkdir(); time.sleep(0.3); target.rmdir()\n"  # mkdir fails if two are inside
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in both] == [0, 0, 0]


def test_a_killed_process_gives_the_lock_back(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom src.core.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('inside', flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "data"
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline().strip() == "inside"
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    with exclusive(target):
        assert not target.exists()


def test_concurrent_writers_never_mix(tmp_path: Path) -> None:
    target = tmp_path / "shared.bin"
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.core.files import atomic_write_bytes\n"
        "for _ in range(40): atomic_write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(target), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            content = target.read_bytes()
            assert len(content) == 100_000
            assert len(set(content)) == 1
            seen.add(content[:1])
        time.sleep(0.001)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {b"a", b"b"}
    assert seen
