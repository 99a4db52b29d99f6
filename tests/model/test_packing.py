"""Sequences of unequal length: divided into the cheapest calls, computed without padding, equal to the padded way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from src.model.backbone import sequence
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.lengths import divide
from src.model.backbone.sequence import Packed
from tests.model.conftest import INSTRUCTIONS, SIZES

FRAMES = 3


def cost(calls: list[list[int]], lengths: list[int], call_tokens: int) -> int:
    return sum(call_tokens + len(rows) * max(lengths[row] for row in rows) for rows in calls)


def groupings(rows: list[int]) -> list[list[list[int]]]:
    """All ways to divide a set, neighbours or not."""
    if not rows:
        return [[]]
    first, *rest = rows
    found = [[[first], *others] for others in groupings(rest)]
    for others in groupings(rest):
        found += [[*others[:i], [first, *others[i]], *others[i + 1 :]] for i in range(len(others))]
    return found


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 60))
def test_no_other_division_is_cheaper(lengths: list[int], call_tokens: int) -> None:
    calls = divide(lengths, call_tokens)
    assert sorted(row for rows in calls for row in rows) == list(range(len(lengths)))
    every = groupings(list(range(len(lengths))))
    assert cost(calls, lengths, call_tokens) == min(cost(other, lengths, call_tokens) for other in every)


def test_a_free_call_for_each_length_and_one_call_where_calls_are_dear() -> None:
    lengths = [5, 9, 5, 7, 9]
    assert divide(lengths, 0) == [[0, 2], [3], [1, 4]]
    assert divide(lengths, 1 << 40) == [[0, 2, 3, 1, 4]]


@pytest.fixture(scope="module")
def backbone(tiny_checkpoint: Path) -> Kosmos2Backbone:
    torch.manual_seed(0)
    made = Kosmos2Backbone(str(tiny_checkpoint), num_queries=2).eval()
    made.use_frames(FRAMES)
    return made


def padded(
    backbone: Kosmos2Backbone, latents: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor
) -> Tensor:
    """All sequences in one call, padded to the longest, with a mask."""
    packed = backbone.pack(frame_mask, ids, mask)
    hidden = backbone.network.text_model.model(  # type: ignore[union-attr, operator]
        inputs_embeds=backbone.merge(packed, latents, frame_mask),
        attention_mask=packed.attention.long(),
        use_cache=False,
    ).last_hidden_state
    return backbone.read(hidden, packed)


@settings(max_examples=15)
@given(
    rows=st.lists(st.tuples(st.integers(1, FRAMES), st.integers(1, 12)), min_size=1, max_size=6),
    call_tokens=st.sampled_from([0, 30, 1 << 40]),
    seed=st.integers(0, 99),
)
def test_states_and_gradients_equal_the_padded_way(
    backbone: Kosmos2Backbone, rows: list[tuple[int, int]], call_tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples, words = len(rows), max(count for _, count in rows)
    shape = (samples, FRAMES, SIZES.latents, backbone.hidden_size)
    latents = 0.1 * torch.randn(shape, generator=generator)
    frame_mask = torch.tensor([[f >= FRAMES - frames for f in range(FRAMES)] for frames, _ in rows])
    mask = torch.tensor([[w < count for w in range(words)] for _, count in rows])
    ids = torch.randint(10, 30, (samples, words), generator=generator)
    weights = torch.randn(samples, backbone.num_queries, backbone.hidden_size, generator=generator)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sequence.CALL_TOKENS, "cpu", call_tokens)
        for way in (backbone.encode, lambda *inputs: padded(backbone, *inputs)):
            backbone.zero_grad()
            given_latents = latents.clone().requires_grad_()
            states = way(given_latents, frame_mask, ids, mask)
            (states * weights).mean().backward()
            gradients = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
            results.append((states.detach(), given_latents.grad, gradients))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)
    assert results[0][2].keys() == results[1][2].keys() and "queries" in results[0][2]
    for name, gradient in results[1][2].items():
        torch.testing.assert_close(results[0][2][name], gradient, rtol=1e-4, atol=1e-5)


def test_no_token_of_padding_is_computed_and_no_mask_is_made(
    backbone: Kosmos2Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sequence.CALL_TOKENS, "cpu", 0)
    ids, mask = backbone.tokenize(INSTRUCTIONS)
    frame_mask = torch.tensor([[True, True, True], [False, False, True], [False, True, True]])
    latents = torch.randn(3, FRAMES, SIZES.latents, backbone.hidden_size)
    computed: list[Packed] = []
    run = backbone.run

    def watched(packed: Packed, seen: Tensor) -> Tensor:
        computed.append(packed)
        return run(packed, seen)

    monkeypatch.setattr(backbone, "run", watched)
    backbone.encode(latents, frame_mask, ids, mask)
    real = sum(
        backbone.sequence_length(int(m.sum()), int(f.sum())) for m, f in zip(mask, frame_mask, strict=True)
    )
    assert sum(packed.ids.numel() for packed in computed) == real
    assert all(packed.full and packed.mask is None and packed.attention.all() for packed in computed)
    assert replace(computed[0], full=False).mask is not None


def test_while_a_graph_is_recorded_shapes_do_not_follow_values(
    backbone: Kosmos2Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = backbone.tokenize(INSTRUCTIONS)
    frame_mask = torch.tensor([[True, True, True], [False, False, True], [False, True, True]])
    latents = torch.randn(3, FRAMES, SIZES.latents, backbone.hidden_size)
    expected = backbone.encode(latents, frame_mask, ids, mask)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert backbone._counts(frame_mask, mask) is None
    monkeypatch.undo()
    monkeypatch.setattr(backbone, "_counts", lambda *_: None)
    torch.testing.assert_close(backbone.encode(latents, frame_mask, ids, mask), expected, rtol=0, atol=1e-5)
