"""Owns how sequences of unequal length are divided into calls of the text model.

In: the length of every sequence. Out: which of them are computed together. In a call all are as long as its longest
one, so equal lengths together waste nothing; but a call costs something of its own, so a few short sequences may be
cheaper padded beside longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence

CALL_TOKENS = {"cpu": 128, "cuda": 1024}
"""Device -> tokens that cost as much as one more call of the text model.

CPU: measured on the small Kosmos-2, forward and backward on one thread: 16 ms a call + 0.13 ms a token. CUDA: computed,
not measured: a call reads all weights (2 bytes each) in the time that 200 to 400 tokens take to compute (an H200: 4.8
TB/s; 990 TFLOP/s, reached by half), and its hundreds of kernels on few tokens leave the rest of the GPU idle.
"""


def divide(lengths: Sequence[int], call_tokens: int) -> list[list[int]]:
    """Rows of each call, so that calls x `call_tokens` + all tokens computed, padding included, are fewest.

    Neighbours in order of length belong together, so this is the shortest way through the distinct lengths.

    Args:
        lengths: of each sequence, tokens; at least one.
        call_tokens: what one more call costs, in tokens.

    Returns:
        Numbers of sequences, shortest first; those of equal length stay together and in order.
    """
    rows_of: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows_of.setdefault(length, []).append(row)
    distinct = sorted(rows_of)
    cost, first = [0], [0]  # of the cheapest division of the i shortest lengths; where its last call begins
    for end, longest in enumerate(distinct, start=1):
        rows, best, start = 0, None, 0
        for begin in range(end - 1, -1, -1):
            rows += len(rows_of[distinct[begin]])
            found = cost[begin] + call_tokens + rows * longest
            if best is None or found < best:
                best, start = found, begin
        assert best is not None
        cost.append(best)
        first.append(start)
    calls, end = [], len(distinct)
    while end > 0:
        calls.append([row for length in distinct[first[end] : end] for row in rows_of[length]])
        end = first[end]
    return calls[::-1]
