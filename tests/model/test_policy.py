"""Encode-once, masks, history and the trained state of the policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from src.core.errors import ProjectError
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import FullPlacement
from src.model.policy import Policy
from tests.model.conftest import episode_batch, window_batch

MakePolicy = Callable[..., Policy]


@pytest.fixture(params=[PerFrame, Interleaved])
def history(request: pytest.FixtureRequest) -> History:
    chosen: History = request.param()
    return chosen


def test_encode_once_equals_separate_windows_in_loss_and_gradient(
    make_policy: MakePolicy, history: History
) -> None:
    policy = make_policy(FullPlacement(), history=history)
    batch = episode_batch(policy)
    shared, _ = policy.compute_loss(batch)
    shared["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    samples = batch.windows.shape[0]
    valid = batch.action_mask.sum()
    total = torch.zeros(())
    for sample in range(samples):
        alone = window_batch(batch, sample)
        total = total + policy.compute_loss(alone)[0]["loss"] * alone.action_mask.sum() / valid
    total.backward()
    torch.testing.assert_close(shared["loss"], total, rtol=0, atol=1e-5)
    assert gradients.keys() == {name for name, p in policy.named_parameters() if p.grad is not None}
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-5, msg=name)


def test_an_earlier_frame_and_an_instruction_change_the_prediction_padding_does_not(
    make_policy: MakePolicy, history: History
) -> None:
    policy = make_policy(history=history).eval()
    batch = episode_batch(policy, lengths=(6,))
    with torch.no_grad():
        before = policy.predict(batch)
        for age in range(policy.window):
            changed = episode_batch(policy, lengths=(6,))
            changed.frames[5 - age] = 255 - changed.frames[5 - age]
            assert (policy.predict(changed)[5] - before[5]).abs().max() > 1e-6, (
                f"frame {age} steps ago is not used"
            )
        beyond = episode_batch(policy, lengths=(6,))
        beyond.frames[0] = 255 - beyond.frames[0]
        assert torch.equal(policy.predict(beyond)[5], before[5]), "a frame outside the window leaks in"
        beyond.instruction_ids = beyond.instruction_ids.flip(1)
        assert (policy.predict(beyond) - before).abs().max() > 1e-6


@pytest.mark.parametrize("lengths", [(1,), (3, 6), (6, 2, 5)])
def test_window_padding_and_batch_mates_change_nothing(
    make_policy: MakePolicy, history: History, lengths: tuple[int, ...]
) -> None:
    policy = make_policy(history=history).eval()
    batch = episode_batch(policy, lengths)
    with torch.no_grad():
        together = policy.predict(batch)
        for sample in range(len(together)):
            alone = window_batch(batch, sample)
            torch.testing.assert_close(policy.predict(alone)[0], together[sample], rtol=0, atol=1e-5)


def test_interleaved_needs_a_window(make_policy: MakePolicy) -> None:
    with pytest.raises(ProjectError, match="per_frame"):
        make_policy(history=Interleaved(), window=1)


def test_padded_targets_count_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy().eval()
    batch = episode_batch(policy)
    before = policy.compute_loss(batch)[0]["loss"]
    batch.actions[~batch.action_mask] = 1e6
    assert torch.equal(policy.compute_loss(batch)[0]["loss"], before)


def test_trained_state_round_trips_to_the_bit_and_is_strict(make_policy: MakePolicy) -> None:
    policy = make_policy(seed=1)
    optimizer = policy.configure_optimizers()
    policy.compute_loss(episode_batch(policy))[0]["loss"].backward()
    optimizer.step()
    state = policy.trained_state()
    other = make_policy(seed=2)
    other.load_trained(state)
    batch = episode_batch(policy)
    with torch.no_grad():
        assert torch.equal(policy.eval().predict(batch), other.eval().predict(batch))
    assert not any("base_layer" in name or name.startswith("backbone.network.vision") for name in state)
    for spoilt in (
        {k: v for k, v in state.items() if "queries" not in k},
        {**state, "head.extra": torch.zeros(1)},
    ):
        with pytest.raises(ProjectError, match=r"missing|unexpected"):
            make_policy().load_trained(spoilt)
    with pytest.raises(ProjectError, match="another shape"):
        make_policy(horizon=5).load_trained(state)


def test_actions_are_clipped_to_the_limits(make_policy: MakePolicy) -> None:
    policy = make_policy().eval()
    with torch.no_grad():
        policy.head.mlp[-1].bias.fill_(50.0)  # type: ignore[union-attr, operator]
        actions = policy.predict(episode_batch(policy))
    assert torch.equal(actions, policy.high.expand_as(actions))
