"""Options that change cost, not meaning: gradient checkpointing, bfloat16, torch.compile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import LoraPlacement, NonePlacement, Placement
from src.model.policy import Policy
from tests.model.conftest import episode_batch

MakePolicy = Callable[..., Policy]
HISTORIES = [PerFrame(), Interleaved()]


def step(policy: Policy) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step, dropout off."""
    policy.zero_grad()
    loss = policy.compute_loss(episode_batch(policy))[0]["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {
        name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("history", HISTORIES, ids=["per_frame", "interleaved"])
def test_gradient_checkpointing_changes_nothing(
    make_policy: MakePolicy, tiny_checkpoint: Path, history: History
) -> None:
    losses, gradients = zip(
        *(
            step(
                make_policy(
                    backbone=Kosmos2Backbone(
                        str(tiny_checkpoint), query_init="<object>", gradient_checkpointing=on
                    ),
                    history=history,
                ).train()
            )
            for on in (False, True)
        ),
        strict=True,
    )
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "placement",
    [
        NonePlacement(),
        LoraPlacement({"vision": "all"}, 2, 4, 0.0),
        LoraPlacement({"projector": "all"}, 2, 4, 0.0),
        LoraPlacement({"text_attention": "all"}, 2, 4, 0.0),
    ],
    ids=["none", "vision", "projector", "text"],
)
def test_activations_are_recomputed_wherever_gradients_pass_and_frozen_parts_drop_nothing(
    make_policy: MakePolicy, tiny_checkpoint: Path, placement: Placement
) -> None:
    """A frozen text model still passes gradients to the queries, so its activations are the memory to save."""
    runs = []
    for on in (False, True):
        backbone = Kosmos2Backbone(str(tiny_checkpoint), query_init="<object>", gradient_checkpointing=on)
        for module in backbone.network.text_model.modules():
            if "dropout" in vars(module):
                module.dropout = 0.5  # the real Kosmos-2 has 0.1, its twin 0
        policy = make_policy(placement, backbone=backbone).train()
        count = []
        layer = policy.backbone.network.text_model.model.layers[0].self_attn
        layer.register_forward_hook(lambda *_, count=count: count.append(1))
        with torch.no_grad():
            first, second = (policy.predict(episode_batch(policy)) for _ in range(2))
        frozen = not any(p.requires_grad for p in policy.backbone.network.text_model.parameters())
        assert torch.equal(first, second) is frozen
        count.clear()
        step(policy)
        runs.append(len(count))
    assert runs == [1, 2]


@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_bfloat16_stays_within_its_precision(
    make_policy: MakePolicy, tiny_checkpoint: Path, kind: str
) -> None:
    """bfloat16 keeps 8 bits (0.4 %); through two towers and an LSTM actions may move by 2 % of their range."""
    exact = make_policy(backbone=Kosmos2Backbone(str(tiny_checkpoint), query_init="<object>")).eval()
    dtype = "bfloat16" if kind == "weights" else "float32"
    rounded = make_policy(
        backbone=Kosmos2Backbone(str(tiny_checkpoint), query_init="<object>", dtype=dtype)
    ).eval()
    batch = episode_batch(exact)
    with torch.no_grad():
        expected = exact.predict(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            found = rounded.predict(batch)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected), "nothing was rounded, so the option does nothing"
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * 2.3)
    loss, gradients = step(rounded.train())
    assert torch.isfinite(loss) and all(bool(torch.isfinite(g).all()) for g in gradients.values())
    assert gradients["backbone.queries"].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # what the compiler says of itself is not ours
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_parts_give_equal_losses_and_gradients(
    make_policy: MakePolicy, tiny_checkpoint: Path
) -> None:
    results = []
    for compiled in (False, True):
        policy = make_policy(
            backbone=Kosmos2Backbone(str(tiny_checkpoint), query_init="<object>"), compile=compiled
        ).train()
        results.append((*step(policy), list(policy.trained_state())))
    (loss, gradients, names), (compiled_loss, compiled_gradients, compiled_names) = results
    assert names == compiled_names, "compiling must not rename a weight"
    torch.testing.assert_close(compiled_loss, loss, rtol=0, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-5)
