"""Owns the uncertainty of every figure in a report.

In: outcomes of independent units (episodes, or groups of near-duplicate episodes). Out: `Estimate`s, i.e. a value
with its interval and the number of units behind it, and p-values of paired comparisons, corrected where there are
many. Nothing here knows about robots; everything random takes an explicit seed, so a report repeats to the last digit.

How far an interval can be trusted where clusters are few, measured on 2000 made data sets each (clusters of 13 to 19
frames, cluster means normal / log-normal 0.5 / exponential; nominal 95 %):

    clusters                        3             5            10            20            40
    percentile bootstrap     74 / 73 / 70  83 / 81 / 79  90 / 88 / 86  93 / 91 / 90  93 / 93 / 91
    widened, as used here    95 / 92 / 89  94 / 91 / 88  94 / 93 / 91  94 / 93 / 92  94 / 94 / 92

The percentile interval is too narrow for few clusters: its spread divides by C instead of C - 1, and it uses the normal
quantile where Student's t belongs (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", American
Statistician 69). `bootstrap` therefore moves both ends away from the value by the factor `widening(C)`: 1.58 at 5
clusters, 1.10 at 20. Hesterberg takes more extreme percentiles instead; at 5 clusters these lie beyond the farthest
redraw there is (91 % in the normal case). Scaling the distance reaches there and keeps the skewness.

Shares of frames (beta-binomial clusters, 1000 data sets each) are covered in 93 to 95 % where they are 80 %, and in 92
to 99 % where they are 97 %, the latter thanks to the rule for shares without spread (see `bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import atan, comb, cos, inf, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
SHARE = (0.0, 1.0)
"""Bounds of a share. An interval of a mean of zeros and ones is cut here."""
POSITIVE = (0.0, inf)
"""Bounds of an error, a distance or a duration."""
ANY = (-inf, inf)
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
    values: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = ANY,
) -> Estimate:
    """Mean of `values` (n,) of independent units, with a bootstrap interval; `bounds` as in `bootstrap`."""
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones_like(values), seed, resamples, confidence, bounds=bounds)


def bootstrap_ratio(
    sums: np.ndarray,
    counts: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    bounds: tuple[float, float] = ANY,
) -> Estimate:
    """Cluster bootstrap of `transform(sum(sums) / sum(counts))`; its n is `sum(counts)`.

    `sums`, `counts`: (C,), one entry per cluster (a group of frames that are not independent of one another).
    Whole clusters are redrawn, so 18 nearly equal frames of one drive are not sold as 18 measurements.
    `bounds`: as in `bootstrap`.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        ratio = (weights @ sums) / np.maximum(weights @ counts, 1e-12)
        return transform(ratio) if transform is not None else ratio

    counts = np.asarray(counts, dtype=np.float64)
    sums = np.asarray(sums, dtype=np.float64)[counts > 0]
    counts = counts[counts > 0]
    n = int(round(counts.sum()))
    return bootstrap(statistic, len(counts), n, seed, resamples, confidence, bounds)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: int,
    n: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = ANY,
) -> Estimate:
    """Bootstrap of any statistic of cluster weights: percentile interval, widened for few clusters (see the top).

    `statistic`: (R, C) how often each cluster was drawn → (R,) the figure. Weights of one give the point value.
    `bounds`: what the figure can be at all; the interval is cut there. With `SHARE`, where every cluster says exactly
    0 % or 100 % a redraw shows no spread: then the Wilson interval of that many clusters is given, as if each were one
    trial, because 5 drives without a fault do not prove that there is none.
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
    if bounds == SHARE and (high <= _DUST or low >= 1 - _DUST):
        whole = wilson(round(value) * clusters, clusters, confidence)
        return Estimate(value, whole.low, whole.high, n, "wilson over clusters", clusters)
    factor = widening(clusters, confidence)
    low = max(bounds[0], value - factor * max(0.0, value - float(low)))
    high = min(bounds[1], value + factor * max(0.0, float(high) - value))
    return Estimate(value, low, high, n, method, clusters)


_DUST = 1e-9  # a share this near to 0 or 1 is 0 or 1: weights are float32


def widening(clusters: int, confidence: float = CONFIDENCE) -> float:
    """By how much a percentile interval of `clusters` >= 2 means is too narrow: sqrt(C / (C-1)) * t(C-1) / z."""
    upper = 0.5 + confidence / 2
    return sqrt(clusters / (clusters - 1)) * student_t(upper, clusters - 1) / NormalDist().inv_cdf(upper)


@lru_cache(maxsize=256)
def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t for `probability` in [0.5, 1) and `degrees` >= 1; scipy is not needed at run time."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(80):  # bisection down to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def student_t_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz & Stegun 26.7.3 (odd degrees) and 26.7.4 (even)."""
    angle = atan(t / sqrt(degrees))
    square, term, total = cos(angle) ** 2, 1.0, 0.0
    if degrees % 2:
        term = cos(angle)
        for k in range(1, degrees // 2 + 1):
            total += term
            term *= square * 2 * k / (2 * k + 1)
        return 0.5 + (angle + sin(angle) * total) / pi
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= square * (2 * k - 1) / (2 * k)
    return 0.5 + sin(angle) * total / 2


@lru_cache(maxsize=4)
def _redraws(clusters: int, seed: int, resamples: int) -> np.ndarray:
    """(R, C) how often each cluster is drawn in each resample; kept, as one report asks for the same ones often."""
    resamples = max(200, min(resamples, 40_000_000 // clusters))  # at most 160 MB
    shares = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, shares, size=resamples).astype(np.float32)


@dataclass(frozen=True)
class PairedTest:
    """Difference of two arms on the same units: mean, its interval (see `paired`), and a two-sided p-value."""

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


def paired(
    first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = 10_000, measured: bool = False
) -> PairedTest:
    """Compare two arms measured on the same units: `first`, `second` (n,) in the same order.

    Where both arms hold zeros and ones alone they are outcomes, and the interval of their difference is that of
    `matched_pairs`; else it is a bootstrap. `measured`: they are measurements (errors, distances) even so.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired: arms of shape {first.shape} and {second.shape} are not pairs")
    differences = first - second
    p_value = sign_flip(differences, seed, resamples) if len(differences) else None
    if not measured and len(differences) and np.isin([first, second], (0, 1)).all():
        gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
        return PairedTest(matched_pairs(gained, lost, len(differences)), p_value)
    return PairedTest(bootstrap_mean(differences, seed), p_value)


def matched_pairs(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Difference of two shares of the same `n` >= 1 units: `gained` succeed in the first alone, `lost` in the other.

    The interval is Agresti & Min's adjusted one (2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24:729): Wald's after half an observation is added to each of the four cells.
    A bootstrap of pairs that all agree has no width at all. The value is the plain difference; it lies inside.
    Raises ValueError for counts that cannot be.
    """
    if min(gained, lost) < 0 or gained + lost > n or n < 1:
        raise ValueError(f"matched_pairs: {gained} and {lost} of {n} pairs are impossible")
    total = n + 2
    centre = (gained - lost) / total
    half = (
        NormalDist().inv_cdf(0.5 + confidence / 2)
        * sqrt((gained + lost + 1) / total - centre**2)
        / sqrt(total)
    )
    value = (gained - lost) / n
    return Estimate(value, max(-1.0, centre - half), min(1.0, centre + half), n, "matched pairs")


def smallest_p(n: int, tests: int = 1) -> float:
    """Below this no sign-flip test of `n` units can fall, after Holm's correction over `tests` of them.

    All n differences then point the same way, which 2 of the 2^n patterns do; Holm multiplies the smallest by `tests`.
    """
    return min(1.0, tests * 2.0 ** (1 - n))


def sign_flip(differences: np.ndarray, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p-value of the sign-flip (paired permutation) test that the mean of `differences` (n,) is zero.

    Zero differences carry no sign and drop out. Where all others are equally large (yes/no outcomes) the test is
    the exact binomial one; with few pairs all sign patterns are enumerated; otherwise they are sampled.
    A sum counts as being as far from zero as the observed one if they agree to 12 digits, so that the order of adding
    decides nothing.
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    size = np.abs(differences)
    if np.ptp(size) <= 1e-9 * size.max():  # relative: small figures are not equal because they are small
        fewer = min(int((differences > 0).sum()), int((differences < 0).sum()))
        return min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n)
    observed = abs(differences.sum()) - 1e-12 * size.sum()
    if n <= EXACT_SIGN_FLIPS:
        patterns = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(patterns @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for part in np.array_split(np.arange(resamples), max(1, resamples * n // 4_000_000)):
        signs = 1 - 2 * rng.integers(0, 2, size=(len(part), n), dtype=np.int8)
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (hits + 1) / (resamples + 1)  # the observed pattern counts as one draw, so p is never 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values (m,) of one family of tests → adjusted p-values (m,) in the same order.

    Whoever rejects where the adjusted value is below 5 % makes one or more false claims in at most 5 % of families,
    whatever the tests have to do with one another (Holm 1979, "A simple sequentially rejective multiple test
    procedure"). Raises ValueError for a value outside 0 … 1, NaN included.
    """
    given = np.asarray(list(p_values), dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"holm: found p-values {given.tolist()}, expected numbers from 0 to 1")
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(given) else steps
    return [float(p) for p in adjusted]
