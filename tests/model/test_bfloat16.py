"""bfloat16 in training: what trains stays float32 and learns what float32 learns; kept features change nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from src.experiment.csv_logger import read_metrics
from src.experiment.run_record import read_record
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.policy import Policy
from src.train import train
from tests.model.conftest import episode_batch


def stepped(policy: Policy, autocast: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a training step without dropout, as Lightning's bf16-mixed takes it."""
    policy.train()
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        loss = policy.compute_loss(episode_batch(policy))[0]["loss"]
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_what_trains_and_its_gradients_stay_float32(
    make_policy: Callable[..., Policy], tiny_checkpoint: Path, weights: str
) -> None:
    def policy(dtype: str) -> Policy:
        made = make_policy(backbone=Kosmos2Backbone(str(tiny_checkpoint), query_init="<object>", dtype=dtype))
        generator = torch.Generator().manual_seed(1)
        for name, p in made.named_parameters():  # adapters begin at zero, where half of them get no gradient
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1, generator=generator)
        return made

    loss, exact = stepped(policy("float32"), autocast=False)
    ours = policy(weights)
    found, gradients = stepped(ours, autocast=True)
    assert found != loss, "nothing was rounded"
    assert found == pytest.approx(loss, rel=0.02)
    assert gradients.keys() == exact.keys() == {n for n, p in ours.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in ours.parameters() if p.requires_grad)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    a, b = (torch.cat([g[name].flatten() for name in exact]) for g in (gradients, exact))
    assert float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)) < 0.05  # bf16 keeps 8 bits


@pytest.mark.slow
def test_a_run_learns_the_same_with_kept_features_and_nearly_the_same_as_in_float32(
    compose: Callable[..., Any], small_overrides: list[str], tmp_path: Path
) -> None:
    def learned(name: str, *overrides: str) -> tuple[dict[str, torch.Tensor], list[float], Any]:
        folder = tmp_path / name
        cfg = compose("train", *small_overrides, f"run_folder={folder}", "trainer.max_epochs=2", *overrides)
        cfg.evaluation = None
        train(cfg)
        last = read_checkpoint(checkpoint_path(folder, "last"))["state_dict"]
        losses = [row["train/loss"] for row in read_metrics(folder) if "train/loss" in row]
        return last, losses, read_record(folder)["training"]["features"]

    mixed = "trainer.precision=bf16-mixed"
    kept, losses, facts = learned("kept", mixed)
    assert facts["kept"] == "latents"
    fresh, same, facts = learned("fresh", mixed, "features=null")
    assert facts["kept"] is None
    assert losses == pytest.approx(same, rel=1e-3) and kept.keys() == fresh.keys()
    for name, value in kept.items():
        assert value.dtype in (torch.float32, torch.int64, torch.bool), name
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-4, msg=name)
    exact = learned("exact")[1]
    assert exact != losses and losses == pytest.approx(exact, rel=0.02)
