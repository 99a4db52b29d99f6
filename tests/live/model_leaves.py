"""What is seen of the keys of `model`, `optimizer` and `scheduler`: weights, answers, losses, learning rates."""

from __future__ import annotations

from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from src.core.config import build
from src.data.batch import Batch
from src.experiment.checkpoint import build_policy
from src.model.policy import Policy
from tests.live.scene import Case, View, digest

SENTENCES = ["drive to the red ball", "pass the box on its left side"]


def _policy(view: View) -> Policy:
    cfg = view.cfg
    normalizer = build(cfg.data.normalizer)
    actions = torch.linspace(-1, 1, 60).reshape(20, 3)
    normalizer.fit(actions.numpy())
    policy = build_policy(cfg, build(cfg.data.action), normalizer)
    policy.fit_actions(actions.numpy())
    return policy


@cache
def _pixels() -> torch.Tensor:
    noise = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return noise.to(torch.uint8)


def _batch(policy: Policy) -> Batch:
    """Two drives of three frames, one sample each frame."""
    w, h = policy.window, policy.horizon
    ids, mask = policy.tokenize(SENTENCES)
    windows = torch.tensor([[max(-1, t - w + 1 + i) for i in range(w)] for t in range(3)])
    windows = torch.cat([windows, torch.where(windows >= 0, windows + 3, -1)])
    actions = torch.linspace(-1, 1, 6 * h * 3).reshape(6, h, 3)
    keys = [(f"e{i // 3}", i % 3) for i in range(6)]
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    return Batch(_pixels(), rows, ids, mask, windows, actions, torch.ones(6, h, dtype=torch.bool), keys)


def weights(view: View) -> dict[str, tuple[Any, ...]]:
    """Name, type, shape of every weight, and whether it trains."""
    policy = _policy(view)
    return {n: (str(p.dtype), tuple(p.shape), p.requires_grad) for n, p in policy.named_parameters()}


def fresh_weights(view: View) -> str:
    """The values of the weights before training."""
    return digest(dict(_policy(view).state_dict()))


def answers(view: View) -> str:
    """The head's prediction for a fixed batch, in evaluation mode."""
    policy = _policy(view).eval()
    with torch.no_grad():
        return digest(policy.prediction(_batch(policy)))


def largest_commands(view: View) -> list[float]:
    """The commands of a head that asks for far too much."""
    policy = _policy(view).eval()
    asked = torch.full((1, policy.horizon * 3), 1e6)
    return [*policy.decode(asked)[0, 0].tolist(), *policy.decode(-asked)[0, 0].tolist()]


def _trained(view: View, steps: int = 2) -> tuple[Policy, list[list[float]]]:
    """Two steps in train mode with the config's optimizer and schedule; the policy and the rates of each step."""
    policy = _policy(view).train()
    optimizer = build(view.cfg.optimizer)(policy.parameter_groups())
    scheduler = build(view.cfg.scheduler)(optimizer, total_steps=steps)
    batch, rates = _batch(policy), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            rates.append([group["lr"] for group in optimizer.param_groups])
            terms, _ = policy.compute_loss(batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            scheduler.step()
    return policy, rates


def weights_after_two_steps(view: View) -> str:
    """The values of what trains."""
    policy, _ = _trained(view)
    return digest({name: p for name, p in policy.named_parameters() if p.requires_grad})


def learning_rates(view: View) -> list[list[float]]:
    """The rate of each group in each of 20 steps."""
    weight = nn.Parameter(torch.zeros(2, 2))
    groups = {
        name: [weight if name == "head" else nn.Parameter(torch.zeros(2, 2))] for name in ("backbone", "head")
    }
    optimizer = build(view.cfg.optimizer)(groups)
    scheduler = build(view.cfg.scheduler)(optimizer, total_steps=20)
    rates = []
    for _ in range(20):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def forward_passes(view: View) -> int:
    """How often a layer of the text model computes in one training step: twice where activations are recomputed."""
    policy = _policy(view).train()
    layer: Any = policy.backbone.network.get_submodule("text_model.model.layers.0.ffn.fc1")
    layer = getattr(layer, "base_layer", layer)  # without its adapter
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    layer.register_forward_hook(note)
    policy.compute_loss(_batch(policy))[0]["loss"].backward()
    return count


def fused(view: View) -> list[Any]:
    """Whether one kernel steps all weights of a group."""
    policy = _policy(view)
    optimizer = build(view.cfg.optimizer)(policy.parameter_groups())
    return [group["fused"] for group in optimizer.param_groups]


def compiled_parts(view: View) -> list[str]:
    """Modules that torch is asked to compile; that it does is tested with the model, and takes it half a minute."""
    asked: list[str] = []
    with patch.object(nn.Module, "compile", lambda module: asked.append(type(module).__name__)):
        _policy(view)
    return asked


_TWO_LAYERS = {"model.head.layers": 2}

CASES: dict[str, Case] = {
    "optimizer.lr": Case(0.002, weights_after_two_steps),
    "optimizer.head_lr": Case(0.002, learning_rates),
    "optimizer.weight_decay": Case(0.5, weights_after_two_steps),
    "optimizer.betas": Case([0.5, 0.95], weights_after_two_steps),
    "optimizer.fused": Case(False, fused),
    "scheduler.warmup_fraction": Case(0.5, learning_rates),
    "scheduler.final_fraction": Case(0.5, learning_rates),
    "model.history._target_": Case("src.model.history.Interleaved", answers),
    "model.senses": Case(["image"], answers),
    "model.compile": Case(True, compiled_parts),
    "model.backbone.checkpoint": Case("assets/kosmos2_tiny", weights),
    "model.backbone.revision": Case("main", weights, refused="after"),  # a local folder has none
    "model.backbone.num_queries": Case(2, weights),
    "model.backbone.prompt": Case("<s>{image} robot {instruction}", answers),
    "model.backbone.query_init": Case(None, fresh_weights),
    "model.backbone.dtype": Case("bfloat16", weights),
    "model.backbone.quantization": Case(
        "int4", weights, refused="after"
    ),  # nf4 and int8 need a GPU's library
    "model.backbone.gradient_checkpointing": Case(True, forward_passes),
    "model.lora.train_queries": Case(False, weights),
    "model.lora.sites.text_attention": Case(None, weights),
    "model.lora.sites.text_mlp": Case(None, weights),
    "model.lora.sites.vision": Case("all", weights),
    "model.lora.sites.projector": Case("all", weights),
    "model.lora.rank": Case(3, weights),
    "model.lora.alpha": Case(32, weights_after_two_steps),
    "model.lora.dropout": Case(0.3, weights_after_two_steps),
    "model.lora.rslora": Case(True, weights_after_two_steps),
    "model.lora.dora": Case(True, weights),
    "model.head.layers": Case(2, weights),
    "model.head.hidden_size": Case(12, weights),
    "model.head.mlp": Case([8, 8], weights),
    "model.head.dropout": Case(0.3, weights_after_two_steps, _TWO_LAYERS),
    "model.head.huber_delta": Case(0.1, weights_after_two_steps),
    "data.normalizer._target_": Case("src.data.normalizer.MeanStdNormalizer", weights_after_two_steps),
}
