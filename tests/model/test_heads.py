"""Every head behind the one door: shapes, masks, and what each can and cannot learn."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.head_cases import (
    HEADS,
    D,
    Q,
    S,
    directions,
    every_head,
    every_shape,
    every_space,
    every_window,
    inputs,
    learn,
    make,
    targets,
)

# ---------------------------------------------------------------- shapes and masks


@every_head
@every_space
@every_shape
@every_window
def test_shapes_and_a_decoding_that_never_varies(name: str, space: str, horizon: int, window: int) -> None:
    head = make(name, window, horizon, space)
    prediction = head(*inputs(head))
    actions = head.decode(prediction)
    assert actions.shape == (S, horizon, head.action_dim) and actions.dtype == torch.float32
    torch.rand(7)  # the global generator stands elsewhere now
    assert torch.equal(head.decode(prediction), actions)
    terms = head.loss(prediction, *targets(head))
    assert terms["loss"].ndim == 0 and terms["loss"].requires_grad
    assert len(terms) > 1 and not any(v.requires_grad for k, v in terms.items() if k != "loss")


@every_head
def test_what_stands_in_the_padding_of_a_window_changes_nothing(name: str) -> None:
    head = make(name)
    states, mask = inputs(head)
    before = head(states, mask)
    for content in (1e6, float("nan")):
        spoiled = states.clone()
        spoiled[~mask] = content
        assert torch.equal(head(spoiled, mask), before)
        head.zero_grad()
        head.loss(head(spoiled, mask), *targets(head))["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", [name for name in HEADS if name != "mlp"])  # its input has a place per frame
def test_a_window_that_has_just_begun_is_a_short_window(name: str) -> None:
    head = make(name)
    states, _ = inputs(head)
    padded = head(states, torch.tensor([[False, False, True, True]]).expand(S, -1))
    short = head(states[:, 2:], torch.ones(S, 2, dtype=torch.bool))
    torch.testing.assert_close(padded, short, rtol=0, atol=1e-6)


@every_head
@every_window
def test_every_valid_frame_of_the_window_counts(name: str, window: int) -> None:
    head = make(name, window)
    states, mask = inputs(head)
    before = head(states, mask)
    for position in range(window):
        changed = states.clone()
        changed[:, position] += 1.0
        moved = (head(changed, mask) - before).abs().flatten(1).amax(dim=1) > 1e-6
        assert torch.equal(moved, mask[:, position]), f"position {position}"


@every_head
@every_space
def test_batch_mates_change_nothing(name: str, space: str) -> None:
    head = make(name, space=space)
    states, mask = inputs(head)
    together = head(states, mask)
    decoded = head.decode(together)
    for sample in range(S):
        alone = head(states[sample : sample + 1], mask[sample : sample + 1])
        torch.testing.assert_close(alone[0], together[sample], rtol=0, atol=1e-5)
        torch.testing.assert_close(head.decode(alone)[0], decoded[sample], rtol=0, atol=1e-5)


@every_head
def test_padded_actions_count_nothing(name: str) -> None:
    head = make(name).train()
    prediction = head(*inputs(head))
    actions, mask = targets(head)

    def total(content: Tensor) -> float:
        torch.manual_seed(3)  # times and noises of the flow
        return head.loss(prediction, content, mask)["loss"].item()

    before = total(actions)
    for content in (1e6, float("nan")):
        assert total(actions.masked_fill(~mask[..., None], content)) == before
    assert total(actions.masked_fill(mask[..., None], -1.0)) != before


@pytest.mark.parametrize("name", [name for name in HEADS if name != "flow"])  # its noise depends on the place
def test_a_loss_is_the_mean_over_the_valid_steps_however_they_are_batched(name: str) -> None:
    more = {"class_weights": "balanced"} if name in ("classes", "hybrid") else {}
    head = make(name, fit=False, **more)
    head.fit(directions(head.codec)[[1] * 9 + list(range(9))])
    prediction = head(*inputs(head))
    actions, mask = targets(head)
    whole = head.loss(prediction, actions, mask)["loss"]
    parts = [
        head.loss(prediction[i : i + 1], actions[i : i + 1], mask[i : i + 1])["loss"] * mask[i].sum() for i in range(S)
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(parts).sum() / mask.sum(), whole)


@every_head
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    head = make(name).train()
    states, mask = inputs(head)
    head.loss(head(states.requires_grad_(), mask), *targets(head))["loss"].backward()
    silent = [key for key, p in head.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent
    assert states.grad is not None and torch.equal(states.grad.flatten(2).abs().amax(dim=2) > 0, mask)


@every_head
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_safe(name: str, precision: torch.dtype) -> None:
    head = make(name)
    full = head.loss(head(*inputs(head)), *targets(head))["loss"]
    with torch.autocast("cpu", dtype=precision):
        prediction = head(*inputs(head))
        loss = head.loss(prediction, *targets(head))["loss"]
        decoded = head.decode(prediction)
    assert loss.dtype == decoded.dtype == torch.float32
    torch.testing.assert_close(loss, full, rtol=2e-2, atol=1e-3)


# ---------------------------------------------------------------- what each can learn


@every_head
def test_a_head_learns_a_handful_by_heart(name: str) -> None:
    head = (
        make(name, horizon=2, space="diff_drive", hidden_size=32) if name != "mlp" else make(name, horizon=2)
    )
    states, mask = inputs(head)
    actions, _ = targets(head)
    if name == "classes":  # what it can say: its classes' actions
        actions = head.values[torch.arange(S * 2).view(S, 2) % head.classes]
    learn(
        head, states, mask, actions, torch.ones(S, 2, dtype=torch.bool), steps=300 if name == "flow" else 150
    )
    error = (head.decode(head(states, mask)) - actions).abs().max()
    allowed = {"classes": 1e-6, "flow": 0.1}.get(name, 0.02)
    if name == "bins":
        allowed = float((head.high - head.low).max()) / (head.bins - 1) / 2 + 1e-6
    assert error <= allowed


@cache
def two_ways(name: str) -> tuple[Any, Tensor, Tensor]:
    """A head that has seen one situation answered in two ways, +0.8 or -0.8 on both axes."""
    head = make(name, 1, 1, "diff_drive", fit=False)
    actions = torch.tensor([0.8, -0.8]).repeat(32)[:, None, None].expand(-1, 1, 2)
    head.fit(actions[:, 0])
    states, mask = torch.ones(64, 1, Q, D), torch.ones(64, 1, dtype=torch.bool)
    learn(head, states, mask, actions, mask, steps=300 if name == "flow" else 80)
    return head, states, mask


@pytest.mark.parametrize("name", ["lstm", "mlp", "gpt"])
def test_regression_averages_two_ways_into_one_that_nobody_took(name: str) -> None:
    head, states, mask = two_ways(name)
    assert head.decode(head(states, mask)).abs().max() < 0.05


@pytest.mark.parametrize("name", ["bins", "flow", "hybrid"])
def test_a_head_that_chooses_takes_one_of_two_ways(name: str) -> None:
    head, states, mask = two_ways(name)
    decoded = head.decode(head(states, mask))
    assert (decoded.abs() - 0.8).abs().max() < (0.15 if name == "flow" else 0.06)
    assert torch.equal(decoded, decoded[:1].expand_as(decoded))  # the same everywhere, whoever asks


def test_draws_of_the_flow_land_on_both_ways_and_hardly_between() -> None:
    head, states, mask = two_ways("flow")
    count = 400
    noise = torch.randn(count, 1, 2, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        drawn = head.sample(head(states[:1], mask[:1]).expand(count, -1), noise)[:, 0]
    near = ((drawn.abs() - 0.8).abs() < 0.25).all(dim=1)
    assert near.float().mean() > 0.8
    assert 0.35 < (drawn[near] > 0).all(dim=1).float().mean() < 0.65
    assert (drawn[near, 0] * drawn[near, 1] > 0).all()  # whole actions, not a mixture of two
    assert (drawn.abs() < 0.4).all(dim=1).float().mean() < 0.12


def test_the_flow_starts_from_one_noise_and_validates_with_one() -> None:
    head, other = make("flow", seed=0), make("flow", seed=7)
    assert torch.equal(head.noise, other.noise) and head.noise.abs().max() > 0
    prediction = head(*inputs(head))
    assert torch.equal(head.decode(prediction), head.sample(prediction, head.noise.expand(S, -1, -1)))
    assert not torch.equal(head.decode(prediction), head.sample(prediction, -head.noise.expand(S, -1, -1)))
    state = torch.get_rng_state()
    first, second = (head.loss(prediction, *targets(head))["loss"] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    head.train()
    first, second = (head.loss(prediction, *targets(head))["loss"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["classes", "hybrid"])
@pytest.mark.parametrize(("weights", "chosen"), [("none", "forward"), ("balanced", "left")])
def test_class_weights_move_the_decision(name: str, weights: str, chosen: str) -> None:
    """Forward is nine times as common; in the doubtful situation it is right seven times out of ten."""
    head = make(name, 1, 1, fit=False, class_weights=weights)
    names = head.codec.space.class_names
    labels = torch.tensor([names.index("forward")] * 27 + [names.index("left")] * 3)
    actions = directions(head.codec)[labels]
    states = torch.ones(30, 1, Q, D)
    states[:20] = -1.0
    head.fit(actions)
    mask = torch.ones(30, 1, dtype=torch.bool)
    learn(head, states, mask, actions[:, None], mask, steps=60)
    assert names[head.choose(head(states[-1:], mask[-1:]))] == chosen
    assert names[head.choose(head(states[:1], mask[:1]))] == "forward"
