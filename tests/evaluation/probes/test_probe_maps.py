"""Word strips and occlusion maps on policies of which it is known what they read and where they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.evaluation.probes import occlusion, words
from tests.deploy.standins import SPACE
from tests.evaluation.probes.test_probe_changes import LENGTHS, POLICY, SAID, batch


class Reader:
    """Turns left by as much as `word` is said, and goes forward as the brightness of one corner says."""

    def __init__(self, word: str = "left") -> None:
        self.code = POLICY.backbone.words(word)[0]

    tokenize = staticmethod(POLICY.tokenize)

    def parameters(self) -> Any:
        return POLICY.parameters()

    def predict(self, given: Any) -> torch.Tensor:
        given.validate()
        newest = given.windows[:, -1]
        owner = given.episode[newest]
        said = ((given.instruction_ids == self.code) & given.instruction_mask).sum(1)[owner].float()
        corner = given.frames[newest][:, :, :4, 12:].float().mean((1, 2, 3)) / 255
        action = torch.stack([corner, torch.zeros_like(corner), said], dim=1)
        return action[:, None].repeat(1, 2, 1)


def test_only_the_word_that_is_read_moves_the_action() -> None:
    found = words.strips(Reader(), [batch()], SAID, ["b", "a"], SPACE)  # type: ignore[arg-type]
    assert [row["episode"] for row in found] == ["b", "a"] and found[1]["instruction"] == SAID["a"][0]
    for row in found:
        assert [item["word"] for item in row["words"]] == row["instruction"].split()
        for item in row["words"]:
            expected = 1 / 1.15 / 3 if item["word"] == "left" else 0.0
            assert item["change"].value == pytest.approx(expected) and item["change"].low is None
            assert item["change"].n == LENGTHS[row["episode"]]


def test_a_sentence_of_one_word_is_left_with_a_full_stop() -> None:
    said = {**SAID, "c": ("left",)}
    found = words.strips(Reader("."), [batch()], said, ["c"], SPACE)  # type: ignore[arg-type]
    assert found[0]["words"][0]["change"].value == pytest.approx(1 / 1.15 / 3)  # the full stop is heard


@given(
    st.lists(st.sampled_from(["go", "stop", "left", "right", "up"]), min_size=1, max_size=12),
    st.integers(0, 6),
)
def test_strips_are_of_different_sentences(texts: list[str], count: int) -> None:
    spoken = {f"e{i}": (text,) for i, text in enumerate(texts)}
    chosen = words.chosen(spoken, count)
    assert len(chosen) == len({spoken[e][0] for e in chosen}) == min(count, len(set(texts)))


def test_the_map_is_hot_where_the_policy_looks_and_nowhere_else(tmp_path: Path) -> None:
    frames = [("b", 3), ("a", 6)]
    mean = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    found = occlusion.occlude(Reader(), [batch()], frames, mean, 4, SPACE)  # type: ignore[arg-type]
    assert [(one.episode, one.t) for one in found] == frames
    for one, number in zip(found, (7 + 3, 6), strict=True):
        expected = np.zeros((4, 4))
        expected[0, 3] = (255 - 10 * number) / 255 / 1.15 / 3
        np.testing.assert_allclose(one.grid, expected, atol=1e-6)
        assert (one.frame == 10 * number).all()
    paths = occlusion.write(tmp_path / "probes", found, 0.02)
    picture = np.asarray(Image.open(paths[1]))
    assert picture.shape == (288, 288, 3) and [path.name for path in paths] == [
        "occlusion-0.png",
        "occlusion-1.png",
    ]
    assert (picture[:72, 216:, 0] > picture[:72, 216:, 1] + 50).all()  # coloured in the corner
    assert (picture[80:] == 60).all()  # elsewhere the frame itself


def test_the_picture_of_a_blind_policy_stays_clear(tmp_path: Path) -> None:
    cold = occlusion.Occlusion("a", 0, np.full((3, 3), 1e-7), np.full((3, 20, 30), 99, np.uint8))
    (path,) = occlusion.write(tmp_path, [cold], 0.02)
    picture = np.asarray(Image.open(path))
    assert picture.shape == (300, 450, 3) and (picture == 99).all()


@given(st.integers(1, 300), st.integers(1, 20))
def test_cells_cover_every_pixel_once(side: int, grid: int) -> None:
    edges = occlusion.edges(side, grid)
    assert edges[0] == 0 and edges[-1] == side and edges == sorted(edges) and len(edges) == grid + 1
    if grid <= side:
        assert len(set(edges)) == grid + 1


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 40), min_size=1), st.integers(0, 9))
def test_frames_are_spread_over_episodes_and_time(lengths: dict[str, int], count: int) -> None:
    chosen = occlusion.chosen(lengths, count)
    assert len(chosen) == len({e for e, _ in chosen}) == min(count, len(lengths))
    assert all(0 <= t < lengths[e] for e, t in chosen)
