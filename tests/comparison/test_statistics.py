"""Intervals, tests and floors of a comparison against scipy and statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from src.comparison.statistics import Sample, compare, floor, interval, mean

ANY = (-math.inf, math.inf)
values = st.lists(st.integers(-10_000, 10_000).map(lambda whole: whole / 1000), min_size=2, max_size=8)
shares = st.lists(st.integers(0, 100).map(lambda whole: whole / 100), min_size=2, max_size=6)


def sample(numbers: list[float], trials: int | None = None) -> Sample:
    return Sample(
        dict(enumerate(numbers)), {} if trials is None else dict.fromkeys(range(len(numbers)), trials)
    )


@given(values)
def test_an_interval_is_scipy_s_t_interval(numbers: list[float]) -> None:
    found = interval(sample(numbers), ANY)
    if np.ptp(numbers) == 0:
        assert found is None
        return
    low, high = stats.t.interval(0.95, len(numbers) - 1, np.mean(numbers), stats.sem(numbers))
    assert found == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@given(
    st.integers(2, 8).flatmap(
        lambda k: st.tuples(*[st.lists(st.integers(-999, 999), min_size=k, max_size=k)] * 2)
    )
)
def test_a_test_is_scipy_s_paired_t_test(pairs: tuple[list[int], list[int]]) -> None:
    first, second = ([one / 100 for one in numbers] for numbers in pairs)
    found = compare(sample(first), sample(second))
    assert found is not None
    differences = np.subtract(*pairs)
    assert found.difference == pytest.approx(differences.mean() / 100, abs=1e-12)
    if np.ptp(differences) == 0:
        assert found.p is None
    else:
        assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6, abs=1e-12)


@given(shares, st.integers(5, 400))
def test_the_spread_of_a_share_is_never_below_that_of_its_trials(numbers: list[float], n: int) -> None:
    k, share = len(numbers), float(np.mean(numbers))
    q = (n * share + 2) / (n + 4)
    least = math.sqrt(q * (1 - q) / (n + 4))
    data = sample(numbers, n)
    assert floor(data) == pytest.approx(least)
    s = max(np.std(numbers, ddof=1), least)
    half = stats.t.ppf(0.975, k - 1) * s / math.sqrt(k)
    found = interval(data, (0.0, 1.0))
    assert found == pytest.approx((max(0.0, share - half), min(1.0, share + half)), abs=1e-9)


def test_three_times_all_of_100_is_no_certainty() -> None:
    """By hand: q = 102/104, f = sqrt(q (1-q) / 104) = 0.013466; t(2) = 4.302653; half = 0.033451."""
    low, high = interval(sample([1.0, 1.0, 1.0], 100), (0.0, 1.0)) or (None, None)
    assert (low, high) == (pytest.approx(1 - 0.033451, abs=1e-5), 1.0)


def test_a_tiny_spread_is_not_surer_than_none() -> None:
    none, tiny = (interval(sample(one, 100), ANY) for one in ([0.9, 0.9, 0.9], [0.9, 0.9, 0.9001]))
    assert none is not None and tiny is not None
    assert tiny[1] - tiny[0] == pytest.approx(none[1] - none[0], rel=1e-3)


@given(shares, shares, st.integers(5, 400))
def test_the_paired_test_has_the_same_floor(first: list[float], second: list[float], n: int) -> None:
    k = min(len(first), len(second))
    a, b = sample(first[:k], n), sample(second[:k], n)
    found = compare(a, b)
    differences = np.subtract(first[:k], second[:k])
    s = max(np.std(differences, ddof=1), math.hypot(floor(a), floor(b)))
    t = differences.mean() / (s / math.sqrt(k))
    assert found is not None and found.p == pytest.approx(2 * stats.t.sf(abs(t), k - 1), rel=1e-6, abs=1e-12)


def test_only_common_seeds_are_paired() -> None:
    first = Sample({0: 1.0, 1: 2.0, 5: 100.0}, {})
    second = Sample({1: 1.0, 0: 0.5, 7: -100.0}, {})
    found = compare(first, second)
    assert found is not None
    assert found.difference == pytest.approx(0.75)
    assert found.p == pytest.approx(stats.ttest_rel([1.0, 2.0], [0.5, 1.0]).pvalue)


def test_one_common_seed_gives_a_difference_without_a_test() -> None:
    found = compare(Sample({0: 1.0, 1: 2.0}, {}), Sample({1: 1.0}, {}))
    assert found is not None and (found.difference, found.p) == (1.0, None)
    assert compare(Sample({0: 1.0}, {}), Sample({1: 1.0}, {})) is None


def test_seeds_that_nobody_recorded_are_never_paired() -> None:
    assert compare(Sample({-1: 1.0, -2: 2.0}, {}), Sample({-1: 1.0, -2: 2.0}, {})) is None


@given(values)
def test_the_order_of_seeds_decides_no_digit(numbers: list[float]) -> None:
    forward = Sample(dict(enumerate(numbers)), {})
    backward = Sample(dict(reversed(list(enumerate(numbers)))), {})
    assert mean(forward) == mean(backward)
    assert interval(forward, ANY) == interval(backward, ANY)


@given(st.integers(0, 100), st.integers(20, 300))
def test_equal_shares_are_no_difference(successes: int, n: int) -> None:
    data = sample([successes / 100] * 3, n)
    found = compare(data, data)
    assert found is not None and found.p == pytest.approx(1.0)
