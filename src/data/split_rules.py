"""Owns the ways to split a data set: by fractions, into k folds, or with one scenario left out.

In: (episode, group, scenario) rows and a seed. Out: the part of every episode, and which part is train, val or test.
All of it is a pure function of the rows, whatever their order; files and their check belong to manifest.py.
"""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError

SPLITS = ("train", "val", "test")
Row = tuple[str, str, str]
"""Episode id, group, scenario."""


class SplitMethod(ABC):
    """A way to split. Subclasses are frozen dataclasses whose fields are the keys of conf/data/split/*.yaml.

    Attributes:
        seed: another seed gives another split; 0 or more.
        path: the manifest file; None puts it into the data folder under `stem`.
        near_duplicates: also keep episodes together that groups.py finds to be the same drive twice.
    """

    seed: int
    path: str | None
    near_duplicates: bool

    @property
    @abstractmethod
    def stem(self) -> str:
        """The manifest's file name without suffix; different for every choice that gives another manifest."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Everything that decides who is in which part, as plain JSON values."""

    @abstractmethod
    def parts(self, rows: Sequence[Row]) -> dict[str, str]:
        """Episode id -> part. Every episode has one, and a group is never cut. Raises a ProjectError if impossible."""

    @abstractmethod
    def role(self, part: str) -> str:
        """The split, one of SPLITS, that the part is in this run."""

    @abstractmethod
    def part_names(self) -> tuple[str, ...]:
        """All parts that there can be."""

    @abstractmethod
    def expected(self, scenario: str) -> tuple[str, ...]:
        """The splits that should hold this scenario."""

    @abstractmethod
    def groups_needed(self, scenario: str) -> int:
        """How many groups of its own a scenario needs, so that `parts` puts it into each of `expected(scenario)`."""

    def file(self, root: Path) -> Path:
        """Where the manifest of the data folder `root` is stored."""
        if self.path is not None:
            return Path(self.path)
        return root / f"{self.stem}{'' if self.near_duplicates else '-groups_of_the_files'}.json"

    def _check_seed(self) -> None:
        if self.seed < 0:
            raise ProjectError(f"data.split.seed is {self.seed}; expected 0 or more.")


@dataclass(frozen=True)
class SplitRule(SplitMethod):
    """By fractions.

    Args:
        train, val, test: fractions of the episodes, adding up to 1. test may be 0 where the test data live elsewhere.
        seed, path, near_duplicates: see SplitMethod.
    """

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    path: str | None = None
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        self._check_seed()
        values = ", ".join(f"{name} {getattr(self, name):g}" for name in SPLITS)
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise ProjectError(f"data.split has {values}; expected fractions from 0 to 1 that add up to 1.")
        if self.train <= 0:
            raise ProjectError(f"data.split has {values}; train must be above 0.")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """(train, val, test)."""
        return (self.train, self.val, self.test)

    @property
    def stem(self) -> str:
        """Seed and percentages."""
        return f"split-seed{self.seed}-" + "-".join(f"{100 * fraction:g}" for fraction in self.fractions)

    @property
    def facts(self) -> dict[str, Any]:
        """Seed and fractions."""
        shares = {name: float(share) for name, share in zip(SPLITS, self.fractions, strict=True)}
        return {"by": "fractions", "seed": self.seed, **shares}

    def parts(self, rows: Sequence[Row]) -> dict[str, str]:
        """The parts are the splits."""
        return deal(rows, SPLITS, self.fractions, self.seed)

    def role(self, part: str) -> str:
        """The part itself."""
        return part

    def part_names(self) -> tuple[str, ...]:
        """train, val, test."""
        return SPLITS

    def expected(self, scenario: str) -> tuple[str, ...]:
        """Every split with a fraction above 0."""
        return tuple(name for name, share in zip(SPLITS, self.fractions, strict=True) if share > 0)

    def groups_needed(self, scenario: str) -> int:
        """As many as give every split half a group or more."""
        return enough(self.fractions)


@dataclass(frozen=True)
class KFold(SplitMethod):
    """k parts of equal size. Part `fold` is the test, the next one val, the others are for training.

    Args:
        folds: k, 3 or more.
        fold: which part is the test, 0 … folds-1. All folds share one manifest.
        seed, path, near_duplicates: see SplitMethod.
    """

    folds: int = 5
    fold: int = 0
    seed: int = 0
    path: str | None = None
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        self._check_seed()
        if self.folds < 3:
            raise ProjectError(
                f"data.split.folds is {self.folds}; expected 3 or more: one part is the test, one val, the rest train."
            )
        if not 0 <= self.fold < self.folds:
            raise ProjectError(f"data.split.fold is {self.fold}; expected 0 to {self.folds - 1} (folds - 1).")

    @property
    def stem(self) -> str:
        """Seed and number of folds."""
        return f"split-seed{self.seed}-{self.folds}fold"

    @property
    def facts(self) -> dict[str, Any]:
        """Seed and number of folds; which of them is the test decides nothing about the parts."""
        return {"by": "folds", "seed": self.seed, "folds": self.folds}

    def parts(self, rows: Sequence[Row]) -> dict[str, str]:
        """fold0, fold1, …"""
        found = deal(rows, self.part_names(), (1 / self.folds,) * self.folds, self.seed)
        empty = sorted(set(self.part_names()) - set(found.values()))
        if empty:
            raise ProjectError(
                f"data.split.folds is {self.folds}, but {len(rows)} episodes in {len({row[1] for row in rows})} groups "
                f"leave {', '.join(empty)} empty (a group is never cut); choose fewer folds or record more."
            )
        return found

    def role(self, part: str) -> str:
        """test for part `fold`, val for the one after it, otherwise train."""
        behind = (int(part.removeprefix("fold")) - self.fold) % self.folds
        return {0: "test", 1: "val"}.get(behind, "train")

    def part_names(self) -> tuple[str, ...]:
        """fold0, fold1, …"""
        return tuple(f"fold{k}" for k in range(self.folds))

    def expected(self, scenario: str) -> tuple[str, ...]:
        """All splits."""
        return SPLITS

    def groups_needed(self, scenario: str) -> int:
        """One for every fold."""
        return self.folds


@dataclass(frozen=True)
class LeaveOneScenarioOut(SplitMethod):
    """All episodes of one scenario are the test; the others are divided into train and val.

    Args:
        scenario: the label that is left out.
        val: fraction of the other episodes, from 0 to below 1.
        seed, path, near_duplicates: see SplitMethod.
    """

    scenario: str
    val: float = 0.1
    seed: int = 0
    path: str | None = None
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        self._check_seed()
        if not 0 <= self.val < 1:
            raise ProjectError(f"data.split.val is {self.val:g}; expected a fraction from 0 to below 1.")

    @property
    def stem(self) -> str:
        """Seed, percentage of val, and the scenario with a few letters that tell odd names apart."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", self.scenario)[:60]
        mark = "" if plain == self.scenario else "-" + shuffle_key(0, self.scenario)[:6]
        return f"split-seed{self.seed}-val{100 * self.val:g}-without-{plain}{mark}"

    @property
    def facts(self) -> dict[str, Any]:
        """Seed, scenario and val."""
        return {"by": "scenario", "seed": self.seed, "scenario": self.scenario, "val": float(self.val)}

    def parts(self, rows: Sequence[Row]) -> dict[str, str]:
        """The parts are the splits. A group that is only half in the scenario makes it impossible."""
        scenarios: dict[str, set[str]] = {}
        for _, group, scenario in rows:
            scenarios.setdefault(group, set()).add(scenario)
        known = sorted(set().union(*scenarios.values()))
        if self.scenario not in known:
            raise ProjectError(
                f"data.split.scenario is {self.scenario!r}; the data have {', '.join(known)}. Choose one of these."
            )
        mixed = sorted(
            group for group, found in scenarios.items() if self.scenario in found and len(found) > 1
        )
        if mixed:
            raise ProjectError(
                f"data.split.scenario={self.scenario} cannot be left out: group {mixed[0]!r} (of {len(mixed)} such) "
                f"holds episodes of {', '.join(sorted(scenarios[mixed[0]]))} and is never cut; use data without twins "
                "over scenarios, or another data.lab.group_by."
            )
        others = [row for row in rows if row[2] != self.scenario]
        if not others:
            raise ProjectError(
                f"data.split.scenario={self.scenario} is the only scenario of the data, nothing is left to train on; "
                "choose data/split=train_val_test."
            )
        found = deal(others, ("train", "val"), (1 - self.val, self.val), self.seed)
        return {**found, **{row[0]: "test" for row in rows if row[2] == self.scenario}}

    def role(self, part: str) -> str:
        """The part itself."""
        return part

    def part_names(self) -> tuple[str, ...]:
        """train, val, test."""
        return SPLITS

    def expected(self, scenario: str) -> tuple[str, ...]:
        """test for the scenario that is left out, train and val for the others."""
        if scenario == self.scenario:
            return ("test",)
        return ("train", "val") if self.val > 0 else ("train",)

    def groups_needed(self, scenario: str) -> int:
        """One for the scenario that is left out; for others as many as give val half a group or more."""
        return 1 if scenario == self.scenario else enough((1 - self.val, self.val))


def deal(rows: Sequence[Row], names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, str]:
    """Episode id -> name, in proportion to `fractions` (same length as `names`, adding up to 1).

    Groups of one stratum (the set of scenarios a group holds) are ordered by a hash, large ones first, and handed out
    one by one to the name that is furthest below its share; what rounding leaves over goes to the next stratum, so
    the totals come out right. A stratum of `enough(fractions)` groups reaches every name whose fraction is above 0:
    its last groups, the smallest ones, are kept for the names that have none yet.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for episode, group, scenario in rows:
        groups.setdefault(group, []).append((episode, scenario))
    strata: dict[tuple[str, ...], list[str]] = {}
    for group, members in groups.items():
        strata.setdefault(tuple(sorted({scenario for _, scenario in members})), []).append(group)
    shares = np.array(fractions, dtype=np.float64)
    left_over = np.zeros(len(names))
    result: dict[str, str] = {}
    for stratum in sorted(strata):
        order = sorted(strata[stratum], key=lambda group: (-len(groups[group]), shuffle_key(seed, group)))
        wanted = shares * sum(len(groups[group]) for group in order) + left_over
        without = shares > 0 if len(order) >= enough(fractions) else np.zeros(len(names), dtype=bool)
        for place, group in enumerate(order):
            # A name that is to stay empty never takes part, even where all others are full.
            allowed = without if without.sum() >= len(order) - place else shares > 0
            chosen = int(np.argmax(np.where(allowed, np.round(wanted, 9), -np.inf)))
            wanted[chosen] -= len(groups[group])
            without[chosen] = False
            for episode, _ in groups[group]:
                result[episode] = names[chosen]
        left_over = wanted
    return result


def enough(fractions: Sequence[float]) -> int:
    """From how many groups on a stratum reaches every name: where the smallest share rounds to one group or more."""
    used = [share for share in fractions if share > 0]
    return max(len(used), math.ceil(round(0.5 / min(used), 6)))


def shuffle_key(seed: int, name: str) -> str:
    """A sort key that shuffles names reproducibly, independent of which others are present."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
