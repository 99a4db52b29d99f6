"""Owns findings about actions: limits, axes, repetition, what a clock scores, balance, standing still, the stop.

In: `Facts` (actions in SI units, classes of the action space). Out: findings and the figures behind them. No frame is
decoded; everything works on one long array of all steps, so that 800 episodes take milliseconds.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Finding, by_value, few, percent, some

TOLERANCE = 1e-3
"""Share of the range by which a float32 action may pass its limit."""
CLOCK_SHARE = 0.8
"""A clock above this leaves so little to learn that a good score of a policy says nothing."""
SAME_SHARE = 0.5
FEW = 5
"""Shares of fewer episodes than this are not judged."""
IDLE_SHARE = 0.2
MAJORITY_SHARE = 0.8


def out_of_range(facts: Facts) -> Iterator[Finding]:
    """Are all actions within the limits of data.action?"""
    low, high = np.array(facts.space.low), np.array(facts.space.high)
    slack = TOLERANCE * (high - low)
    outside = (facts.actions < low - slack) | (facts.actions > high + slack)
    if not outside.any():
        return
    axis = int(np.argmax(outside.sum(axis=0)))
    values = facts.actions[outside[:, axis], axis]
    worst = values[np.argmax(np.abs(values))]
    yield Finding(
        "out_of_range", ERROR,
        f"{int(outside.any(axis=1).sum())} of {len(outside)} actions are outside the limits, mostly "
        f"{facts.space.names[axis]}: up to {worst:.4g} {facts.space.units[axis]}, data.action allows {low[axis]:g} to "
        f"{high[axis]:g}",
        "set data.action.low and high to the limits of this robot, or correct the units; a policy is clipped to them",
        facts.paths(np.unique(facts.owners[outside.any(axis=1)])), spoils=True,
    )  # fmt: skip


def dead_axes(facts: Facts) -> Iterator[Finding]:
    """Does every axis of the action vary?"""
    if len(facts.actions) < 2:
        return
    for axis, name in enumerate(facts.space.names):
        values = facts.actions[:, axis]
        if np.ptp(values) <= TOLERANCE * facts.space.scale[axis]:
            kind = "dead_axis" if abs(values[0]) <= TOLERANCE * facts.space.scale[axis] else "constant_axis"
            yield Finding(
                kind, WARNING,
                f"{name} is {values[0]:.4g} {facts.space.units[axis]} in all {len(values)} steps",
                "if the robot cannot move this way, choose a data/action without the axis; else it was not recorded",
            )  # fmt: skip


def constant_episodes(facts: Facts) -> Iterator[Finding]:
    """Does the action change within each episode?"""
    bad = [i for i, a in enumerate(facts.rows(facts.actions)) if len(a) > 2 and not np.ptp(a, axis=0).any()]
    yield from some(
        facts, bad, "constant_actions", WARNING if len(bad) > SAME_SHARE * len(facts.episodes) else NOTE,
        "repeat one single action all along", "look at them: a straight drive is fine, a stuck recorder is not",
    )  # fmt: skip


def identical_sequences(facts: Facts) -> Iterator[Finding]:
    """Do the drives of a scenario differ from each other?"""
    keys = [np.round(a, 3).tobytes() for a in facts.rows(facts.actions)]
    repeated: dict[str, tuple[list[int], int]] = {}
    large = 0
    for scenario, members in by_value([e.scenario for e in facts.episodes]).items():
        if len(members) < FEW:
            continue
        large += 1
        same = max(by_value([keys[i] for i in members]).values(), key=len)
        if len(same) > SAME_SHARE * len(members):
            repeated[scenario] = ([members[i] for i in same], len(members))
    if not repeated:
        return
    shares = [
        f"{len(same)} of {total} episodes of {scenario!r} ({percent(len(same) / total)})"
        for scenario, (same, total) in sorted(
            repeated.items(), key=lambda item: -len(item[1][0]) / item[1][1]
        )
    ]
    if len(shares) == 1:
        reason = f"{shares[0]} are the same action sequence, step for step"
    else:
        reason = (
            f"in {len(shares)} of {large} scenarios more than half of the episodes are one action sequence, step for "
            f"step: {few(shares, 4)}"
        )
    yield Finding(
        "identical_sequences", WARNING, reason,
        "record drives that differ (start positions, distances, disturbances); a memory of the sequence drives such a "
        "scenario without looking",
        facts.paths(i for same, _ in repeated.values() for i in same),
    )  # fmt: skip


def clock_accuracy(facts: Facts, condition: Sequence[object] | None = None) -> float | None:
    """How often the class of an action is guessed from the step t alone, by the other episodes.

    The guess for step t is the commonest class at t among all *other* episodes (leave one episode out), those with
    the same `condition` if one is given. Where no other episode reaches t it is their commonest class of all.

    Args:
        condition: one value per episode, e.g. its scenario, that the clock may know besides the time.

    Returns:
        The share of right guesses over all steps; None without classes or with fewer than two episodes.
    """
    labels = facts.classes
    if labels is None or len(facts.episodes) < 2:
        return None
    cells = facts.steps
    if condition is not None:
        numbers = {value: i for i, value in enumerate(dict.fromkeys(condition))}
        rank = np.array([numbers[value] for value in condition])[facts.owners]
        cells = rank * (int(facts.steps.max()) + 1) + facts.steps
    kinds = len(facts.space.class_names)
    counts = np.zeros((int(cells.max()) + 1, kinds))
    np.add.at(counts, (cells, labels), 1)
    own = np.zeros((len(facts.episodes), kinds))
    np.add.at(own, (facts.owners, labels), 1)
    others = own.sum(axis=0) - own  # (E, C) over the whole data set without the episode itself
    votes = counts[cells]
    votes[np.arange(len(labels)), labels] -= 1
    # The commonest class of the others decides ties and empty cells, but never outweighs one vote.
    votes += 0.5 * (others / np.maximum(1, others.sum(axis=1, keepdims=True)))[facts.owners]
    return float((votes.argmax(axis=1) == labels).mean())


def majority(facts: Facts) -> tuple[str, float] | None:
    """The commonest class and its share: the accuracy of always answering it."""
    if facts.classes is None or not len(facts.classes):
        return None
    counts = np.bincount(facts.classes, minlength=len(facts.space.class_names))
    return facts.space.class_names[int(counts.argmax())], float(counts.max() / counts.sum())


def class_shares(facts: Facts) -> dict[str, float]:
    """Class name -> share of all steps, in the order of data.action.classes."""
    if facts.classes is None or not len(facts.classes):
        return {}
    counts = np.bincount(facts.classes, minlength=len(facts.space.class_names))
    return {name: float(n / counts.sum()) for name, n in zip(facts.space.class_names, counts, strict=True)}


def clock(facts: Facts) -> Iterator[Finding]:
    """Can the actions be guessed from the time alone, or from time and scenario?"""
    plain = clock_accuracy(facts)
    informed = clock_accuracy(facts, [episode.scenario for episode in facts.episodes])
    if plain is None or informed is None or len(facts.episodes) < FEW:
        return
    if plain >= CLOCK_SHARE:
        yield Finding(
            "clock", WARNING,
            f"a clock scores {percent(plain)} here: it guesses the class of an action from the step number alone "
            "(leave one episode out)",
            "record drives that differ in length and order; until then judge a policy only against this figure",
        )  # fmt: skip
    elif informed >= CLOCK_SHARE:
        yield Finding(
            "scenario_clock", WARNING,
            f"a clock that knows the scenario scores {percent(informed)} here ({percent(plain)} without): within a "
            "scenario the drives are nearly one and the same",
            "record several drives per scenario that differ; judge a policy against this figure",
        )  # fmt: skip


def class_balance(facts: Facts) -> Iterator[Finding]:
    """Are the classes of data.action balanced enough to tell a policy from one constant answer?"""
    best = majority(facts)
    if best is None:
        return
    if best[1] >= MAJORITY_SHARE:
        yield Finding(
            "class_imbalance", WARNING,
            f"always answering {best[0]!r} is right in {percent(best[1])} of all steps",
            "record more turns and stops, or judge by per-class accuracy",
        )  # fmt: skip
    missing = [name for name, share in class_shares(facts).items() if share == 0]
    if missing:
        yield Finding(
            "unseen_classes", NOTE, f"never commanded in this data: {', '.join(missing)}",
            "a policy cannot learn them; record some if the robot is to do them",
        )  # fmt: skip


def idle_frames(facts: Facts) -> Iterator[Finding]:
    """Does the robot move in most steps, apart from one stop at the end?"""
    if facts.classes is None or not len(facts.classes):
        return
    last = facts.steps == facts.lengths[facts.owners] - 1
    idle = (facts.classes == _stop(facts)) & ~last
    share = float(idle.mean())
    if share > IDLE_SHARE:
        per_episode = np.bincount(facts.owners[idle], minlength=len(facts.episodes))
        yield Finding(
            "idle_frames", WARNING,
            f"the robot stands still in {int(idle.sum())} of {len(idle)} steps ({percent(share)}), the last step of "
            "each episode not counted",
            "cut waiting from the recordings; a policy learns to wait",
            facts.paths(np.argsort(-per_episode, kind="stable")[: int((per_episode > 0).sum())]),
        )  # fmt: skip


def missing_stop(facts: Facts) -> Iterator[Finding]:
    """Do all episodes end alike, with a stop or without?"""
    if facts.classes is None or not len(facts.classes):
        return
    ends = np.array([labels[-1] for labels in facts.rows(facts.classes)]) == _stop(facts)
    without = np.flatnonzero(~ends)
    if not len(without):
        return
    if ends.any():
        yield from some(
            facts, without.tolist(), "missing_stop", WARNING, "end in motion, the others with a stop",
            "record the stop of every drive; otherwise the same view is followed by a stop or not, by chance",
        )  # fmt: skip
    else:
        yield Finding(
            "no_stop", NOTE, f"none of {len(ends)} episodes ends with a stop, so a policy cannot learn to stop",
            "fine where something else ends the drive (the simulator does); otherwise record the stop",
        )  # fmt: skip


def _stop(facts: Facts) -> int:
    return next(i for i, vector in enumerate(facts.space.classes.values()) if not any(vector))


def uneven_time(facts: Facts) -> Iterator[Finding]:
    """Where time stamps are recorded, do they agree with the control period?"""
    bad: dict[int, float] = {}
    for i, episode in enumerate(facts.episodes):
        if episode.timestamps is None or episode.length < 2:
            continue
        gaps = np.diff(episode.timestamps)
        usual = float(np.median(gaps))
        if gaps.min() <= 0 or abs(usual / episode.control_period - 1) > 0.2:
            bad[i] = usual
    gap = next(iter(bad.values()), 0.0)
    yield from some(
        facts, list(bad), "uneven_time", WARNING,
        f"have time stamps that do not fit the control period: {gap:.3g} s between steps in the first of them, "
        f"{facts.space.control_period:.3g} s are declared",
        "correct data.action.control_period, or the recorder's clock",
    )  # fmt: skip
