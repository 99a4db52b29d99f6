"""Owns the uncertainty of a comparison: how sure a mean over seeds is, and whether two arms differ.

In: one value per seed of each arm, and what each run knows of its own episodes. Out: intervals, p-values, verdicts.

**Interval.** Student's t over the k seeds, mean ± t(k-1) · s / √k: seeds are the independent repetitions of a
training.
**Floor.** A share counted in few episodes can come out the same for every seed, e.g. 100 % three times; s is then 0,
and the interval would claim certainty. So s is never taken below the binomial spread of one run's own episodes,

    f = sqrt(mean over seeds of  q (1 - q) / (n + 4)),    q = (n · mean + 2) / (n + 4),

the "plus four" spread of Agresti & Coull (1998, "Approximate is better than 'exact' for interval estimation of binomial
proportions", The American Statistician 52:119), which is not 0 at 0 % and 100 %. It holds for every share of yes/no
trials and not only where s is 0, so that a spread of 0.001 does not give a narrower interval than none at all.
**Test.** Paired t over the seeds that both arms have, with the spread of the differences not below sqrt(f_a² + f_b²)
(trials of two arms taken as independent; that they share their tasks makes this rather too wide), then Holm's
correction over the arms of one column. Where neither spread nor floor is there (an error that is the same to the last
digit in every seed: the seed did nothing) there is no interval and no test, instead of a certain one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from src.evaluation.statistics import CONFIDENCE, student_t, student_t_cdf

ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True)
class Sample:
    """One figure of one arm: a value per seed, in the record's unit."""

    values: Mapping[int, float]
    """Seed → value."""
    trials: Mapping[int, int]
    """Seed → yes/no trials behind the value; empty where the figure is no share of such trials."""
    blind: bool = False
    """A share of trials of which some run does not say how many: no floor, so no interval and no test either."""


def mean(sample: Sample) -> float:
    """Mean over seeds; the sum runs in the order of the seeds, so that the order of folders decides no digit."""
    return sum(sample.values[seed] for seed in sorted(sample.values)) / len(sample.values)


def floor(sample: Sample) -> float:
    """f of the text above, the least spread between seeds that is believed; 0: the figure is no share of trials."""
    if not sample.trials or set(sample.trials) != set(sample.values):
        return 0.0
    share = mean(sample)
    spreads = []
    for _, n in sorted(sample.trials.items()):
        q = (n * share + 2) / (n + 4)
        spreads.append(q * (1 - q) / (n + 4))
    return sqrt(sum(spreads) / len(spreads))


def interval(sample: Sample, bounds: tuple[float, float]) -> tuple[float, float] | None:
    """95 % interval of the mean over two or more seeds, cut at `bounds`; None where nothing is known of the spread."""
    k = len(sample.values)
    if k < 2 or sample.blind:
        return None
    centre = mean(sample)
    s = max(_deviation([sample.values[seed] for seed in sorted(sample.values)]), floor(sample))
    if s == 0:
        return None
    half = student_t(0.5 + CONFIDENCE / 2, k - 1) * s / sqrt(k)
    return max(bounds[0], centre - half), min(bounds[1], centre + half)


@dataclass(frozen=True)
class Test:
    """First arm against second, over their common seeds."""

    difference: float
    p: float | None
    """Two-sided, not corrected; None where there are fewer than two common seeds or no spread to judge by."""
    seeds: int
    """Common seeds."""


def compare(first: Sample, second: Sample) -> Test | None:
    """Paired t test of two arms, with the floor; None without a common seed."""
    common = sorted(seed for seed in set(first.values) & set(second.values) if seed >= 0)
    if not common:
        return None
    a, b = _only(first, common), _only(second, common)
    differences = [a.values[seed] - b.values[seed] for seed in common]
    k, centre = len(common), sum(differences) / len(common)
    s = max(_deviation(differences), sqrt(floor(a) ** 2 + floor(b) ** 2))
    if k < 2 or s == 0 or first.blind or second.blind:
        return Test(centre, None, k)
    return Test(centre, 2 * (1 - student_t_cdf(abs(centre) / (s / sqrt(k)), k - 1)), k)


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; what is equal to 12 digits is equal, so that rounding is no spread."""
    k = len(values)
    if k < 2:
        return 0.0
    centre = sum(values) / k
    s = sqrt(sum((value - centre) ** 2 for value in values) / (k - 1))
    return s if s > 1e-12 * max(1e-300, *(abs(value) for value in values)) else 0.0


def _only(sample: Sample, seeds: Sequence[int]) -> Sample:
    trials = {seed: sample.trials[seed] for seed in seeds} if set(seeds) <= sample.trials.keys() else {}
    return Sample({seed: sample.values[seed] for seed in seeds}, trials, sample.blind)
