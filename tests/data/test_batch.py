"""The packed batch: moving it keeps it, and every way to break it is caught."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from src.core.errors import ProjectError
from src.data.batch import Batch


def good() -> Batch:
    return Batch(
        frames=torch.zeros((3, 3, 4, 4), dtype=torch.uint8),
        episode=torch.tensor([0, 0, 1]),
        instruction_ids=torch.ones((2, 5), dtype=torch.int64),
        instruction_mask=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        windows=torch.tensor([[-1, 0], [0, 1], [-1, 2]]),
        actions=torch.zeros((3, 2, 3)),
        action_mask=torch.tensor([[True, True], [True, False], [True, False]]),
        keys=[("a", 0), ("a", 1), ("b", 0)],
    )


def test_good_one_passes_and_moves() -> None:
    batch = good()
    batch.validate()
    assert batch.size == 3
    assert batch.window_mask.tolist() == [[False, True], [True, True], [False, True]]
    moved = batch.to("meta", non_blocking=True)
    assert moved.frames.device.type == moved.action_mask.device.type == "meta"
    assert moved.keys == batch.keys
    assert batch.frames.device.type == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": torch.zeros((3, 3, 4, 4))}, "frames is torch.float32"),
        ({"frames": torch.zeros((3, 4, 4, 3), dtype=torch.uint8)}, "frames is"),
        ({"episode": torch.tensor([0, 0])}, "episode is"),
        ({"episode": torch.tensor([0, 0, 2])}, "episode must index"),
        ({"instruction_mask": torch.tensor([[True] * 5, [False] + [True] * 4])}, "padded on the right only"),
        ({"windows": torch.tensor([[-1, 0], [0, 1], [-1, 3]])}, "windows must index the 3 frames"),
        ({"windows": torch.tensor([[-1, 0], [0, 1], [-2, 2]])}, "windows must index"),
        ({"windows": torch.tensor([[-1, 0], [0, -1], [-1, 2]])}, "end in a real frame"),
        ({"windows": torch.tensor([[-1, 0], [0, 1], [1, 2]])}, "mixes frames of two episodes"),
        ({"actions": torch.zeros((3, 2))}, "actions is"),
        ({"actions": torch.full((3, 2, 3), torch.nan)}, "NaN"),
        ({"action_mask": torch.tensor([[True, True], [False, False], [True, False]])}, "first step"),
        ({"action_mask": torch.ones((3, 3), dtype=torch.bool)}, "action_mask is"),
        ({"keys": [("a", 0)]}, "1 entries for 3 samples"),
    ],
)
def test_every_broken_one_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        replace(good(), **changes).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mirrored": torch.zeros(3, dtype=torch.bool)},
            r"mirrored is torch.bool \(3,\), expected torch.bool \(2\)",
        ),
        ({"mirrored": torch.zeros(2)}, "mirrored is torch.float32"),
        ({"colour": torch.ones((2, 2))}, "colour is"),
        ({"view": torch.ones((3, 3))}, "view is"),
    ],
)
def test_broken_draws_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        replace(good(), **changes).validate()


def test_draws_move_along_and_make_the_batch_pending() -> None:
    assert not good().pending
    for name, draws in (
        ("mirrored", torch.tensor([True, False])),
        ("colour", torch.ones((2, 3))),
        ("view", torch.ones((2, 3))),
    ):
        batch = replace(good(), **{name: draws})
        batch.validate()
        assert batch.pending
        moved = batch.to("meta")
        assert moved.pending
        assert getattr(moved, name).device.type == "meta"


def test_left_padding_in_the_middle_is_caught() -> None:
    batch = replace(good(), windows=torch.tensor([[0, -1, 0], [-1, 0, 1], [-1, -1, 2]]))
    with pytest.raises(ProjectError, match="padded on the left only"):
        batch.validate()


def test_action_padding_in_the_middle_is_caught() -> None:
    mask = torch.tensor([[True, False, True]] * 3)
    with pytest.raises(ProjectError, match="action_mask must be padded on the right only"):
        replace(good(), actions=torch.zeros((3, 3, 3)), action_mask=mask).validate()
