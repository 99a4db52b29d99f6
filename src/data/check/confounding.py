"""Owns the question whether instruction, scene and path can be told apart: is the sentence already in the picture?

In: `Facts` with sampled first frames. Out: how well a small classifier reads the instruction, and single words of it,
off the first frame, against the same classifier on shuffled labels.

Method: kernel ridge regression (Gaussian kernel, width = median distance) on first frames of 16x16 px, one column per
label, the largest wins. Each group of near-duplicates is predicted by the others, in closed form: with the hat matrix
H = K (K + lambda)^-1, the prediction without group g is (I - H_gg)^-1 ((H y)_g - H_gg y_g). See Hastie, Tibshirani and
Friedman, The Elements of Statistical Learning, 7.10, for the single-point case. Chance: labels shuffled between groups
of equal size; p = (1 + shuffles that score as high) / (1 + shuffles), Phipson and Smyth 2010.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from src.data.check.actions import FEW
from src.data.check.finding import NOTE, WARNING, Facts, Finding, by_value, percent
from src.data.check.instructions import meanings
from src.data.check.motions import motions
from src.data.check.trajectory import integrate, path_word

SHUFFLES = 199
LEAST = 20
"""Fewer episodes than this give no interval worth printing."""
MOST = 1500
"""More episodes are thinned out evenly: the classifier's cost grows with the cube."""
P_VALUE = 0.01
SKILL = 0.6
"""Share of the way from chance to certainty above which the sentence adds little to the picture."""
WORDS = 40
"""So many words are judged one by one, those closest to standing in half of the episodes."""
_RIDGE = 0.1
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Reading:
    """How well something is read off the first frame.

    Attributes:
        what: "instruction", or the word.
        accuracy: share of episodes predicted from other groups.
        chance: mean accuracy on shuffled labels; upper: their 95th percentile.
        p: probability of such an accuracy by chance.
    """

    what: str
    accuracy: float
    chance: float
    upper: float
    p: float

    @property
    def skill(self) -> float:
        """0 at chance, 1 where every episode is right."""
        return (self.accuracy - self.chance) / max(1e-9, 1 - self.chance)


@dataclass(frozen=True)
class Confounding:
    """The reading of the whole instruction and of its words, best first, on `episodes` of `labels` instructions."""

    episodes: int
    labels: int
    instruction: Reading
    words: tuple[Reading, ...]


@lru_cache(maxsize=2)
def measure(facts: Facts) -> Confounding | None:
    """Read instruction and words off the first frames; None with fewer than 20 episodes or two instructions."""
    labels = np.array(meanings(facts))
    chosen = [i for i, episode in enumerate(facts.episodes) if episode.path in facts.samples]
    if len(chosen) > MOST:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, MOST).round().astype(int)]
    if len(chosen) < LEAST or len(set(labels[chosen].tolist())) < 2:
        return None
    groups = [facts.episodes[i].group for i in chosen]
    if len(set(groups)) < LEAST // 2:
        return None
    frames = np.stack([facts.samples[facts.episodes[i].path].tiny[0] for i in chosen])
    reader = leave_group_out(frames.reshape(len(chosen), -1), groups)
    orders = shuffles(groups, SHUFFLES)
    _, numbers = np.unique(labels[chosen], return_inverse=True)
    words = _word_table([facts.episodes[i].instructions for i in chosen])
    return Confounding(
        episodes=len(chosen),
        labels=int(numbers.max()) + 1,
        instruction=read(reader, numbers, orders, "instruction"),
        words=tuple(
            sorted((read(reader, y, orders, word) for word, y in words.items()), key=lambda r: -r.skill)
        ),
    )


def leave_group_out(features: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """(n, n) matrix L: L @ y predicts each row from rows of other groups only. features: (n, d)."""
    x = features.astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1.0)  # below one grey level it is noise
    square = (x**2).sum(axis=1)
    distance = np.maximum(square[:, None] + square[None] - 2 * x @ x.T, 0.0)
    kernel = np.exp(-distance / max(1e-9, float(np.median(distance))))
    hat = np.linalg.solve(kernel + _RIDGE * np.eye(len(x)), kernel).T
    out = np.empty_like(hat)
    for members in by_value(groups).values():
        own = np.ix_(members, members)
        rows = hat[members].copy()
        rows[:, members] = 0.0
        out[members] = np.linalg.solve(np.eye(len(members)) - hat[own], rows)
    return out


def shuffles(groups: Sequence[str], count: int) -> list[np.ndarray]:
    """`count` orders of the rows that exchange whole groups of equal size; reproducible."""
    rng = np.random.default_rng(0)
    by_size: dict[int, list[list[int]]] = {}
    for members in by_value(groups).values():
        by_size.setdefault(len(members), []).append(members)
    orders = []
    for _ in range(count):
        order = np.empty(len(groups), np.int64)
        for sets in by_size.values():
            for members, other in zip(sets, rng.permutation(len(sets)), strict=True):
                order[members] = sets[int(other)]
        orders.append(order)
    return orders


def read(reader: np.ndarray, labels: np.ndarray, orders: Sequence[np.ndarray], what: str) -> Reading:
    """The accuracy of `reader` on `labels` (n,) 0 … k-1, and on their shuffles."""
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    one_hot = one_hot - one_hot.mean(axis=0)
    prior = np.bincount(labels) / len(labels)

    def accuracies(some: np.ndarray) -> np.ndarray:
        """One figure per order (m, n), in one matrix product."""
        columns = one_hot[some].transpose(1, 0, 2)  # (n, m, k)
        guesses = (reader @ columns.reshape(len(labels), -1)).reshape(columns.shape) + prior
        return np.asarray((guesses.argmax(axis=2) == labels[some].T).mean(axis=0))

    found = float(accuracies(np.arange(len(labels))[None])[0])
    at_once = max(1, 4_000_000 // one_hot.size)
    parts = [np.stack(orders[i : i + at_once]) for i in range(0, len(orders), at_once)]
    scores = np.concatenate([accuracies(part) for part in parts])
    p = (1 + int((scores >= found).sum())) / (1 + len(scores))
    return Reading(what, found, float(scores.mean()), float(np.quantile(scores, 0.95)), p)


def _word_table(texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Word -> (n,) 0/1, for words that stand in 5 to 95 % of the episodes; of words always together, the first."""
    held = [{word for text in one for word in _WORD.findall(text.lower())} for one in texts]
    table: dict[str, np.ndarray] = {}
    seen: set[bytes] = set()
    for word in sorted(set().union(*held)):
        present = np.array([word in words for words in held], np.int64)
        same_split = min(present.tobytes(), (1 - present).tobytes())
        if 0.05 <= present.mean() <= 0.95 and same_split not in seen:
            seen.add(same_split)
            table[word] = present
    balanced = sorted(table, key=lambda word: abs(float(table[word].mean()) - 0.5))
    return {word: table[word] for word in balanced[:WORDS]}


def instruction_in_picture(facts: Facts) -> Iterator[Finding]:
    """Must a policy read the instruction, or does the first frame already tell it?"""
    found = measure(facts)
    if found is None:
        return
    clear = [r for r in found.words if r.p <= P_VALUE and r.skill >= SKILL]
    whole = found.instruction
    if (whole.p <= P_VALUE and whole.skill >= SKILL) or any(motions(r.what) for r in clear):
        shown = ", ".join(f"{r.what!r} {percent(r.accuracy)} (chance {percent(r.chance)})" for r in clear[:4])
        words = f"; single words: {shown}" if clear else ""
        yield Finding(
            "instruction_in_picture", WARNING,
            f"a small classifier guesses the instruction from the first frame in {percent(whole.accuracy)} of "
            f"{found.episodes} episodes (by chance {percent(whole.chance)}, 95 of 100 shuffles below "
            f"{percent(whole.upper)}){words}",
            "record the same scene under other instructions; until then swapped words are the only test of listening",
        )  # fmt: skip
    elif clear:
        words = ", ".join(f"{r.what!r} {percent(r.accuracy)} (chance {percent(r.chance)})" for r in clear[:4])
        yield Finding(
            "words_in_picture", NOTE,
            f"some words can be guessed from the first frame: {words}",
            "fine for an object that is in view; a side or a path should not be guessable before the drive begins",
        )  # fmt: skip


def path_accuracy(facts: Facts) -> tuple[float, float] | None:
    """How often left, right or straight is guessed for an episode: (from the scenario, without it).

    From the scenario the guess is the commonest path of its other episodes (leave one out); without it, the
    commonest path of all.
    """
    if len(facts.episodes) < FEW:
        return None
    words = [path_of(facts, i) for i in range(len(facts.episodes))]
    kinds = {word: n for n, word in enumerate(sorted(set(words)))}
    labels = np.array([kinds[word] for word in words])

    def guess(conditions: Sequence[str]) -> float:
        right = 0
        for members in by_value(conditions).values():
            counts = np.bincount(labels[members], minlength=len(kinds))
            for label in labels[members]:
                right += int((counts - np.eye(len(kinds))[label]).argmax() == label and len(members) > 1)
        return right / len(labels)

    return guess([e.scenario for e in facts.episodes]), float(np.bincount(labels).max() / len(labels))


def path_of(facts: Facts, index: int) -> str:
    """ "left", "right" or "straight" for an episode, from its integrated commands."""
    episode = facts.episodes[index]
    return path_word(integrate(episode.actions, episode.action_names, episode.control_period))


def path_from_scenario(facts: Facts) -> Iterator[Finding]:
    """Is one scenario driven on more than one path?"""
    found = path_accuracy(facts)
    if found is None or len({e.scenario for e in facts.episodes}) < 2:
        return
    informed, plain = found
    if informed >= 0.9 and informed > plain + 0.1:
        yield Finding(
            "path_from_scenario", NOTE,
            f"the scenario alone tells the path (left, right, straight) in {percent(informed)} of the episodes "
            f"({percent(plain)} without it): no scenario is driven both ways",
            "harmless while the first frame does not tell the scenario; better, drive each scene both ways",
        )  # fmt: skip
