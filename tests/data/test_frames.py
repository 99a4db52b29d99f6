"""Frames at the training size: resized right, resized once, held up to a limit."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from src.core.errors import ProjectError
from src.data import frames as frames_module
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.frames import FrameStore, resize_frames
from src.data.layouts import LabOptions
from src.data.progress import track
from tests.data.builders import make_episode, write_lab_file


@pytest.fixture
def photo() -> np.ndarray:
    """720p, smooth shapes and hard edges."""
    y, x = np.mgrid[0:720, 0:1280]
    image = np.stack([x / 1280 * 255, y / 720 * 255, ((x // 40 + y // 40) % 2) * 255], axis=-1)
    return np.stack([image.astype(np.uint8), np.roll(image, 100, axis=1).astype(np.uint8)])


@pytest.fixture
def lab(tmp_path: Path, photo: np.ndarray) -> EpisodeFile:
    return open_episode(write_lab_file(tmp_path / "episode_1box_hori_left.h5", photo), LabOptions())


def test_resize_is_within_one_level_of_pil(photo: np.ndarray) -> None:
    ours = resize_frames(photo, 224)
    assert ours.shape == (2, 3, 224, 224)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    for one, frame in zip(ours, photo, strict=True):
        pil = np.asarray(Image.fromarray(frame).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(one.permute(1, 2, 0).numpy().astype(int) - pil).max() <= 1


def test_the_right_size_is_not_touched(tmp_path: Path) -> None:
    episode = make_episode(size=16)
    write_episode(tmp_path / "e.h5", episode)
    store = FrameStore([open_episode(tmp_path / "e.h5")], 16, tmp_path / "cache", 1.0)
    np.testing.assert_array_equal(store.get(0).permute(0, 2, 3, 1).numpy(), episode.frames)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_any_steps_come_out_right(tmp_path: Path, limit: float) -> None:
    episodes = [make_episode(f"e{i}", length=7, size=16) for i in range(2)]
    for episode in episodes:
        write_episode(tmp_path / f"{episode.id}.h5", episode)
    files = [open_episode(tmp_path / f"{episode.id}.h5") for episode in episodes]
    store = FrameStore(files, 16, tmp_path / "cache", limit)
    for row, steps in ((0, [0, 1, 2]), (1, [6]), (1, [0, 3, 6]), (0, [2, 4])):
        out = torch.full((len(steps), 3, 16, 16), 7, dtype=torch.uint8)
        store.copy_into(out, row, np.array(steps))
        np.testing.assert_array_equal(out.permute(0, 2, 3, 1).numpy(), episodes[row].frames[steps])
    assert torch.equal(store.get(1, 2, 4), store.get(1)[2:4])
    assert len(store._held) == (2 if limit else 0)


def test_memory_limit_counts_bytes(tmp_path: Path) -> None:
    for i in range(3):
        write_episode(tmp_path / f"e{i}.h5", make_episode(f"e{i}", length=5, size=16))
    files = [open_episode(tmp_path / f"e{i}.h5") for i in range(3)]
    store = FrameStore(files, 16, tmp_path, 2 * 5 * 3 * 16 * 16 / 1e9)
    for row in range(3):
        store.get(row)
    assert set(store._held) == {0, 1}
    assert pickle.loads(pickle.dumps(store))._held == {}


def test_resized_once_and_found_again(
    tmp_path: Path, lab: EpisodeFile, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = resize_frames(photo, 32)
    assert torch.equal(FrameStore([lab], 32, tmp_path / "cache", 1.0).get(0), expected)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1

    def refuse(*args: object) -> None:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(EpisodeFile, "frames", refuse)
    for limit in (1.0, 0.0):  # in a later run, held in memory or memory-mapped
        store = FrameStore([lab], 32, tmp_path / "cache", limit)
        assert torch.equal(store.get(0), expected)
        assert torch.equal(store.get(0, 1, 2), expected[1:])


def test_another_size_colour_or_file_is_another_entry(
    tmp_path: Path, lab: EpisodeFile, photo: np.ndarray
) -> None:
    def first(file: EpisodeFile, size: int) -> torch.Tensor:
        return FrameStore([file], size, tmp_path / "cache", 0.0).get(0)

    rgb = first(lab, 32)
    assert first(lab, 16).shape[-1] == 16
    bgr = first(EpisodeFile(lab.path, LabOptions(colour_order="bgr")), 32)
    assert torch.equal(bgr, rgb.flip(1))
    stamp = lab.path.stat().st_mtime_ns + 10**9
    write_lab_file(lab.path, 255 - photo)
    os.utime(lab.path, ns=(stamp, stamp))
    assert torch.equal(first(EpisodeFile(lab.path, LabOptions()), 32), resize_frames(255 - photo, 32))
    assert (
        len(list((tmp_path / "cache").rglob("*.npy"))) == 3
    )  # the new file's frames took the place of the old


def test_long_episodes_are_resized_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "_FRAMES_AT_ONCE", 3)
    episode = make_episode(length=7, size=20)
    write_episode(tmp_path / "e.h5", episode)
    store = FrameStore([open_episode(tmp_path / "e.h5")], 10, tmp_path / "cache", 1.0)
    assert torch.equal(store.get(0), resize_frames(episode.frames, 10))


def test_a_cache_folder_that_cannot_be_written_names_the_key(tmp_path: Path, lab: EpisodeFile) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match="data.cache_dir"):
        FrameStore([lab], 32, tmp_path / "file", 1.0).get(0)


def test_prepare_makes_what_is_missing_and_nothing_else(
    tmp_path: Path, lab: EpisodeFile, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_episode(tmp_path / "small.h5", make_episode("small", size=32))
    files = [lab, open_episode(tmp_path / "small.h5")]
    store = FrameStore(files, 32, tmp_path / "cache", 0.0)
    assert store.prepare() == 2  # one resized, one read to the end
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    assert FrameStore(files, 32, tmp_path / "cache", 0.0).prepare() == 0
    monkeypatch.setattr(EpisodeFile, "frames", None)
    assert torch.equal(store.get(0), resize_frames(photo, 32))


def test_prepare_shows_a_bar_on_a_terminal_only() -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=80)
        assert list(track(["a", "b"], "resizing frames to 32 px", console)) == ["a", "b"]
        assert ("resizing frames to 32 px" in screen.getvalue()) == terminal
        assert ("2/2" in screen.getvalue()) == terminal


@pytest.mark.parametrize("size", [16, 8], ids=["as stored", "resized"])
def test_a_file_that_is_replaced_while_a_run_goes_on_stops_it(tmp_path: Path, size: int) -> None:
    """The new recording's frames must not be served with the old one's actions."""
    paths = [tmp_path / f"e{i}.h5" for i in range(2)]
    for path in paths:
        write_episode(path, make_episode(path.stem, length=5, size=16))
    files = [open_episode(path) for path in paths]
    everything = 2 * 5 * 3 * size**2 / 1e9
    held = FrameStore(files, size, tmp_path / "cache", everything)
    before = held.get(0)
    spread = FrameStore(files, size, tmp_path / "cache", 0.0)
    assert torch.equal(spread.get(0), before)
    write_episode(tmp_path / "new" / "e0.h5", make_episode("e0", length=5, size=16, group="another"))
    os.replace(tmp_path / "new" / "e0.h5", paths[0])
    for store in (spread, pickle.loads(pickle.dumps(spread)), pickle.loads(pickle.dumps(held))):
        with pytest.raises(ProjectError, match=r"e0\.h5 was replaced or changed while the run was") as caught:
            store.get(0, 1, 3)
        assert "\n" not in str(caught.value)
        store.get(1)
    assert torch.equal(held.get(0), before)  # what is in memory was read with its actions
    late = FrameStore(files, size, tmp_path / "cache", 0.0, spread.states)
    with pytest.raises(ProjectError, match=r"e0\.h5 was replaced"):
        late.get(0)  # the states are those of the opening, not of the first batch
    assert FrameStore([open_episode(paths[0])], size, tmp_path / "cache", 0.0).get(0).shape == before.shape
    paths[0].unlink()
    with pytest.raises(ProjectError, match=r"e0\.h5 cannot be read \(No such file"):
        spread.get(0)


def test_a_file_that_is_replaced_while_it_is_read_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode("e", size=16))
    store = FrameStore([open_episode(path)], 16, tmp_path / "cache", 0.0)
    real = EpisodeFile.frames

    def frames(self: EpisodeFile, start: int = 0, stop: int | None = None) -> np.ndarray:
        found = real(self, start, stop)
        write_episode(path, make_episode("other", size=16))
        return found

    monkeypatch.setattr(EpisodeFile, "frames", frames)
    with pytest.raises(ProjectError, match=r"e\.h5 was replaced or changed"):
        store.get(0)


@settings(max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.sampled_from([1, 7, 32, 64]),
    seed=st.integers(0, 99),
)
def test_resize_of_pure_noise_is_within_two_levels_of_pil(
    height: int, width: int, size: int, seed: int
) -> None:
    """The worst case: where neighbours have nothing in common, two roundings can add up; rarely."""
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = resize_frames(frame[None], size)[0].permute(1, 2, 0).numpy().astype(int)
    pil = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    apart = np.abs(ours - pil)
    assert apart.max() <= 2
    assert (apart == 2).sum() <= max(3, apart.size // 1000)
