"""What a probe changes in a recorded batch, and that it changes nothing else and keeps the batch legal."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.evaluation.offline.scores import Labels, Truth
from src.evaluation.probes import recorded
from src.evaluation.probes.driven import BLANK
from src.evaluation.probes.pieces import cut, executed, of_episode
from tests.deploy.standins import SPACE, toy_policy

SAID = {
    "a": ("pass the box on the left and go to the ball", "keep left"),
    "b": ("pass the box on the right and go to the can",),
    "c": ("go to the ball",),
}
LENGTHS = {"a": 7, "b": 5, "c": 6}
LABELS = {e: Labels("box", "g" + e) for e in LENGTHS}
POLICY = toy_policy(window=4, horizon=2)


def batch(window: int = 4) -> Batch:
    """Three whole drives; every pixel of a frame is its number, and so every frame can be told."""
    windows, keys, start = [], [], 0
    for e, n in LENGTHS.items():
        for t in range(n):
            windows.append([start + s if s >= 0 else -1 for s in range(t - window + 1, t + 1)])
            keys.append((e, t))
        start += n
    ids, mask = POLICY.tokenize([SAID[e][0] for e in LENGTHS])
    frames = torch.arange(start, dtype=torch.uint8).repeat_interleave(3 * 16 * 16).view(start, 3, 16, 16)
    out = Batch(
        frames * 10, torch.repeat_interleave(torch.arange(3), torch.tensor(list(LENGTHS.values()))), ids, mask,
        torch.tensor(windows), torch.zeros(start, 2, 3), torch.ones(start, 2, dtype=torch.bool), keys,
        origin=torch.stack([torch.arange(start), torch.zeros(start, dtype=torch.int64)], dim=1),
    )  # fmt: skip
    out.validate()
    return out


def same_but(first: Batch, second: Batch, *changed: str) -> None:
    second.validate()
    if {"frames", "instruction_ids"} & {*changed}:  # nothing that was computed before may stand for it
        assert second.origin is None
        changed = (*changed, "origin")
    for field in fields(Batch):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name not in changed:
            assert one is other or torch.equal(one, other), field.name


# ---- words


def test_words_are_exchanged_for_the_episodes_named_and_kept_for_the_others() -> None:
    heard: list[str] = []

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        heard.extend(texts)
        return POLICY.tokenize(texts)

    before = batch()
    after = recorded.say({"b": "stop"}, SAID, tokenize)(before)
    same_but(before, after, "instruction_ids", "instruction_mask")
    assert heard == [SAID["a"][0], "stop", SAID["c"][0]]


def test_other_words_have_another_meaning_and_a_twin_s_words_come_first() -> None:
    told = recorded.other_words(SAID, LABELS)
    assert told is not None and all(told[e] not in SAID[e] for e in SAID)
    twins = {**LABELS, "c": Labels("box", "ga")}
    told = recorded.other_words(SAID, twins)
    assert told is not None and told["c"] == SAID["a"][0] and told["a"] == SAID["c"][0]
    assert recorded.other_words({"a": ("go",), "b": ("go",)}, LABELS) is None


def test_mirrored_words_need_both_sides_and_sides_only() -> None:
    told = recorded.mirrored_words(SAID)
    assert told == {
        "a": "pass the box on the right and go to the ball",
        "b": "pass the box on the left and go to the can",
    }
    assert recorded.mirrored_words({"a": SAID["a"], "c": SAID["c"]}) is None  # nobody ever said right
    assert recorded.mirrored_words({"a": ("go",), "b": ("go",)}) is None
    told = recorded.mirrored_words({**SAID, "d": ("stop right now on the left",)})
    assert told is not None and set(told) == {"a", "b"}
    korean = recorded.mirrored_words({"a": ("상자를 왼쪽으로 돌아서",), "b": ("오른쪽으로",)})
    assert korean == {"a": "상자를 오른쪽으로 돌아서", "b": "왼쪽으로"}


def test_sides_are_read_in_both_languages() -> None:
    for text, found in {
        "pass it on the left": {"left"},
        "the first on the right, the second on the left": {"left", "right"},
        "Right-hand side": {"right"},
        "상자를 왼쪽으로": {"left"},
        "오른 쪽으로 가세요": {"right"},
        "좌회전": {"left"},
        "a bright box, upright": set(),
        "go right now": set(),
        BLANK: set(),
    }.items():
        assert recorded.sides(text) == found, text


# ---- pictures and history


def test_frames_know_their_episode_and_time() -> None:
    names, step = recorded.times(batch())
    assert list(zip(names, step.tolist(), strict=True)) == [
        (e, t) for e, n in LENGTHS.items() for t in range(n)
    ]


def test_other_image_shows_a_drive_of_another_group_at_the_same_steps() -> None:
    before = batch()
    pictures = recorded.donors([before], LABELS)
    assert {e: len(frames) for e, frames in pictures.items()} == LENGTHS
    change = recorded.other_image(pictures, LABELS)
    assert change is not None
    after = change(before)
    same_but(before, after, "frames")
    for row, (e, t) in enumerate(before.keys):
        shown = next(
            d for d in pictures if any(torch.equal(after.frames[row], frame) for frame in pictures[d])
        )
        assert shown != e
        assert torch.equal(after.frames[row], pictures[shown][min(t, LENGTHS[shown] - 1)])
    assert len(recorded.donors([before], LABELS, 2)) == 2
    alone = {e: Labels("box", "same") for e in LENGTHS}
    assert recorded.other_image(recorded.donors([before], alone), alone) is None


def test_the_last_frame_alone_is_left() -> None:
    before = batch()
    after = recorded.last_frame(before)
    same_but(before, after, "windows")
    assert (after.windows[:, :-1] == -1).all() and torch.equal(after.windows[:, -1], before.windows[:, -1])


@settings(max_examples=25, deadline=None)
@given(window=st.integers(1, 8), seed=st.integers(0, 1000))
def test_a_shuffled_history_has_the_same_frames_in_another_order(window: int, seed: int) -> None:
    before = batch(window)
    after = recorded.shuffled_history(seed)(before)
    same_but(before, after, "windows")
    assert torch.equal(after.windows[:, -1], before.windows[:, -1])
    assert torch.equal(after.windows.sort(dim=1).values, before.windows.sort(dim=1).values)
    earlier = (before.windows[:, :-1] >= 0).sum(dim=1)
    assert torch.equal((after.windows != before.windows).any(dim=1), earlier >= 2)
    assert torch.equal(recorded.shuffled_history(seed)(before).windows, after.windows)


def test_cut_pieces_predict_what_they_did_in_the_batch() -> None:
    whole = batch()
    together = POLICY.predict(whole)[:, 0].detach().numpy()
    for e in LENGTHS:
        piece = of_episode(whole, e)
        piece.validate()
        rows = [i for i, (name, _) in enumerate(whole.keys) if name == e]
        np.testing.assert_allclose(executed(POLICY, piece, 0), together[rows], atol=1e-5)
    piece = cut(whole, [9])
    piece.validate()
    assert piece.keys == [("b", 2)] and len(piece.frames) == 3
    np.testing.assert_allclose(executed(POLICY, piece, 0), together[9:10], atol=1e-5)


# ---- figures


def truth(actions: np.ndarray) -> Truth:
    keys = [(e, t) for e, n in LENGTHS.items() for t in range(n)]
    episode = np.array([e for e, _ in keys])
    return Truth(
        episode, np.array([t for _, t in keys]), actions, np.ones(actions.shape[:2], bool), episode, episode
    )


def predictions(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (sum(LENGTHS.values()), 2, 3))


def test_action_figures_equal_plain_loops_and_leave_out_who_was_not_changed() -> None:
    before, after, found = predictions(0), predictions(1), truth(predictions(2))
    figures = recorded.action_figures(before, after, found, SPACE, episodes=["a", "c"])
    rows = [i for i, e in enumerate(found.episode) if e != "b"]
    moved = [np.mean(np.abs(after[i, 0] - before[i, 0]) / 1.15) for i in rows]
    assert figures["change"].value == pytest.approx(np.mean(moved))  # type: ignore[union-attr]
    assert (figures["change"].n, figures["change"].clusters) == (13, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(("axis", "name"), [(1, "linear_y"), (2, "angular_z")])
def test_flip_counts_episodes_whose_motion_moves_to_the_side_then_said(axis: int, name: str) -> None:
    actions = np.zeros((18, 2, 3))
    actions[3, 0, axis] = 1.0  # the recordings use this axis to go sideways
    found, told = truth(actions), recorded.mirrored_words(SAID)
    assert told is not None and recorded.sideways_axis(found, SPACE) == name
    before = np.zeros((18, 2, 3))
    for a, b, share in ((-0.5, 0.5, 1.0), (-0.5, -0.5, 0.5), (0.5, -0.5, 0.0), (-0.01, 0.01, 0.0)):
        after = before.copy()  # a is to be moved to the right, b to the left
        after[found.episode == "a", 0, axis], after[found.episode == "b", 0, axis] = a, b
        flip = recorded.flip_figure(before, after, found, SPACE, told, SAID, 0.02)
        assert flip is not None and (flip.value, flip.n) == (share, 2)
    mixed = {"a": ("the first on the left, the second on the right",), "b": SAID["b"]}
    flip = recorded.flip_figure(
        before, before, found, SPACE, {"a": "x left y right", "b": told["b"]}, mixed, 0.02
    )
    assert flip is not None and flip.n == 1


def test_a_base_without_a_way_sideways_has_no_flip() -> None:
    straight = ActionSpace(("linear_x",), ("m/s",), (-1.0,), (1.0,), 0.3)
    found = truth(np.ones((18, 2, 1)))
    told = recorded.mirrored_words(SAID)
    assert told is not None and recorded.sideways_axis(found, straight) is None
    assert recorded.flip_figure(found.actions, found.actions, found, straight, told, SAID, 0.02) is None


def test_donors_do_not_alias_the_loader_s_frames(tmp_path: Path) -> None:
    first = batch()
    pictures = recorded.donors([first], LABELS)
    first.frames.zero_()
    assert pictures["b"].any()
