"""Owns how the frozen weights of a policy are divided among processes, so that a base model fits where one GPU is too
small for it.

In: a policy and the processes' mesh. Out: every repeated layer holds its process's part of the frozen weights and puts
the whole together for the moment it is passed (FSDP2, `torch.distributed.fsdp.fully_shard`). What trains is small and
stays whole on every process, so checkpoints and optimizer states are those of one process.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from src.core.errors import ProjectError

_LEAST_SHARE = 0.5  # of the weights that has to be frozen for sharding to be worth its exchanges


def shard_frozen(module: nn.Module, mesh: DeviceMesh) -> int:
    """Divide the frozen floating-point weights of every repeated layer; return how many weights that are.

    Args:
        module: the policy, whole, the same on every process.
        mesh: one dimension, all processes.

    Raises:
        ProjectError: little of the model is frozen, or it has no repeated layers with frozen weights.
    """
    parameters = list(module.parameters())
    total = sum(p.numel() for p in parameters)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    if frozen < _LEAST_SHARE * total:
        raise ProjectError(
            f"trainer=fsdp: found {frozen:,} frozen of {total:,} weights, expected most of them, for it divides what "
            "is frozen; use trainer=ddp."
        )
    divided = 0
    for layer in _layers(module):
        whole = {p for p in layer.parameters() if p.requires_grad or not p.is_floating_point()}
        divided += sum(p.numel() for p in layer.parameters() if p not in whole)
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    if divided == 0:
        raise ProjectError(
            "trainer=fsdp: found no repeated layer with frozen floating-point weights, expected a transformer that is "
            "not quantised; use trainer=ddp."
        )
    for parameter in parameters:
        if parameter.requires_grad:  # one start for all, as DDP sends it
            torch.distributed.broadcast(parameter.data, 0)
    return divided


def _layers(module: nn.Module) -> list[nn.Module]:
    """The outermost members of lists of modules, the blocks of a transformer, that have frozen weights to divide."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += [
                layer
                for layer in child
                if any(not p.requires_grad and p.is_floating_point() for p in layer.parameters())
            ]
        else:
            found += _layers(child)
    return found
