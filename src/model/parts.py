"""Owns working through the rows of a batch in parts, so that the activations of one part live at a time.

In: a function over rows (frames or windows) that treats every row alone, and the most rows at once. Out: what it gives
for all rows; the gradient, too, is that of all rows at once. For a gradient every part but the last is computed again
in the backward pass: the method of GradCache (Gao et al. 2021, arXiv:2101.06983), done by `torch.utils.checkpoint`, so
autocast, gradient scaling and clipping, accumulated batches and several processes go on as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_parts(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], most: int | None, together: bool = False
) -> Tensor:
    """`function(*tensors)`, at most `most` rows at once.

    Costs, where there are more rows: for a gradient, the forward pass of all rows but the last `most` once more (they
    draw the same dropout again); otherwise nothing but smaller steps. Rows that need no gradient are not computed
    again.

    Args:
        function: over rows: row i of its result `(N, …)` depends on row i of each tensor alone (and on dropout).
        tensors: each `(N, …)`, N at least 1.
        most: rows at once, at least 1; None sets no limit.
        together: every process calls `function` equally often, as weights that are divided among them (trainer=fsdp)
            ask for; costs one exchange of a number.

    Returns:
        The rows of all parts, `(N, …)`.
    """
    rows = len(tensors[0])
    calls = 1 if most is None else -(-rows // most)
    if together and most is not None:
        shared = torch.tensor(calls, device=tensors[0].device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        calls = int(shared)
    if most is None or calls == 1:
        return function(*tensors)
    sizes = part_sizes(rows, most, calls)
    parts = list(zip(*(tensor.split(sizes) for tensor in tensors), strict=True))
    done = [_recomputed(function, part) for part in parts[:-1]]
    # More calls than rows: the surplus counts nothing. It stands before the last part, as full parts do on the other
    # processes: passes that compute again come in the same order everywhere, or layers would be mixed up.
    surplus = [0.0 * _recomputed(function, parts[-1]).sum() for _ in range(calls - len(sizes))]
    done.append(sum(surplus, function(*parts[-1])))
    return torch.cat(done)


def part_sizes(rows: int, most: int, calls: int) -> list[int]:
    """Rows of each part, in order: at most `calls` parts, the full ones last, for the last is never computed twice."""
    sizes: list[int] = []
    for left in range(min(calls, rows) - 1, -1, -1):
        sizes.append(min(most, rows - sum(sizes) - left))
    return sizes[::-1]


def _recomputed(function: Callable[..., Tensor], part: Sequence[Tensor]) -> Tensor:
    if not torch.is_grad_enabled():
        return function(*part)
    result: Tensor = checkpoint(function, *part, use_reentrant=False)
    return result
