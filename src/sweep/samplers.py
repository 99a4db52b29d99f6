"""Owns the samplers that conf/hydra/sweeper/sampler names: who proposes the next point.

In: the keys of a YAML, and what has been asked so far (`Asked`). Out: an Optuna sampler for one proposal. It is built
anew for each, with a seed of its own, so that a proposal is a function of the seed and the study's history: a killed
sweep goes on as if nothing had happened, and two processes with the same seed do not propose the same points.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import random as dice
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from src.core.errors import ProjectError
from src.sweep.space import Space


@dataclass(frozen=True)
class Asked:
    """What a sampler is told.

    Attributes:
        number: how many trials the study has.
        space: what is searched.
        tried: points that need no second look.
        objectives: how many there are.
    """

    number: int
    space: Space
    tried: Sequence[Mapping[str, Any]]
    objectives: int

    def seed(self, seed: int) -> int:
        """Another seed for every proposal, below 2^32."""
        return int.from_bytes(hashlib.sha256(f"{seed}:{self.number}".encode()).digest()[:4], "big")


def tpe(asked: Asked, seed: int, n_startup_trials: int, multivariate: bool) -> BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011). `n_startup_trials`: drawn at random before it learns;
    `multivariate`: model the keys together, not one by one."""
    with _experimental():
        return optuna.samplers.TPESampler(
            seed=asked.seed(seed), n_startup_trials=n_startup_trials, multivariate=multivariate
        )


def gp(asked: Asked, seed: int, n_startup_trials: int) -> BaseSampler:
    """Gaussian process with expected improvement; strong for few, costly trials of few numbers."""
    _require("scipy", "gp")
    with _experimental():
        return optuna.samplers.GPSampler(seed=asked.seed(seed), n_startup_trials=n_startup_trials)


def cmaes(asked: Asked, seed: int, n_startup_trials: int) -> BaseSampler:
    """CMA-ES (Hansen 2016), for many trials of numbers; it knows no choices."""
    _require("cmaes", "cmaes")
    for name, dimension in asked.space.dimensions.items():
        if isinstance(dimension.distribution, CategoricalDistribution):
            raise ProjectError(
                f"hydra/sweeper/sampler=cmaes: found the choice {name}, expected numbers only; use "
                "hydra/sweeper/sampler=tpe, or search it in a sweep of its own."
            )
    _one(asked, "cmaes")
    return optuna.samplers.CmaEsSampler(
        seed=asked.seed(seed), n_startup_trials=n_startup_trials, warn_independent_sampling=False
    )


def qmc(asked: Asked, seed: int, qmc_type: Literal["sobol", "halton"], scramble: bool) -> BaseSampler:
    """A quasi-random sequence, which fills the space more evenly than chance; `seed` is that of the whole sequence."""
    _require("scipy", "qmc")
    with _experimental():
        return optuna.samplers.QMCSampler(
            seed=seed,
            qmc_type=qmc_type,
            scramble=scramble,
            independent_sampler=optuna.samplers.RandomSampler(seed=asked.seed(seed)),
            warn_independent_sampling=False,  # the first point of a sequence is drawn at random, by design
        )


def nsga2(asked: Asked, seed: int, population_size: int) -> BaseSampler:
    """NSGA-II (Deb et al. 2002), evolution for several objectives. `population_size`: trials per generation."""
    with _experimental():
        return optuna.samplers.NSGAIISampler(seed=asked.seed(seed), population_size=population_size)


def random(asked: Asked, seed: int) -> BaseSampler:
    """Independent draws: the opponent that a cleverer sampler has to beat."""
    return optuna.samplers.RandomSampler(seed=asked.seed(seed))


def grid(asked: Asked, seed: int) -> BaseSampler:
    """Every point once, in an order that `seed` shuffles, so that a part of the grid is an even sample of it."""
    return Grid(asked, seed)


class Grid(BaseSampler):
    """The first point of the grid that nobody has tried.

    Optuna's own takes a proposal that was withdrawn for done, and ends the study itself, which works only inside its
    `optimize`.
    """

    def __init__(self, asked: Asked, seed: int) -> None:
        """
        Raises:
            ProjectError: a dimension has infinitely many values.
        """
        axes = []
        for name, dimension in asked.space.dimensions.items():
            values = dimension.values()
            if values is None:
                raise ProjectError(
                    f"hydra/sweeper/sampler=grid: found {name}={dimension.text}, which has infinitely many values, "
                    "expected choice(…) or range(low, high, step); write it so."
                )
            axes.append(values)
        points = [dict(zip(asked.space.dimensions, point, strict=True)) for point in itertools.product(*axes)]
        dice.Random(seed).shuffle(points)
        tried = [dict(point) for point in asked.tried]
        self._point = next((point for point in points if point not in tried), points[0])

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._point[param_name]

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        return


@contextmanager
def _experimental() -> Iterator[None]:
    """Optuna warns that it may change these; the version is pinned in pyproject.toml."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _require(package: str, sampler: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ProjectError(
            f"hydra/sweeper/sampler={sampler}: needs the package {package}, which is not installed; run "
            "pip install -c constraints.txt -e '.[search]', or use hydra/sweeper/sampler=tpe."
        )


def _one(asked: Asked, sampler: str) -> None:
    if asked.objectives > 1:
        raise ProjectError(
            f"hydra/sweeper/sampler={sampler}: found {asked.objectives} objectives, expected one; use "
            "hydra/sweeper/sampler=nsga2 or tpe for several."
        )
