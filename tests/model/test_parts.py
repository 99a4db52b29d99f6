"""Rows worked through in parts: the loss and gradient of all rows at once, in less memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from src.data.batch import Batch
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.heads.base import Head
from src.model.heads.gpt import GPTHead
from src.model.heads.lstm import LSTMHead
from src.model.heads.mlp import MLPHead
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import LoraPlacement
from src.model.parts import in_parts, part_sizes
from src.model.policy import Policy
from tests.model.conftest import episode_batch

MakePolicy = Callable[..., Policy]
HEADS: dict[str, Callable[..., Head]] = {
    "lstm": partial(LSTMHead, layers=2, hidden_size=16, mlp=[16]),
    "mlp": partial(MLPHead, mlp=[16]),
    "gpt": partial(GPTHead, layers=1, hidden_size=16, attention_heads=2),
}


class Net(nn.Module):
    """Two inputs, two layers and dropout between them."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        result: Tensor = self.second(self.dropout(torch.tanh(self.first(x) + shift)))
        return result


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=name)


@given(rows=st.integers(1, 200), most=st.integers(1, 200), more=st.integers(0, 5))
def test_parts_hold_every_row_once_and_the_last_is_the_largest(rows: int, most: int, more: int) -> None:
    needed = -(-rows // most)
    sizes = part_sizes(rows, most, needed + more)
    assert sum(sizes) == rows and min(sizes) >= 1 and max(sizes) == sizes[-1] <= most
    assert len(sizes) == min(rows, needed + more)
    if more == 0:
        assert sizes[-1] == min(rows, most)  # so as few rows as can be are computed twice


@settings(max_examples=40)
@given(rows=st.integers(1, 12), most=st.integers(1, 14) | st.none(), seed=st.integers(0, 99))
def test_result_and_gradient_are_those_of_all_rows_at_once(rows: int, most: int | None, seed: int) -> None:
    net, generator = Net(), torch.Generator().manual_seed(seed)
    x, shift = torch.randn(rows, 6, generator=generator), torch.randn(rows, 16, generator=generator)
    target = torch.randn(rows, 3, generator=generator)
    found = []
    for limit in (None, most):
        entry, moved = x.clone().requires_grad_(), shift.clone().requires_grad_()
        result = in_parts(net, (entry, moved), limit)
        (result - target).pow(2).mean().backward()  # type: ignore[no-untyped-call]
        assert entry.grad is not None and moved.grad is not None
        found.append({"result": result.detach(), "x": entry.grad, "shift": moved.grad, **gradients(net)})
    close(*found)


def test_what_is_computed_again_drops_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference keeps the activations of every part."""
    net, x, shift = Net(dropout=0.5), torch.randn(10, 6), torch.randn(10, 16)
    torch.manual_seed(1)
    in_parts(net, (x, shift), 3).pow(2).sum().backward()  # type: ignore[no-untyped-call]
    ours, next_number = gradients(net), torch.rand(1)
    torch.manual_seed(1)
    torch.cat(
        [net(*part) for part in zip(x.split([1, 3, 3, 3]), shift.split([1, 3, 3, 3]), strict=True)]
    ).pow(2).sum().backward()  # type: ignore[no-untyped-call]
    close(ours, gradients(net), 0.0)
    assert torch.equal(torch.rand(1), next_number)


def test_rows_are_computed_twice_only_for_a_gradient() -> None:
    net, seen = Net(), []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    x, shift = torch.randn(10, 6), torch.randn(10, 16)
    in_parts(net, (x, shift), 4).sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(seen) == [2, 2, 4, 4, 4]
    seen.clear()
    with torch.no_grad():
        in_parts(net, (x, shift), 4)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    in_parts(net, (x, shift), 4)
    assert seen == [2, 4, 4] * 2


def test_the_peak_of_memory_falls() -> None:
    net = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.Tanh())))
    x = torch.randn(512, 64)
    peaks = []
    for most in (None, 64):
        peaks.append(_peak(partial(_step, net, x, most)))
        gradients(net)
    assert peaks[1] < 0.4 * peaks[0], peaks


def _step(net: nn.Module, x: Tensor, most: int | None) -> None:
    in_parts(net, (x,), most).sum().backward()  # type: ignore[no-untyped-call]


def _peak(work: Callable[[], Any]) -> int:
    """Bytes allocated at the worst moment of `work`, beyond those before it, as torch's allocator counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    totals: list[tuple[int, int]] = []

    def collect(events: Any) -> None:
        for event in events:
            if event.name == "[memory]":
                totals.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    assert recorded.profiler is not None
    collect(recorded.profiler.kineto_results.experimental_event_tree())
    return max(itertools.accumulate(size for _, size in sorted(totals)))


# ---------------------------------------------------------------- the policy


def losses(policy: Policy, batch: Batch) -> dict[str, Tensor]:
    terms, prediction = policy.compute_loss(batch)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    return {"loss": terms["loss"].detach(), "prediction": prediction.detach(), **gradients(policy)}


@pytest.mark.parametrize("history", [PerFrame, Interleaved])
@pytest.mark.parametrize("head", HEADS)
def test_a_policy_learns_the_same_in_parts(
    make_policy: MakePolicy, history: Callable[[], History], head: str
) -> None:
    everywhere = dict.fromkeys(("vision", "projector", "text_attention", "text_mlp"), "all")
    policy = make_policy(LoraPlacement(everywhere, 2, 4, 0.0), history=history(), head=HEADS[head])
    batch = episode_batch(policy, (6, 4))
    whole = losses(policy, batch)
    for most in (4, 7):
        close(losses(policy, replace(batch, max_frames=most)), whole)


@pytest.mark.parametrize("history", [PerFrame, Interleaved])
def test_never_more_frames_than_allowed_go_through_at_once(
    make_policy: MakePolicy, history: Callable[[], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(history=history())
    batch = replace(episode_batch(policy, (6, 4)), max_frames=5)
    seen: list[int] = []
    for name in ("encode_images", "encode"):
        _watch(monkeypatch, name, seen)
    losses(policy, batch)
    assert max(seen) <= 5
    seen.clear()
    with torch.no_grad():
        policy.predict(batch)
    in_text = 10 * policy.window if history is Interleaved else 10
    assert max(seen) <= 5 and sum(seen) == 10 + in_text  # nothing twice


def _watch(monkeypatch: pytest.MonkeyPatch, name: str, seen: list[int]) -> None:
    """Notes how many frames each call of a backbone's method takes."""
    original = getattr(Kosmos2Backbone, name)

    def noted(self: Kosmos2Backbone, entry: Tensor, *rest: Tensor) -> Tensor:
        seen.append(len(entry) if name == "encode_images" else entry.shape[0] * entry.shape[1])
        result: Tensor = original(self, entry, *rest)
        return result

    monkeypatch.setattr(Kosmos2Backbone, name, noted)


def test_a_robot_is_not_asked_for_a_limit(make_policy: MakePolicy) -> None:
    """The predictor calls the same functions frame by frame."""
    policy = make_policy().eval()
    batch = episode_batch(policy, (6, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            policy.predict(replace(batch, max_frames=4)), policy.predict(batch), rtol=0, atol=1e-6
        )
