"""Augmentation of frames: against a slow reference, alike for a whole episode, a function of seed, epoch, episode."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data import augment
from src.data.augment import Augmentation, augmented
from src.data.batch import Batch


def batch_of(frames: torch.Tensor, episode: list[int], **draws: Any) -> Batch:
    n, rows = len(frames), max(episode) + 1
    return Batch(
        frames=frames,
        episode=torch.tensor(episode),
        instruction_ids=torch.ones((rows, 1), dtype=torch.int64),
        instruction_mask=torch.ones((rows, 1), dtype=torch.bool),
        windows=torch.arange(n)[:, None],
        actions=torch.zeros((n, 1, 3)),
        action_mask=torch.ones((n, 1), dtype=torch.bool),
        keys=[(f"e{row}", t) for t, row in enumerate(episode)],
        **draws,
    )


def noise(n: int, height: int = 9, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def reference(frame: np.ndarray, mirrored: bool, colour: np.ndarray, view: np.ndarray) -> np.ndarray:
    """One (3, h, w) uint8 frame, pixel by pixel and in float64, from the definitions alone."""
    picture = frame[:, :, ::-1].astype(np.float64) if mirrored else frame.astype(np.float64)
    _, height, width = picture.shape
    side, right, down = (float(x) for x in view)
    out = np.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            # Pixel centres: the middle of the part lies `right`, `down` pixels off the middle of the frame.
            at_x = min(max((x + 0.5 - width / 2) * side + width / 2 + right - 0.5, 0.0), width - 1.0)
            at_y = min(max((y + 0.5 - height / 2) * side + height / 2 + down - 0.5, 0.0), height - 1.0)
            x0, y0 = int(at_x), int(at_y)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            fx, fy = at_x - x0, at_y - y0
            top = picture[:, y0, x0] * (1 - fx) + picture[:, y0, x1] * fx
            bottom = picture[:, y1, x0] * (1 - fx) + picture[:, y1, x1] * fx
            pixel = top * (1 - fy) + bottom * fy
            pixel = pixel * float(colour[0])
            pixel = (pixel - 127.5) * float(colour[1]) + 127.5
            grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
            out[:, y, x] = grey + (pixel - grey) * float(colour[2])
    return out.clip(0, 255)


def test_frames_are_changed_as_the_slow_reference_does() -> None:
    strong = Augmentation(0.5, 0.5, 0.9, 0.6, 3, 0.5)
    frames, episode = noise(6), [0, 0, 1, 2, 2, 2]
    mirrored, colour, view = strong.draw(1, 2, ["a", "b", "c"], 12)
    assert mirrored is not None
    assert colour is not None
    assert view is not None
    assert mirrored.any()
    assert not mirrored.all()
    batch = batch_of(frames, episode, mirrored=mirrored, colour=colour, view=view)
    batch.validate()
    out = augmented(batch)
    out.validate()
    assert out.frames.dtype == torch.uint8
    for n, row in enumerate(episode):
        wanted = reference(frames[n].numpy(), bool(mirrored[row]), colour[row].numpy(), view[row].numpy())
        assert np.abs(out.frames[n].numpy() - wanted).max() < 0.51  # rounding and float32
    assert torch.equal(batch.frames, noise(6))  # the store's memory is not written to


@settings(max_examples=40)
@given(st.integers(-5, 5), st.integers(-4, 4), st.booleans())
def test_a_shift_moves_whole_pixels_and_repeats_the_edge(right: int, down: int, flip: bool) -> None:
    frames = noise(2)
    view = torch.tensor([[1.0, right, down]])
    batch = batch_of(frames, [0, 0], mirrored=torch.tensor([flip]), view=view)
    rows = np.clip(np.arange(9) + down, 0, 8)
    columns = np.clip(np.arange(12) + right, 0, 11)
    source = frames.flip(-1) if flip else frames
    assert torch.equal(augmented(batch).frames, source[:, :, rows][:, :, :, columns])


def test_neutral_draws_change_nothing_and_the_second_call_does_nothing() -> None:
    frames = noise(3)
    neutral = batch_of(
        frames, [0, 0, 1], mirrored=torch.zeros(2, dtype=torch.bool),
        colour=torch.ones((2, 3)), view=torch.tensor([[1.0, 0, 0]] * 2),
    )  # fmt: skip
    assert torch.equal(augmented(neutral).frames, frames)
    flipped = augmented(replace(neutral, mirrored=torch.tensor([True, False])))
    assert not flipped.pending
    assert augmented(flipped) is flipped
    again = augmented(replace(flipped, mirrored=torch.tensor([True, False])))
    assert torch.equal(again.frames, frames)


def test_a_frame_does_not_depend_on_the_others_or_on_how_many_go_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"e{i}" for i in range(5)]
    mirrored, colour, view = Augmentation(0.3, 0.3, 0.3, 0.8, 2, 0.5).draw(0, 0, names, 12)
    assert mirrored is not None
    assert colour is not None
    assert view is not None
    frames, episode = noise(40), [i // 8 for i in range(40)]
    whole = augmented(batch_of(frames, episode, mirrored=mirrored, colour=colour, view=view)).frames
    monkeypatch.setitem(augment._AT_ONCE, "cpu", 7)
    assert torch.equal(
        augmented(batch_of(frames, episode, mirrored=mirrored, colour=colour, view=view)).frames, whole
    )
    for row in range(5):
        alone = batch_of(
            frames[8 * row : 8 * row + 8], [0] * 8,
            mirrored=mirrored[row : row + 1], colour=colour[row : row + 1], view=view[row : row + 1],
        )  # fmt: skip
        assert torch.equal(augmented(alone).frames, whole[8 * row : 8 * row + 8])


# ---------------------------------------------------------------- draws


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31), epoch=st.integers(0, 999), name=st.text(min_size=1, max_size=20),
    crop=st.floats(0.1, 1), shift=st.integers(0, 30), size=st.integers(61, 300),
)  # fmt: skip
def test_draws_stay_within_the_strengths(
    seed: int, epoch: int, name: str, crop: float, shift: int, size: int
) -> None:
    made = Augmentation(0.4, 0.0, 1.0, crop, shift, 0.5)
    mirrored, colour, view = made.draw(seed, epoch, [name], size)
    assert mirrored is not None
    assert colour is not None
    assert bool(mirrored[0]) == made.mirrored(seed, epoch, name)
    assert 0.6 <= colour[0, 0] <= 1.4
    assert colour[0, 1] == 1
    assert 0 <= colour[0, 2] <= 2
    if view is None:
        assert (crop, shift) == (1, 0)
        return
    side, *moved = (float(x) for x in view[0])
    assert crop - 1e-6 <= side <= 1
    for pixels in moved:  # the part lies inside the frame, but for the shift
        assert abs(pixels) <= (1 - side) / 2 * size + shift + 1e-3


def test_draws_differ_between_epochs_seeds_and_episodes_and_never_between_calls() -> None:
    made = Augmentation(0.2, 0.2, 0.2, 0.9, 4, 0.5)

    def drawn(seed: int, epoch: int, name: str) -> tuple[Any, ...]:
        return tuple(part.tolist() for part in made.draw(seed, epoch, [name], 96) if part is not None)

    assert drawn(0, 0, "a") == drawn(0, 0, "a")
    assert len({str(drawn(*key)) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}) == 4
    flips = [made.mirrored(0, epoch, "a") for epoch in range(400)]
    assert 160 < sum(flips) < 240
    shifts = Augmentation(shift=2).draw(0, 0, [f"e{i}" for i in range(500)], 96)[2]
    assert shifts is not None
    assert {tuple(s) for s in shifts[:, 1:].tolist()} == {(x, y) for x in range(-2, 3) for y in range(-2, 3)}


def test_one_change_switched_on_leaves_the_draws_of_the_others() -> None:
    names = ["a", "b"]
    _, alone, _ = Augmentation(brightness=0.2).draw(0, 0, names, 96)
    _, both, view = Augmentation(brightness=0.2, shift=4, mirror=0.5).draw(0, 0, names, 96)
    assert alone is not None
    assert both is not None
    assert view is not None
    assert torch.equal(alone, both)


def test_nothing_is_drawn_for_what_is_off() -> None:
    assert not Augmentation().active
    assert Augmentation().draw(0, 0, ["a"], 96) == (None, None, None)
    assert Augmentation(mirror=1.0).active


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("brightness", 1.1), ("contrast", -0.1), ("saturation", 2.0), ("crop", 0.0), ("crop", 1.5), ("shift", -1),
        ("mirror", 1.5),
    ],
)  # fmt: skip
def test_impossible_strengths_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(ProjectError, match=f"data.augmentation.{key} is {value}"):
        Augmentation(**{key: value})


def test_a_shift_as_wide_as_the_picture_is_refused() -> None:
    Augmentation(shift=47).check_size(96)
    with pytest.raises(ProjectError, match=r"shift is 48 px, but data\.image_size is 96 px"):
        Augmentation(shift=48).check_size(96)
