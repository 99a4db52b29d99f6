"""The FLOPs of a training step against torch's own counter on a real step, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.flops import count_flops, step_flops
from src.model.heads.lstm import LSTMHead
from src.model.heads.mlp import MLPHead
from src.model.history import Interleaved
from src.model.lora import FullPlacement, HeadOnlyPlacement, LoraPlacement, NonePlacement, Placement
from src.model.policy import Policy
from tests.model.conftest import episode_batch

EVERYWHERE = {"vision": "all", "projector": "all", "text_attention": "all", "text_mlp": "all"}
PLACEMENTS: dict[str, Callable[[], Placement]] = {
    "head_only": HeadOnlyPlacement,
    "none": NonePlacement,
    "text_all": lambda: LoraPlacement({"text_attention": "all", "text_mlp": "all"}, 4, 8, 0.0),
    "last layer": lambda: LoraPlacement({"vision": 1, "text_mlp": 1}, 4, 8, 0.1),
    "all": lambda: LoraPlacement(EVERYWHERE, 4, 8, 0.0),
    "full": FullPlacement,
}
HEAD = partial(MLPHead, mlp=[16])


def _counted(policy: Policy) -> tuple[float, float]:
    """FLOPs of a real step on one episode: by torch's counter, by ours."""
    batch = episode_batch(policy, (6,))
    # The counter knows no formula for the fused attention kernel of the CPU; the plain one has the same count.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        policy.compute_loss(batch)[0]["loss"].backward()
    return counter.get_total_flops(), step_flops(policy, 6, int(batch.instruction_mask.sum()), batch.size)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_step_has_the_flops_that_torch_counts(make_policy: Callable[..., Policy], name: str) -> None:
    theirs, ours = _counted(make_policy(PLACEMENTS[name](), head=HEAD).train())
    assert ours == pytest.approx(theirs, rel=0.02)


def test_windows_read_by_the_language_model_count_as_windows(make_policy: Callable[..., Policy]) -> None:
    theirs, ours = _counted(make_policy(PLACEMENTS["all"](), head=HEAD, history=Interleaved()).train())
    assert ours == pytest.approx(theirs, rel=0.02)


def test_activations_computed_again_do_not_count(
    make_policy: Callable[..., Policy], tiny_checkpoint: Path
) -> None:
    again = Kosmos2Backbone(str(tiny_checkpoint), gradient_checkpointing=True)
    theirs, ours = _counted(make_policy(PLACEMENTS["all"](), head=HEAD, backbone=again).train())
    plain = _counted(make_policy(PLACEMENTS["all"](), head=HEAD).train())[1]
    assert ours == plain < theirs / 1.15


@pytest.mark.parametrize("trains, factor", [(False, 1), (True, 3)])
def test_what_trains_costs_three_times_a_recurrent_forward(
    make_policy: Callable[..., Policy], trains: bool, factor: int
) -> None:
    head = partial(LSTMHead, layers=1, hidden_size=16, mlp=[])
    policy = make_policy(PLACEMENTS["none"](), head=head, window=4)
    policy.head.requires_grad_(trains)
    policy.backbone.queries.requires_grad_(trains)
    weights = [w for w in policy.head.parameters() if w.dim() == 2]
    steps = [4 if w.shape[0] == 64 else 1 for w in weights]  # the LSTM runs W times, the layer behind it once
    expected = factor * sum(2 * n * w.numel() for n, w in zip(steps, weights, strict=True))
    assert count_flops(policy, 5).window == pytest.approx(expected, rel=0.02)


def test_counting_changes_nothing(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(PLACEMENTS["last layer"]()).train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    state = torch.get_rng_state()
    count_flops(policy, 7)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert policy.training and all(p.grad is None for p in policy.parameters())
