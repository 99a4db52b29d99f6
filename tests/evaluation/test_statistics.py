"""Every interval and test is checked against scipy or statsmodels, or against what it promises: coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from src.evaluation.statistics import bootstrap_mean, bootstrap_ratio, paired, sign_flip, wilson


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_equals_statsmodels(case: tuple[int, int]) -> None:
    successes, n = case
    estimate = wilson(successes, n)
    low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
    assert estimate.value == successes / n
    assert estimate.low == pytest.approx(max(low, 0), abs=1e-9)
    assert estimate.high == pytest.approx(min(high, 1), abs=1e-9)


def test_nothing_measured_has_no_value() -> None:
    assert wilson(0, 0).value is None
    assert bootstrap_mean(np.array([])).value is None
    single = bootstrap_mean(np.array([2.0]))
    assert (single.value, single.low, single.high) == (2.0, None, None)
    with pytest.raises(ValueError, match="impossible"):
        wilson(3, 2)


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).exponential(size=80)
    ours = bootstrap_mean(values, seed=1, resamples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    spread = values.std() / np.sqrt(80)
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.12 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.12 * spread)


def test_bootstrap_repeats_and_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        estimate = bootstrap_mean(rng.normal(size=40), seed=trial, resamples=400)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99
    values = rng.normal(size=20)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_repeated_frames_do_not_shrink_a_clustered_interval() -> None:
    means = np.random.default_rng(1).normal(size=30)
    once = bootstrap_ratio(means, np.ones(30), seed=4)
    copied = bootstrap_ratio(means * 18, np.full(30, 18.0), seed=4)
    assert copied.n == 18 * 30 and copied.clusters == 30
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=9))
@settings(max_examples=30, deadline=None)
def test_exact_sign_flip_equals_scipy(values: list[float]) -> None:
    differences = np.array(values)
    theirs = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="two-sided",
        vectorized=False,
    ).pvalue
    assert sign_flip(differences) == pytest.approx(theirs, abs=1e-9)


def test_sign_flip_of_yes_no_outcomes_is_mcnemar_and_sampling_is_close_to_scipy() -> None:
    outcomes = np.array([1.0] * 14 + [-1.0] * 4 + [0.0] * 30)
    assert sign_flip(outcomes) == pytest.approx(stats.binomtest(14, 18).pvalue)
    differences = np.random.default_rng(8).normal(0.25, 1, size=60)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(1)
    ).pvalue
    assert sign_flip(differences, seed=2) == pytest.approx(theirs, abs=0.02)
    assert sign_flip(np.zeros(5)) == 1.0


def test_paired_says_better_only_beyond_the_noise() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=50)
    assert paired(base + 0.3, base + rng.normal(0, 0.1, 50)).better
    assert paired(base, base + 0.3 + rng.normal(0, 0.1, 50)).worse
    same = paired(base, base + rng.normal(0, 0.1, 50))
    assert not same.better and not same.worse
    with pytest.raises(ValueError, match="not pairs"):
        paired(base, base[:3])
