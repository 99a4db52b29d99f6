"""Owns the uncertainty of every figure in a report.

In: outcomes of independent units (episodes, or groups of near-duplicate episodes). Out: `Estimate`s, i.e. a value
with its interval and the number of units behind it, and p-values of paired comparisons. Nothing here knows
about robots; everything random takes an explicit seed, so a report repeats to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
EXACT_SIGN_FLIPS = 12  # up to 2^12 sign patterns are enumerated; above, they are sampled


@dataclass(frozen=True)
class Estimate:
    """A figure that admits how sure it is.

    `value`, `low`, `high` are None where nothing was measured (n = 0); the interval alone is None where a single
    unit says nothing about spread. `n` counts the things averaged; `clusters` the independent units among them.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    clusters: int | None = None

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain JSON form, rounded to 6 decimals so that two machines print the same figure."""
        out: dict[str, float | int | str | None] = {
            "value": _rounded(self.value),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
            "n": self.n,
            "interval": self.method,
        }
        if self.clusters is not None:
            out["clusters"] = self.clusters
        return out


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Share `successes / n` with the Wilson score interval, which stays honest at 0 % and 100 %."""
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} successes out of {n} trials is impossible")
    if n == 0:
        return Estimate(None, None, None, 0, "wilson")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n, "wilson")


def bootstrap_mean(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean of `values` (n,) of independent units, with a percentile bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones_like(values), seed, resamples, confidence)


def bootstrap_ratio(
    sums: np.ndarray,
    counts: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Estimate:
    """Cluster bootstrap of `transform(sum(sums) / sum(counts))`.

    `sums`, `counts`: (C,), one entry per cluster (a group of frames that are not independent of one another).
    Whole clusters are redrawn, so 18 nearly equal frames of one drive are not sold as 18 measurements.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        ratio = (weights @ sums) / np.maximum(weights @ counts, 1e-12)
        return transform(ratio) if transform is not None else ratio

    counts = np.asarray(counts, dtype=np.float64)
    sums = np.asarray(sums, dtype=np.float64)[counts > 0]
    counts = counts[counts > 0]
    return bootstrap(statistic, len(counts), int(round(counts.sum())), seed, resamples, confidence)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: int,
    n: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Percentile bootstrap of any statistic of cluster weights.

    `statistic`: (R, C) how often each cluster was drawn → (R,) the figure. Weights of one give the point value.
    """
    method = "bootstrap"
    if clusters == 0:
        return Estimate(None, None, None, 0, method, 0)
    value = float(statistic(np.ones((1, clusters)))[0])
    if clusters == 1:
        return Estimate(value, None, None, n, method, 1)
    draws = np.asarray(statistic(_redraws(clusters, seed, resamples)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n, method, clusters)


@lru_cache(maxsize=4)
def _redraws(clusters: int, seed: int, resamples: int) -> np.ndarray:
    """(R, C) how often each cluster is drawn in each resample; kept, as one report asks for the same ones often."""
    resamples = max(200, min(resamples, 40_000_000 // clusters))  # at most 160 MB
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, shares, size=resamples).astype(np.float32)


@dataclass(frozen=True)
class PairedTest:
    """Difference of two arms on the same units: mean, its bootstrap interval, and a two-sided p-value."""

    difference: Estimate
    p_value: float | None

    @property
    def better(self) -> bool:
        """The first arm is above the second beyond the noise (p < 0.05)."""
        return self._significant and (self.difference.value or 0.0) > 0

    @property
    def worse(self) -> bool:
        """The first arm is below the second beyond the noise (p < 0.05)."""
        return self._significant and (self.difference.value or 0.0) < 0

    @property
    def _significant(self) -> bool:
        return self.p_value is not None and self.p_value < 1 - CONFIDENCE

    def to_dict(self) -> dict[str, object]:
        return {"difference": self.difference.to_dict(), "p": _rounded(self.p_value)}


def paired(first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = 10_000) -> PairedTest:
    """Compare two arms measured on the same units: `first`, `second` (n,) in the same order."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired: arms of shape {first.shape} and {second.shape} are not pairs")
    differences = first - second
    p_value = sign_flip(differences, seed, resamples) if len(differences) else None
    return PairedTest(bootstrap_mean(differences, seed), p_value)


def sign_flip(differences: np.ndarray, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p-value of the sign-flip (paired permutation) test that the mean of `differences` (n,) is zero.

    Zero differences carry no sign and drop out. Where all others are equally large (yes/no outcomes) the test is
    the exact binomial one; with few pairs all sign patterns are enumerated; otherwise they are sampled.
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    if np.allclose(np.abs(differences), abs(differences[0])):
        fewer = min(int((differences > 0).sum()), int((differences < 0).sum()))
        return min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)
    observed = abs(differences.sum()) * (1 - 1e-12)
    if n <= EXACT_SIGN_FLIPS:
        patterns = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(patterns @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for part in np.array_split(np.arange(resamples), max(1, resamples * n // 4_000_000)):
        signs = 1 - 2 * rng.integers(0, 2, size=(len(part), n), dtype=np.int8)
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (hits + 1) / (resamples + 1)  # the observed pattern counts as one draw, so p is never 0
