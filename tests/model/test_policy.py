"""Encode-once, LoRA placement, masks and checkpoints of the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.core.errors import ProjectError
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.heads.lstm import LSTMHead
from src.model.lora import FrozenPlacement, FullPlacement, LoraPlacement, Placement
from src.model.policy import Policy
from tests.model.conftest import episode_batch, window_batch

MakePolicy = Callable[..., Policy]


def test_encode_once_equals_separate_windows_in_loss_and_gradient(make_policy: MakePolicy) -> None:
    policy = make_policy(FullPlacement())
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
    make_policy: MakePolicy,
) -> None:
    policy = make_policy().eval()
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
    make_policy: MakePolicy, lengths: tuple[int, ...]
) -> None:
    policy = make_policy().eval()
    batch = episode_batch(policy, lengths)
    with torch.no_grad():
        together = policy.predict(batch)
        for sample in range(len(together)):
            alone = window_batch(batch, sample)
            torch.testing.assert_close(policy.predict(alone)[0], together[sample], rtol=0, atol=1e-5)


def test_padded_targets_count_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy().eval()
    batch = episode_batch(policy)
    before = policy.compute_loss(batch)[0]["loss"]
    batch.actions[~batch.action_mask] = 1e6
    assert torch.equal(policy.compute_loss(batch)[0]["loss"], before)


PLACEMENTS: list[tuple[Placement, str]] = [
    (FrozenPlacement(), r"backbone\.queries"),
    (LoraPlacement({"vision": "all"}, 2, 4, 0.0), r"backbone\.(queries|vlm\.vision_model\..*lora_[AB].*)"),
    (
        LoraPlacement({"projector": "all"}, 2, 4, 0.0),
        r"backbone\.(queries|vlm\.image_to_text_projection\..*lora_[AB].*)",
    ),
    (
        LoraPlacement({"text_attention": 1}, 2, 4, 0.0),
        r"backbone\.(queries|vlm\.text_model\.model\.layers\.1\.self_attn\..*lora_[AB].*)",
    ),
    (
        LoraPlacement({"text_mlp": "all"}, 2, 4, 0.0, rslora=True),
        r"backbone\.(queries|vlm\.text_model\.model\.layers\.\d\.ffn\..*lora_[AB].*)",
    ),
    (
        LoraPlacement({"text_attention": "all"}, 2, 4, 0.0, dora=True),
        r"backbone\.(queries|vlm\.text_model\.model\.layers\.\d\.self_attn\..*lora_.*)",
    ),
]


@pytest.mark.parametrize(("placement", "pattern"), PLACEMENTS)
def test_exactly_the_chosen_weights_move(make_policy: MakePolicy, placement: Placement, pattern: str) -> None:
    import re

    policy = make_policy(placement)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = policy.configure_optimizers()
    for step in range(3):
        optimizer.zero_grad()
        policy.compute_loss(episode_batch(policy, seed=step))[0]["loss"].backward()
        optimizer.step()
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if name.startswith("head.") or re.fullmatch(pattern, name)}
    assert moved == expected
    reported = sum(row.trainable for row in policy.placement_report)
    assert reported == sum(before[name].numel() for name in expected if not name.startswith("head."))


def test_full_fine_tuning_moves_every_weight_that_has_a_gradient(make_policy: MakePolicy) -> None:
    policy = make_policy(FullPlacement())
    assert all(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({"arm": "all"}, "text_attention"),
        ({"text_mlp": 9}, "1 to 2"),
        ({"projector": 1}, "no layers"),
        ({}, "frozen"),
    ],
)
def test_lora_sites_that_make_no_sense(
    make_policy: MakePolicy, sites: dict[str, str | int], words: str
) -> None:
    with pytest.raises(ProjectError, match=words):
        make_policy(LoraPlacement(sites, 2, 4, 0.0))


def test_a_site_that_matches_nothing_is_an_error(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.backbone.sites = {"vision": r"vision_model\.encodr\.(\d+)"}
    with pytest.raises(ProjectError, match="matches no module"):
        LoraPlacement({"vision": "all"}, 2, 4, 0.0).apply(policy.backbone)


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
    assert not any("base_layer" in name or name.startswith("backbone.vlm.vision") for name in state)
    for spoilt in (
        {k: v for k, v in state.items() if "queries" not in k},
        {**state, "head.extra": torch.zeros(1)},
    ):
        with pytest.raises(ProjectError, match=r"missing|unexpected"):
            make_policy().load_trained(spoilt)
    with pytest.raises(ProjectError, match="another shape"):
        make_policy(horizon=5).load_trained(state)


def test_lstm_head_overfits_a_handful_of_samples() -> None:
    torch.manual_seed(0)
    head = LSTMHead(state_size=8, horizon=2, action_dim=3, layers=1, hidden_size=32, mlp=[32])
    states, mask = torch.randn(6, 4, 1, 8), torch.ones(6, 4, dtype=torch.bool)
    mask[0, :3] = False
    targets, valid = torch.rand(6, 2, 3) * 2 - 1, torch.ones(6, 2, dtype=torch.bool)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(head(states, mask), targets, valid)["loss"].backward()
        optimizer.step()
    assert (head.decode(head(states, mask)) - targets).abs().max() < 0.05


def test_actions_are_clipped_to_the_limits(make_policy: MakePolicy) -> None:
    policy = make_policy().eval()
    with torch.no_grad():
        policy.head.mlp[-1].bias.fill_(50.0)  # type: ignore[union-attr, operator]
        actions = policy.predict(episode_batch(policy))
    assert torch.equal(actions, policy.high.expand_as(actions))


def test_adapters_of_a_bfloat16_model_train_in_float32(tiny_checkpoint: Path) -> None:
    """Small steps would vanish in bfloat16; the frozen base may stay in it."""
    backbone = Kosmos2Backbone(str(tiny_checkpoint), dtype="bfloat16")
    LoraPlacement({"text_attention": "all"}, 2, 4, 0.0).apply(backbone)
    assert {p.dtype for p in backbone.parameters() if p.requires_grad} == {torch.float32}
    assert backbone.embeddings.weight.dtype == torch.bfloat16
