"""Which samples form a batch: everything once per epoch, fixed by seed and epoch, segments contiguous."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.sampler import EpisodeSampler, PlanSampler, Sampler, WindowSampler

lengths_of = st.lists(st.integers(1, 12), min_size=1, max_size=12)
rules = st.one_of(
    st.builds(EpisodeSampler, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 7))),
    st.builds(WindowSampler, st.integers(1, 9)),
)


@given(lengths_of, rules, st.one_of(st.none(), st.integers(0, 3)), st.integers(0, 3))
def test_every_sample_once_per_epoch(lengths: list[int], rule: Sampler, seed: int | None, epoch: int) -> None:
    plans = PlanSampler(rule, lengths, seed)
    plans.set_epoch(epoch)
    found = list(plans)
    assert len(found) == len(plans) == rule.count(lengths)
    samples = [pair for p in found for pair in zip(p.rows.tolist(), p.steps.tolist(), strict=True)]
    assert sorted(samples) == [(row, t) for row, length in enumerate(lengths) for t in range(length)]
    assert {p.epoch for p in found} == {epoch}
    if seed is None:
        assert samples == sorted(samples)


@given(lengths_of, st.integers(1, 5), st.integers(1, 7), st.integers(0, 3))
def test_segments_are_runs_of_one_episode(
    lengths: list[int], per_batch: int, segment: int, seed: int
) -> None:
    for plan in PlanSampler(EpisodeSampler(per_batch, segment), lengths, seed):
        jumps = np.flatnonzero((np.diff(plan.steps) != 1) | (np.diff(plan.rows) != 0)) + 1
        runs = np.split(plan.steps, jumps)
        assert all(len(set(rows)) == 1 for rows in np.split(plan.rows, jumps))
        # Two segments that follow each other by chance look like one run; none is longer than that allows.
        assert len(plan.steps) <= per_batch * segment
        assert all(run[0] % segment == 0 for run in runs)


@pytest.mark.parametrize("rule", [EpisodeSampler(3), EpisodeSampler(3, 4), WindowSampler(7)])
def test_seed_and_epoch_fix_the_order(rule: Sampler) -> None:
    lengths = [5, 9, 3, 7, 7, 2, 8, 8, 6, 4]

    def order(seed: int, epoch: int, start: int = 0) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        plans = PlanSampler(rule, lengths, seed)
        plans.set_epoch(epoch)
        plans.start = start
        return [(tuple(plan.rows), tuple(plan.steps)) for plan in plans]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(1, 2, start=2) == order(1, 2)[2:]


@pytest.mark.parametrize(
    ("rule", "arguments", "key"),
    [
        (EpisodeSampler, (0,), "episodes_per_batch"),
        (EpisodeSampler, (2, 0), "segment_length"),
        (WindowSampler, (0,), "windows_per_batch"),
    ],
)
def test_zero_is_refused(rule: Any, arguments: tuple[int, ...], key: str) -> None:
    with pytest.raises(ProjectError, match=f"data.sampler.{key} is 0"):
        rule(*arguments)
