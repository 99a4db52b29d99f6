"""Optimizers over the policy's groups of weights: the backbone's own or its adapters, action queries, head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from src.core.errors import ProjectError

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Devices whose fused AdamW is compared with the plain one in the tests (cuda: by PyTorch's own, torch 2.13)."""


def adamw(
    groups: Mapping[str, Sequence[nn.Parameter]],
    lr: float,
    head_lr: float | None = None,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over trainable weights only.

    Args:
        groups: trainable parameters of `backbone`, `queries` and `head`.
        lr: peak learning rate of the backbone's weights (adapters) and of the action queries.
        head_lr: of the head; `lr` where null.
        weight_decay: on matrices; vectors (biases, norms) and action queries (embeddings) are not decayed.
        betas: decay of the running means of gradient and squared gradient.
        fused: one kernel for all weights instead of a dozen for each; None: where every weight is on a device that
            has it (`FUSED_DEVICES`).

    Raises:
        ProjectError: a rate that is not above 0, a negative decay, or fused weights on a device without such a kernel.
    """
    for key, value in (("lr", lr), ("head_lr", lr if head_lr is None else head_lr)):
        if not (math.isfinite(value) and value > 0):
            raise ProjectError(
                f"optimizer.{key}: found {value}, expected a finite number above 0; correct it."
            )
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ProjectError(f"optimizer.weight_decay: found {weight_decay}, expected 0 or more; correct it.")
    rates = {"backbone": lr, "queries": lr, "head": lr if head_lr is None else head_lr}
    parameters = []
    for group, members in groups.items():
        matrices = [p for p in members if p.dim() > 1 and group != "queries"]
        vectors = [p for p in members if p.dim() <= 1 or group == "queries"]
        for members_of_kind, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if members_of_kind:
                parameters.append(
                    {"params": members_of_kind, "lr": rates[group], "weight_decay": decay, "name": group}
                )
    devices = {p.device.type for members in groups.values() for p in members}
    if fused and not devices <= FUSED_DEVICES:
        raise ProjectError(
            f"optimizer.fused: found true with weights on {', '.join(sorted(devices))}, expected one of "
            f"{', '.join(sorted(FUSED_DEVICES))}; set optimizer.fused=null."
        )
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, betas=betas, fused=devices <= FUSED_DEVICES if fused is None else fused
    )
    # A fused kernel could undo the loss scaling of trainer.precision=16-mixed in passing, but then gradients would
    # still be scaled when they are clipped and checked, which Lightning refuses; so the scaler does it before.
    optimizer._step_supports_amp_scaling = False
    return optimizer
