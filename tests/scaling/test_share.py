"""How the batches of an epoch are divided among processes: everything once, equal numbers of steps."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.sampler import EpisodeSampler, PlanSampler, Sampler, WindowSampler, share

Batches = list[tuple[np.ndarray, np.ndarray]]


def samples(batches: Batches) -> list[tuple[int, int]]:
    return [(int(row), int(step)) for rows, steps in batches for row, step in zip(rows, steps, strict=True)]


rules = st.one_of(
    st.builds(EpisodeSampler, st.integers(1, 4), st.none() | st.integers(1, 5)),
    st.builds(WindowSampler, st.integers(1, 9)),
)


@given(rules, st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 9))
def test_every_sample_once_in_equally_many_steps(
    rule: Sampler, lengths: list[int], world: int, seed: int
) -> None:
    whole = rule.batches(lengths, np.random.default_rng(seed))
    if sum(lengths) < world * -(-len(whole) // world):
        with pytest.raises(ProjectError, match=r"trainer\.devices"):
            share(whole, 0, world)
        return
    parts = [share(whole, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {-(-len(whole) // world)}
    assert all(len(rows) > 0 for part in parts for rows, _ in part)
    assert Counter(samples(sum(parts, []))) == Counter(samples(whole))
    assert max(Counter(samples(whole)).values()) == 1


@given(rules, st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_one_process_gets_the_order_as_it_is(rule: Sampler, lengths: list[int]) -> None:
    whole = rule.batches(lengths, np.random.default_rng(0))
    assert samples(share(whole, 0, 1)) == samples(whole)


def test_a_full_round_hands_out_neighbouring_batches_and_the_last_is_cut() -> None:
    whole: Batches = [(np.full(4, k), np.arange(4)) for k in range(5)]
    first, second = share(whole, 0, 2), share(whole, 1, 2)
    assert [rows[0] for rows, _ in first[:2]] == [0, 2]
    assert [rows[0] for rows, _ in second[:2]] == [1, 3]
    assert samples(first[2:]) == [(4, 0), (4, 1)]
    assert samples(second[2:]) == [(4, 2), (4, 3)]


@pytest.mark.parametrize("world", [2, 3])
def test_a_resumed_process_goes_on_in_its_share(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(world):
        monkeypatch.setattr("src.data.sampler._world", lambda rank=rank: (rank, world))
        plans = PlanSampler(EpisodeSampler(1), [3, 4, 5, 6, 7], 0)
        whole = [plan.steps.tolist() for plan in plans]
        assert len(whole) == len(plans)
        plans.start = 1
        assert [plan.steps.tolist() for plan in plans] == whole[1:]
        # The validation is everybody's.
        assert len(PlanSampler(EpisodeSampler(1), [3, 4, 5, 6, 7], None, shared=False)) == 5
