"""The ways that are compared do the same training step: equal loss, equal gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.speed.training import Arm, Workshop, fit, measure, work
from src.speed.ways import WAYS, applied, chosen, final_norm, references, unshared


def step(arm: Arm, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    arm.policy.train()
    arm.policy.zero_grad()
    terms, _ = arm.policy.compute_loss(batch)
    terms["loss"].backward()
    return float(terms["loss"].detach()), {
        name: p.grad.clone() for name, p in arm.policy.named_parameters() if p.grad is not None
    }


@pytest.fixture(scope="module")
def arm(shop: Workshop) -> Arm:
    return shop.arm("encode_once", WAYS["encode_once"])


@pytest.fixture(scope="module")
def batch(arm: Arm) -> Batch:
    return next(iter(arm.datamodule.train_dataloader()))


def require_equal(mine: Any, other: Any) -> None:
    assert mine[0] == pytest.approx(other[0], abs=1e-5)
    assert mine[1].keys() == other[1].keys() and len(mine[1]) > 3
    for name, gradient in mine[1].items():
        assert (gradient - other[1][name]).abs().max() <= 1e-5, name
    assert any(gradient.abs().max() > 1e-3 for gradient in mine[1].values())


def test_an_unshared_batch_is_whole_and_shares_nothing(batch: Batch) -> None:
    own = unshared(batch)
    own.validate()
    used = own.windows[own.windows >= 0]
    assert len(own.frames) == own.windows.numel() > len(batch.frames) and len(used.unique()) == len(used)
    assert torch.equal(own.window_mask, batch.window_mask)
    assert torch.equal(own.frames[used], batch.frames[batch.windows[batch.windows >= 0]])
    padded = ~own.window_mask
    assert padded.any()  # the filler is the first frame of the episode
    first = batch.windows.gather(1, batch.window_mask.int().argmax(dim=1)[:, None]).expand_as(batch.windows)
    filled = own.frames.view(*own.windows.shape, *own.frames.shape[1:])[padded]
    assert torch.equal(filled, batch.frames[first[padded]])


def test_sliding_and_sharing_give_equal_loss_and_gradients(arm: Arm, batch: Batch) -> None:
    shared = step(arm, batch)
    with applied(WAYS["sliding"], arm.policy, arm.datamodule):
        own = arm.datamodule.on_after_batch_transfer(batch, 0)
        assert len(own.frames) == batch.windows.numel()
        require_equal(step(arm, own), shared)
    assert arm.datamodule.on_after_batch_transfer(batch, 0) is batch  # undone


def test_the_cached_way_gives_equal_loss_and_gradients(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole fits from the same weights, the second of them from the filled cache: equal weights at the end."""
    ends = []
    for name in ("encode_once", "cached", "cached"):
        arm = shop.arm(name, WAYS[name])
        start = {key: value.clone() for key, value in arm.policy.state_dict().items()}
        computed: list[int] = []
        lower: Callable[..., Any] = arm.policy.lower
        with monkeypatch.context() as patch:
            patch.setattr(
                arm.policy, "lower", lambda f, *rest, low=lower, seen=computed: (seen.append(len(f)), low(f, *rest))[1]
            )  # fmt: skip
            torch.manual_seed(0)
            fit(arm, 1, 1)
        ends.append({key: value.clone() for key, value in arm.policy.state_dict().items()})
        arm.policy.load_state_dict(start)
    # A grey frame that tells the shape and one that tells the FLOPs; every frame of a batch came from the cache.
    assert computed == [1, 1]
    assert any((ends[0][key] - start[key]).abs().max() > 1e-4 for key in start)
    for other in ends[1:]:
        for key, value in ends[0].items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5)


def test_logits_are_computed_at_every_position(arm: Arm, batch: Batch) -> None:
    positions: list[int] = []
    handle = final_norm(arm.policy).register_forward_hook(
        lambda _, __, out: positions.append(out.shape[0] * out.shape[1])
    )
    products: list[tuple[int, ...]] = []
    linear = torch.nn.functional.linear
    try:
        with applied(WAYS["sliding"], arm.policy, arm.datamodule), pytest.MonkeyPatch.context() as patch:
            vocabulary = arm.policy.backbone.embeddings.num_embeddings  # type: ignore[union-attr, operator]

            def counted(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
                out = linear(x, weight, *rest)
                if len(weight) == vocabulary:
                    products.append(tuple(out.shape))
                return out

            patch.setattr(torch.nn.functional, "linear", counted)
            arm.policy.compute_loss(unshared(batch))
    finally:
        handle.remove()
    assert sum(s * t for s, t, _ in products) == sum(positions) > 0
    length = arm.policy.backbone.sequence_length(int(batch.instruction_mask.sum(dim=1).min()), 1)  # type: ignore[operator]
    assert sum(positions) >= batch.windows.numel() * length


def test_work_counts_distinct_frames_whatever_the_way(shop: Workshop) -> None:
    once = work(shop.arm("encode_once", WAYS["encode_once"]), 1, 2)
    sliding = work(shop.arm("sliding", WAYS["sliding"]), 1, 2)
    assert once == sliding and once.flops > 0 and once.frames <= once.windows


def test_ways_are_named_once_and_known() -> None:
    assert list(chosen(["cached", "sliding"])) == ["cached", "sliding"]
    for wrong in (["slidign"], [], ["sliding", "sliding"]):
        with pytest.raises(ProjectError, match="sliding"):
            chosen(wrong)
    assert references(["sliding", "cached", "shuffled"]) == {
        "sliding": "sliding",
        "cached": "sliding",
        "shuffled": "sliding",
    }
    assert all(way.against in WAYS for way in WAYS.values())


def test_a_measured_round_is_complete(shop: Workshop) -> None:
    result = measure(shop, ["sliding", "encode_once"], rounds=2, warmup=1, steps=1)
    assert result["failed"] == {} and set(result["ratios"]) == {"encode_once"}
    assert result["ratios"]["encode_once"]["rounds"] == 2
    for way in result["ways"].values():
        assert sum(way["split"].values()) == pytest.approx(1.0)
        assert way["split"]["encode"] > 0 and way["split"]["backward"] > 0 and way["split"]["head"] > 0
        assert way["windows_per_s"]["low"] > 0 and way["mfu"]["median"] > 0 and way["peak_memory_gb"] > 0
