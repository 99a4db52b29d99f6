"""A process opens a folder once: the second set-up opens no file, gives the same, and notices every change."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.episode import write_episode
from tests.data.builders import make_episode
from tests.data.modules import make_module


def fill(root: Path, count: int = 8) -> list[Path]:
    paths = [root / f"e{n:03d}.h5" for n in range(count)]
    for n, path in enumerate(paths):
        write_episode(path, make_episode(f"e{n:03d}", 6))
    return paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HDF5 files that are opened from now on."""
    seen: list[str] = []
    real = h5py.File.__init__

    def init(self: h5py.File, name: object, *rest: object, **named: object) -> None:
        seen.append(Path(str(name)).name)
        real(self, name, *rest, **named)

    monkeypatch.setattr(h5py.File, "__init__", init)
    return seen


@pytest.mark.parametrize("bad_files", ["error", "skip"])
def test_the_second_set_up_opens_no_file_and_gives_the_same(
    tmp_path: Path, opened: list[str], bad_files: str
) -> None:
    fill(tmp_path)
    make_module(tmp_path, on_bad_files=bad_files).setup()  # makes the split, which opens files too
    one, two = (make_module(tmp_path, on_bad_files=bad_files) for _ in range(2))
    one.setup()
    opened.clear()
    two.setup()
    assert opened == []
    assert two.manifest() == one.manifest()
    np.testing.assert_array_equal(two.training_actions(), one.training_actions())
    for a, b in zip(one.train_dataloader(), two.train_dataloader(), strict=True):
        assert a.keys == b.keys and bool((a.frames == b.frames).all() and (a.actions == b.actions).all())


@pytest.mark.parametrize("bad_files", ["error", "skip"])
def test_a_left_out_file_stays_left_out(tmp_path: Path, bad_files: str) -> None:
    fill(tmp_path)[3].write_bytes(b"no episode")
    for _ in range(2):
        module = make_module(tmp_path, on_bad_files=bad_files)
        if bad_files == "error":
            with pytest.raises(ProjectError, match=r"e003\.h5"):
                module.setup()
        else:
            module.setup()
            assert [Path(one["file"]).name for one in module.manifest()["left_out"]] == ["e003.h5"]


def test_a_changed_file_is_refused_as_in_a_new_process(tmp_path: Path, opened: list[str]) -> None:
    paths = fill(tmp_path)
    make_module(tmp_path).setup()
    write_episode(paths[2], make_episode("e002", 6, actions=np.full((6, 3), 0.5, np.float32)))
    with pytest.raises(
        ProjectError, match=r"1 changed \(e002\.h5: frames, actions or other recorded values\)"
    ):
        make_module(tmp_path).setup()


@pytest.mark.parametrize("change", ["touched", "added", "removed", "other options"])
def test_whatever_changes_the_folder_is_opened_again(tmp_path: Path, opened: list[str], change: str) -> None:
    paths = fill(tmp_path)
    make_module(tmp_path).setup()
    opened.clear()
    if change == "touched":
        os.utime(paths[2])
    elif change == "added":
        write_episode(tmp_path / "e100.h5", make_episode("e100", 6))
    elif change == "removed":
        paths[2].unlink()
    module = make_module(tmp_path, allow_mixed_sizes=change == "other options")
    if change in ("added", "removed"):
        with pytest.raises(ProjectError, match=f"1 {change}"):
            module.setup()
    else:
        module.setup()
    there = {path.name for path in tmp_path.glob("*.h5")}
    assert there <= set(opened)


def test_every_run_hears_once_what_is_odd_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = fill(tmp_path)
    (tmp_path / "odd.dat").write_bytes(paths[0].read_bytes())
    for _ in range(2):
        caplog.clear()
        make_module(tmp_path).setup()
        assert caplog.text.count("of other names begin as HDF5") == 1
