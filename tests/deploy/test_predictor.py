"""The predictor must give what training gave, encode one frame per step, and carry out chunks as promised."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.data.frames import resize_frames
from src.deploy.predictor import BatchedPredictor, Predictor
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.heads.lstm import LSTMHead
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import FullPlacement
from src.model.policy import Policy
from tests.deploy.standins import SPACE, toy_policy

TEXTS = ["pass the box on the left", "go right to the red ball now", "forward"]


def episode(seed: int, steps: int = 11, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (steps, size, size, 3), dtype=np.uint8)


def training_path(policy: Policy, frames: np.ndarray, text: str) -> np.ndarray:
    """The prediction (T, H, A) of one packed batch, windows written out by hand."""
    ids, mask = policy.tokenize([text])
    steps = len(frames)
    rows = [[t - policy.window + 1 + w for w in range(policy.window)] for t in range(steps)]
    batch = Batch(
        frames=torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
        episode=torch.zeros(steps, dtype=torch.int64),
        instruction_ids=ids,
        instruction_mask=mask,
        windows=torch.tensor(rows).clamp(min=-1),
        actions=torch.zeros(steps, policy.horizon, SPACE.dim),
        action_mask=torch.ones(steps, policy.horizon, dtype=torch.bool),
        keys=[("e", t) for t in range(steps)],
    )
    batch.validate()
    with torch.inference_mode():
        return policy.predict(batch).numpy()


@pytest.mark.parametrize("window", [1, 3, 8])
def test_replaying_an_episode_gives_the_training_paths_predictions(window: int) -> None:
    policy, frames = toy_policy(window), episode(1)
    expected = training_path(policy, frames, TEXTS[0])
    predictor = Predictor(policy, image_size=16)
    for _ in range(2):  # a second episode must start from a clean memory
        predictor.reset(TEXTS[0])
        policy.backbone.encoded = 0  # type: ignore[assignment]
        for t, frame in enumerate(frames):
            np.testing.assert_allclose(predictor.step(frame), expected[t, 0], atol=1e-5)
            assert policy.backbone.encoded == t + 1  # exactly one new frame per step
    assert np.ptp(expected[:, 0], axis=0).max() > 0.05, "the toy policy must react to what it sees"
    if window > 1:
        blinkered = training_path(toy_policy(1), frames, TEXTS[0])
        assert np.abs(blinkered[5:, 0] - expected[5:, 0]).max() > 1e-3, (
            "history must matter, or the test is blind"
        )


def test_many_robots_equal_each_one_alone_also_when_some_stop() -> None:
    policy = toy_policy(window=3)
    episodes = [episode(s) for s in range(3)]
    together = BatchedPredictor(policy, image_size=16)
    together.reset(TEXTS)
    alone = [training_path(policy, frames, text) for frames, text in zip(episodes, TEXTS, strict=True)]
    counts = [0, 0, 0]
    rng = np.random.default_rng(0)
    for _ in range(9):
        active = rng.random(3) < 0.6
        frames = np.stack([episodes[i][counts[i]] for i in range(3)])
        actions = together.step(frames, active)
        for i in range(3):
            if active[i]:
                np.testing.assert_allclose(actions[i], alone[i][counts[i], 0], atol=1e-5)
                counts[i] += 1
            else:
                assert not actions[i].any()
    assert together.encoded_frames == sum(counts)


def test_receding_horizon_carries_out_the_chunk() -> None:
    policy, frames = toy_policy(window=2, horizon=4), episode(5)
    expected = training_path(policy, frames, TEXTS[1])
    predictor = Predictor(policy, 16, execute=3)
    predictor.reset(TEXTS[1])
    for t, frame in enumerate(frames):
        planned_at = t - t % 3
        np.testing.assert_allclose(predictor.step(frame), expected[planned_at, t - planned_at], atol=1e-5)


@pytest.mark.parametrize("m", [0.0, 0.3])
def test_temporal_ensemble_equals_a_slow_reference(m: float) -> None:
    policy, frames = toy_policy(window=2, horizon=4), episode(6)
    chunks = training_path(policy, frames, TEXTS[1])
    predictor = Predictor(policy, 16, temporal_ensemble=m)
    predictor.reset(TEXTS[1])
    for t, frame in enumerate(frames):
        said = [chunks[p, t - p] for p in range(max(0, t - 3), t + 1)]  # oldest first
        weights = np.exp(-m * np.arange(len(said)))
        np.testing.assert_allclose(predictor.step(frame), weights @ np.array(said) / weights.sum(), atol=1e-5)


def test_frames_of_another_size_are_resized_as_for_training() -> None:
    policy = toy_policy()
    big = episode(7, steps=5, size=40)
    small = resize_frames(big, 16).permute(0, 2, 3, 1).numpy()
    expected = training_path(policy, small, TEXTS[0])
    predictor = Predictor(policy, image_size=16)
    predictor.reset(TEXTS[0])
    for t, frame in enumerate(big):
        np.testing.assert_allclose(predictor.step(frame), expected[t, 0], atol=1e-5)


def test_commands_stay_within_the_limits() -> None:
    policy = toy_policy()
    policy.normalizer.scale *= 50
    predictor = Predictor(policy, 16)
    predictor.reset(TEXTS[0])
    actions = np.array([predictor.step(frame) for frame in episode(2)])
    assert np.abs(actions).max() == pytest.approx(1.15)


def test_wrong_use_is_a_sentence() -> None:
    policy = toy_policy(horizon=4)
    with pytest.raises(ProjectError, match="between 1 and 4"):
        Predictor(policy, execute=5)
    with pytest.raises(ProjectError, match="temporal_ensemble"):
        Predictor(policy, execute=2, temporal_ensemble=0.1)
    predictor = Predictor(policy)
    with pytest.raises(ProjectError, match="before reset"):
        predictor.step(episode(0)[0])
    predictor.reset("go")
    with pytest.raises(ProjectError, match="uint8"):
        predictor.step(episode(0)[0].astype(np.float32))


@pytest.mark.parametrize("history", [PerFrame(), Interleaved()], ids=["per_frame", "interleaved"])
def test_a_real_kosmos_2_gives_the_training_paths_predictions(tmp_path: Path, history: History) -> None:
    sizes = TinySizes(
        image_size=24, vision_width=16, vision_layers=1, text_width=16, text_layers=1, heads=2, latents=4
    )
    build_tiny(tmp_path, [*TEXTS, "An image of a robot"], sizes)
    toy = toy_policy(window=3)
    head = partial(LSTMHead, layers=1, hidden_size=16, mlp=(16,))
    backbone = Kosmos2Backbone(str(tmp_path))
    policy = Policy(backbone, FullPlacement(), history, head, SPACE, toy.normalizer, 3, 4).eval()
    frames = episode(3, steps=6, size=24)
    predictor = Predictor(policy, image_size=24)
    expected = training_path(policy, frames, TEXTS[0])
    predictor.reset(TEXTS[0])
    for t, frame in enumerate(frames):
        np.testing.assert_allclose(predictor.step(frame), expected[t, 0], atol=1e-5)
    assert predictor.batched.encoded_frames == len(frames), "each step sees one new frame"
    other = training_path(policy, frames, TEXTS[1])
    assert np.abs(other - expected).max() > 1e-4
