"""Owns how much arithmetic a training step needs by its definition: the FLOPs that an MFU divides by time and peak.

In: a policy and the length of its prompts. Out: `Flops` of a distinct frame and of a window, by this rule (the "model
FLOPs" of Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B, for models of which a part trains):

    every product of two matrices, forward                    1
    its gradient to the input, where a gradient passes        1
    its gradient to the weight, where the weight trains       1

So what trains costs three times its forward pass, a frozen part that passes gradients on twice, a frozen part in front
of everything that trains once. Recomputing activations (gradient checkpointing, parts of a batch) does not count, nor
does what is not a matrix product. Multiply and add count separately.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from src.model.policy import Policy

aten = torch.ops.aten
_PRODUCTS = {  # places of the two factors among the arguments
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten.convolution: (0, 1),
    aten._convolution: (0, 1),
    aten.cudnn_convolution: (0, 1),
}
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
}
_RECURRENT: dict[Any, Callable[[Sequence[Any]], list[Tensor]]] = {  # arguments -> the weights of all layers
    aten.mkldnn_rnn_layer: lambda args: [args[1], args[2]],
    aten._cudnn_rnn: lambda args: list(args[1]),
}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a training step, forward and backward.

    Attributes:
        kept: for each distinct frame, up to what may be kept for later steps (`Policy.lower`).
        frame: for each distinct frame, from there on, before windows are formed.
        window: for each window: the head, and the language model too where it reads whole windows.
    """

    kept: float
    frame: float
    window: float

    def step(self, frames: int, windows: int, computed: int | None = None) -> float:
        """Of a step on `frames` distinct frames and `windows` windows; `computed`: frames no cache knew (None: all)."""
        anew = frames if computed is None else computed
        return anew * self.kept + frames * self.frame + windows * self.window


def step_flops(policy: Policy, frames: int, tokens: int, windows: int | None = None) -> float:
    """FLOPs of one training step, see above.

    Args:
        policy: on any device; is asked for one frame and one window.
        frames: distinct frames of the step.
        tokens: prompt tokens per frame, on average.
        windows: of the step; None: as many as frames, as whole episodes have.
    """
    return count_flops(policy, tokens).step(frames, frames if windows is None else windows)


def count_flops(policy: Policy, tokens: int) -> Flops:
    """Counts one forward pass of one frame and one window; costs about that. Weights, gradients and generators stay.

    Products inside the 8-bit kernels of `quantization: int8` cannot be seen, so what they do is missing.
    """
    device, backbone = policy.low.device, policy.backbone
    size = backbone.image_size
    frame = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=device)
    mask = torch.ones(1, tokens, dtype=torch.bool, device=device)
    seen = torch.ones(1, policy.window, dtype=torch.bool, device=device)
    target = torch.zeros(1, policy.horizon, policy.action_space.dim, device=device)
    valid = torch.ones(1, policy.horizon, dtype=torch.bool, device=device)
    cards = [device] if device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=cards),
        torch.compiler.set_stance("force_eager"),
    ):
        with _Counter() as lower:
            kept = policy.lower(frame, ids, mask)
        with _Counter() as upper:
            memory = policy.upper(kept, ids, mask)
        window = memory[:, None].expand(-1, policy.window, *memory.shape[1:])
        with _Counter() as rest:
            prediction = policy.respond(window, seen, ids, mask)
            policy.head.loss(prediction, target, valid)
    return Flops(float(lower.total), float(upper.total), float(rest.total))


class _Counter(TorchDispatchMode):
    """Adds up the products that go by, each weighted with the gradients that its factors will ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        if kind in _PRODUCTS:
            forward = flop_registry[kind](*args, **(kwargs or {}), out_val=out)
            self.total += forward * (1 + sum(args[place].requires_grad for place in _PRODUCTS[kind]))
        elif kind in _ATTENTION:
            query, key, value = args[:3]
            scores = query.requires_grad or key.requires_grad
            products = (1 + query.requires_grad + key.requires_grad) + (1 + scores + value.requires_grad)
            self.total += sdpa_flop_count(query.shape, key.shape, value.shape) * products // 2
        elif kind in _RECURRENT:
            self.total += _recurrent(args[0], [w for w in _RECURRENT[kind](args) if w.dim() == 2])
        return out


def _recurrent(steps: Tensor, weights: Sequence[Tensor]) -> int:
    """`steps` (time, batch, width) or (batch, time, width), either way all of them go through every weight."""
    rows, total = steps.shape[0] * steps.shape[1], 0
    passes = steps.requires_grad  # to the first weight's input; the state behind it depends on all weights
    for weight in weights:
        total += 2 * rows * weight.numel() * (1 + passes + weight.requires_grad)
        passes = passes or weight.requires_grad
    return total
