"""Near-duplicates: the same drive twice is found, what only looks alike is not, and the answer has one order."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.episode import Episode, EpisodeFile, open_episode, write_episode
from src.data.groups import CELLS, LEVELS, actions_key, first_cells, group_episodes
from tests.data.builders import make_episode


def opened(root: Path, *episodes: Episode) -> list[EpisodeFile]:
    for episode in episodes:
        write_episode(root / f"{episode.id}.h5", episode)
    return [open_episode(root / f"{episode.id}.h5") for episode in episodes]


def room(size: int = 96) -> np.ndarray:
    """(2, s, s, 3) uint8: floor, wall and a red ball of a twelfth of the width."""
    frame = np.full((size, size, 3), 120, np.uint8)
    frame[: size // 2] = (200, 190, 180)
    frame[size // 2 : size // 2 + size // 12, 40 : 40 + size // 12] = (200, 30, 30)
    return np.stack([frame, frame])


def drive(name: str, frames: np.ndarray, actions: np.ndarray | None = None, **changes: Any) -> Episode:
    actions = np.float32([[1.15, 0, 0], [0, 0, 0]]) if actions is None else actions
    return make_episode(name, length=2, frames=frames, actions=actions, **changes)


def noisy(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 5, (2, 96, 96, 3))
    return np.clip(room() + noise, 0, 255).round().astype(np.uint8)


def test_a_copy_and_a_second_take_are_one_group_and_others_are_not(tmp_path: Path) -> None:
    moved = room()
    moved[:, 48:56, 40:48] = 120
    moved[:, 48:56, 60:68] = (200, 30, 30)
    other_colour = room()
    other_colour[:, 48:56, 40:48] = (30, 30, 200)
    faint = room()
    faint[:, 80:86, 80:86] += np.uint8(14)  # a shadow of 6 pixels
    turned = np.float32([[1.15, 0, 0.1], [0, 0, 0]])
    files = opened(
        tmp_path,
        drive("b_take", noisy(0)), drive("a_take", noisy(1)), drive("copy", noisy(0)),
        drive("moved", moved), drive("colour", other_colour), drive("turned", noisy(0), turned),
        drive("faint", faint), drive("clean", room()),
    )  # fmt: skip
    found = group_episodes(files, True)
    assert found.groups == {
        "a_take": "a_take", "b_take": "a_take", "copy": "a_take", "moved": "moved", "colour": "colour",
        "turned": "turned", "faint": "faint", "clean": "a_take",
    }  # fmt: skip
    pairs = {pair[:2]: pair[2] for pair in found.pairs}
    assert pairs.keys() == set(itertools.combinations(["a_take", "b_take", "clean", "copy"], 2))
    assert pairs["b_take", "copy"] == 0 < pairs["a_take", "b_take"] <= LEVELS
    assert group_episodes(files[::-1], True) == found
    without = group_episodes(files, False)
    assert without.groups == {file.id: file.group for file in files}
    assert "not searched" in without.explanation


def test_the_first_frame_decides_not_the_later_ones(tmp_path: Path) -> None:
    one, two = room(), room()
    two[1] = 0
    files = opened(tmp_path, drive("one", one), drive("two", two))
    assert set(group_episodes(files, True).groups.values()) == {"one"}


def test_the_same_drive_at_another_frame_size_is_found(tmp_path: Path) -> None:
    files = opened(tmp_path, drive("full", room(192)), drive("half", room(192)[:, ::2, ::2]))
    assert set(group_episodes(files, True).groups.values()) == {"full"}


def test_groups_of_the_file_are_joined_whole_and_along_chains(tmp_path: Path) -> None:
    steps = [room() // 2 + np.uint8(n * LEVELS) for n in range(3)]  # each one LEVELS from the next
    files = opened(
        tmp_path,
        *(drive(f"e{n}", frames, group=f"g{n}") for n, frames in enumerate(steps)),
        drive("friend", room() * 0, group="g2"),
        drive("stranger", room() * 0 + np.uint8(255), group="g9"),
    )
    found = group_episodes(files, True)
    assert found.groups == {"e0": "g0", "e1": "g0", "e2": "g0", "friend": "g0", "stranger": "g9"}
    assert found.pairs == (("e0", "e1", LEVELS), ("e1", "e2", LEVELS))


def test_frames_are_read_only_where_actions_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = opened(tmp_path, make_episode("a"), make_episode("b"), make_episode("c", group="a"))
    twin = make_episode("c", group="a")
    twin.actions = make_episode("a").actions  # equal to those of "a", but of its group already
    files[2:] = opened(tmp_path, twin)

    def refuse(*args: object) -> None:
        raise AssertionError("read a frame")

    monkeypatch.setattr(EpisodeFile, "frames", refuse)
    assert group_episodes(files, True).groups == {"a": "a", "b": "b", "c": "a"}


@settings(max_examples=15)
@given(
    looks=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=10
    )
)
def test_equals_a_slow_reference(
    tmp_path_factory: pytest.TempPathFactory, looks: list[tuple[int, int, int]]
) -> None:
    """Brightness steps of 5 levels, two action sequences, five groups: all pairs, then spreading until it settles."""
    files = opened(
        tmp_path_factory.mktemp("r"),
        *(
            make_episode(
                f"e{n}", length=1, size=8, group=f"g{group}", frames=np.full((1, 8, 8, 3), 5 * look, np.uint8),
                actions=np.full((1, 3), kind, np.float32),
            )
            for n, (look, kind, group) in enumerate(looks)
        ),
    )  # fmt: skip
    label = {file.id: file.group for file in files}
    settled = False
    while not settled:
        settled = True
        for (i, (a, kind, _)), (j, (b, other, _)) in (
            (x, y) for x in enumerate(looks) for y in enumerate(looks)
        ):
            together = files[i].group == files[j].group or (kind == other and abs(a - b) * 5 <= LEVELS)
            low = min(label[f"e{i}"], label[f"e{j}"])
            if together and {label[f"e{i}"], label[f"e{j}"]} != {low}:
                label[f"e{i}"] = label[f"e{j}"] = low
                settled = False
    assert group_episodes(files, True).groups == label


def test_keys_and_cells() -> None:
    zero = np.zeros((2, 3), np.float32)
    assert actions_key(zero) == actions_key(-zero)
    assert actions_key(zero) != actions_key(np.zeros((3, 2), np.float32))
    assert actions_key(zero) != actions_key(zero + np.float32(1e-6))


def test_cells_are_means(tmp_path: Path) -> None:
    (file,) = opened(tmp_path, drive("e", noisy(0)))
    cells = first_cells(file).reshape(3, CELLS, CELLS)
    inner = noisy(0)[0, 3:93, 3:93].reshape(30, 3, 30, 3, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(cells[:, 1:-1, 1:-1] - inner).mean() < 3  # the filter is a triangle, not a box
