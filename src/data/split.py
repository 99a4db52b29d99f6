"""Owns which episode is for training, validation or test: decided once, written down, and checked ever after.

In: episodes with scenario and group, and a `SplitRule`. Out: a `Split`, stored as JSON beside the data. The split is
stratified by scenario and never cuts a group. A data folder that changed since is an error, not a new split.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.data.episode import EpisodeFile

FORMAT = "mobile-vla-split/1"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitRule:
    """How a split is made.

    Args:
        train, val, test: fractions of the episodes, adding up to 1. test may be 0 where the test data live elsewhere.
        seed: another seed gives another split.
        path: the JSON file; None puts it into the data folder under a name made of seed and fractions.
    """

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        values = ", ".join(f"{name} {getattr(self, name):g}" for name in SPLITS)
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ProjectError(f"data.split has {values}; expected fractions from 0 to 1 that add up to 1.")
        if self.train <= 0:
            raise ProjectError(f"data.split has {values}; train must be above 0.")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """(train, val, test)."""
        return (self.train, self.val, self.test)

    def file(self, root: Path) -> Path:
        """Where the split of the data folder `root` is stored."""
        if self.path is not None:
            return Path(self.path)
        shares = "-".join(f"{100 * fraction:g}" for fraction in self.fractions)
        return root / f"split-seed{self.seed}-{shares}.json"


@dataclass(frozen=True)
class Split:
    """A fixed split.

    Attributes:
        members: split name -> episode ids, sorted.
        data_hash: fingerprint of the episodes; split_hash: fingerprint of who is in which split.
    """

    members: dict[str, tuple[str, ...]]
    data_hash: str
    split_hash: str


def load_or_make_split(episodes: Sequence[EpisodeFile], rule: SplitRule, root: Path) -> Split:
    """The stored split of these episodes, or a new one, stored now. Raises a ProjectError if the data changed."""
    path = rule.file(root)
    digests = {episode.id: episode_digest(episode) for episode in episodes}
    if path.exists():
        assignment = _stored(path, rule, digests)
    else:
        assignment = assign([(e.id, e.group, e.scenario) for e in episodes], rule)
        rows = [
            {
                "id": e.id,
                "split": assignment[e.id],
                "group": e.group,
                "scenario": e.scenario,
                "digest": digests[e.id],
            }
            for e in episodes
        ]
        try:
            atomic_write_json(
                path,
                {
                    "format": FORMAT,
                    "seed": rule.seed,
                    "fractions": dict(zip(SPLITS, rule.fractions, strict=True)),
                    "data_hash": _hash(digests),
                    "split_hash": _hash(assignment),
                    "episodes": rows,
                },
            )
        except ProjectError as error:
            raise ProjectError(
                f"{error} The split goes there; data.split.path chooses another file."
            ) from error
    members = {name: tuple(sorted(i for i, s in assignment.items() if s == name)) for name in SPLITS}
    for name, fraction in zip(SPLITS, rule.fractions, strict=True):
        if fraction > 0 and not members[name]:
            groups = len({episode.group for episode in episodes})
            raise ProjectError(
                f"{path}: the {name} split of {len(episodes)} episodes in {groups} groups came out empty at "
                f"data.split.{name}={fraction:g}; record more episodes or raise the fraction and delete this file."
            )
    return Split(members, _hash(digests), _hash(assignment))


def assign(episodes: Sequence[tuple[str, str, str]], rule: SplitRule) -> dict[str, str]:
    """Episode id -> split name, for (id, group, scenario) triples, in whatever order they come.

    Groups of one stratum (the scenarios a group holds) are ordered by a hash and handed out one by one to the split
    that is furthest below its share. What rounding leaves over goes to the next stratum, so the totals come out right.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for episode, group, scenario in episodes:
        groups.setdefault(group, []).append((episode, scenario))
    strata: dict[tuple[str, ...], list[str]] = {}
    for group, members in groups.items():
        strata.setdefault(tuple(sorted({scenario for _, scenario in members})), []).append(group)
    fractions = np.array(rule.fractions)
    left_over = np.zeros(len(SPLITS))
    result: dict[str, str] = {}
    for stratum in sorted(strata):
        names = sorted(strata[stratum], key=lambda group: shuffle_key(rule.seed, group))
        names.sort(key=lambda group: -len(groups[group]))  # large groups first, while there is room; stable
        wanted = fractions * sum(len(groups[group]) for group in names) + left_over
        for group in names:
            # A split that is to stay empty never takes part, even where all others are full.
            chosen = int(np.argmax(np.where(fractions > 0, np.round(wanted, 9), -np.inf)))
            wanted[chosen] -= len(groups[group])
            for episode, _ in groups[group]:
                result[episode] = SPLITS[chosen]
        left_over = wanted
    return result


def take_episodes(episodes: Sequence[EpisodeFile], count: int | None, seed: int) -> list[EpisodeFile]:
    """The first `count` episodes in a fixed random order of groups, so that smaller sets are parts of larger ones.

    Whole groups only: if the last group does not fit, the result is short of `count` by less than that group.
    """
    if count is None:
        return list(episodes)
    if not 1 <= count <= len(episodes):
        raise ProjectError(
            f"data.train_episodes is {count}, but the training split has 1 to {len(episodes)} episodes."
        )
    sizes = Counter(episode.group for episode in episodes)
    order = sorted(sizes, key=lambda group: shuffle_key(seed, group))
    chosen: set[str] = set()
    taken = 0
    for group in order:
        if taken + sizes[group] > count:
            break  # no smaller group jumps the queue: that would break the nesting
        chosen.add(group)
        taken += sizes[group]
    if not chosen:
        raise ProjectError(
            f"data.train_episodes is {count}, smaller than the first group of {sizes[order[0]]} near-duplicate "
            "episodes, which is never cut; ask for more."
        )
    return [episode for episode in episodes if episode.group in chosen]


def episode_digest(episode: EpisodeFile) -> str:
    """A fingerprint of what is recorded in an episode; the options that only interpret it do not change it."""
    meta = episode.meta
    facts = (meta.id, meta.group, meta.scenario, meta.length, meta.frame_shape, meta.content)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def shuffle_key(seed: int, name: str) -> str:
    """A sort key that shuffles names reproducibly, independent of which others are present."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _stored(path: Path, rule: SplitRule, digests: dict[str, str]) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
        rows: list[dict[str, Any]] = content["episodes"]
        assignment = {row["id"]: row["split"] for row in rows}
        old = {row["id"]: row["digest"] for row in rows}
        made_with = (content["seed"], tuple(float(content["fractions"][name]) for name in SPLITS))
        if not set(assignment.values()) <= set(SPLITS):
            raise ValueError(f"unknown split names {sorted(set(assignment.values()) - set(SPLITS))}")
        if _hash(assignment) != content["split_hash"]:
            raise ValueError("its episodes do not fit its split_hash")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            f"{path} is no readable split file ({error}); restore it, or delete it to split anew."
        ) from error
    if made_with != (rule.seed, rule.fractions):
        raise ProjectError(
            f"{path} was made with seed {made_with[0]} and fractions {made_with[1]}, data.split asks for seed "
            f"{rule.seed} and {rule.fractions}; set them alike, or give another data.split.path."
        )
    if old != digests:
        changed = [i for i in digests if i in old and old[i] != digests[i]]
        parts = (
            ("added", sorted(digests.keys() - old.keys())),
            ("removed", sorted(old.keys() - digests.keys())),
            ("changed", sorted(changed)),
        )
        found = "; ".join(f"{len(ids)} {word} ({_few(ids)})" for word, ids in parts if ids)
        raise ProjectError(
            f"{path} does not fit the data folder any more: {found}; restore the episodes, or delete the file to "
            "split anew (results before and after are then not comparable)."
        )
    return assignment


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")


def _hash(table: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(table.items())).encode()).hexdigest()[:16]
