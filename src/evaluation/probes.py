"""Owns the question whether a policy listens to its instruction and looks at its camera.

In: rollouts of the same tasks with the right, the left/right-swapped, a stranger's and no instruction; predictions on
recorded frames with and without their image or instruction. Out: figures, and verdicts in words with
thresholds from the configuration. A policy may drive well and still be deaf: only a changed input can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.evaluation.closed_loop import Rollout, successes
from src.evaluation.offline import Truth, by_group, frame_error, half_range
from src.evaluation.statistics import Estimate, PairedTest, bootstrap_ratio, paired, wilson
from src.sim import Task

KINDS = ("swapped", "retargeted", "shuffled", "blank")
FEWEST_PAIRS = 6  # with fewer no sign-flip test can reach p < 0.05
BLANK = "."  # backbones refuse an empty text; a lone full stop is the nearest sentence without a word


@dataclass(frozen=True)
class Thresholds:
    """What a verdict takes; it is yes or no only where the whole interval lies on one side.

    `outcome_change`: share of episode pairs whose outcome must change when the words change.
    `success_share`: success with a stranger's instruction must fall below this share of the original's.
    `action_change`: mean change of the executed action, as a share of each axis's half range.
    """

    outcome_change: float = 0.5
    success_share: float = 0.5
    action_change: float = 0.02


@dataclass(frozen=True)
class Verdict:
    """A yes or no, or that the data do not tell, with the figures that led to it, in one sentence."""

    answer: str  # "yes" | "no" | "not decided" | "not measured"
    words: str

    def to_dict(self) -> dict[str, str]:
        return {"answer": self.answer, "words": self.words}


def probe_tasks(kind: str, tasks: Sequence[Task], seed: int = 0) -> list[Task]:
    """The tasks of a probe, one per original task in the same order and the same scene.

    `swapped` exchanges left and right in the text and in what is demanded; `retargeted` names, and demands, the
    next object of the same room; `shuffled` gives each robot the instruction of another task but keeps what is
    demanded; `blank` says nothing.
    """
    if kind == "swapped":
        return [task.swapped() for task in tasks]
    if kind == "retargeted":
        return [task.retargeted((task.target + 1) % len(task.scene.things)) for task in tasks]
    if kind == "blank":
        return [task.with_instruction(BLANK) for task in tasks]
    strangers = derangement([task.instruction for task in tasks], seed)
    return [task.with_instruction(tasks[j].instruction) for task, j in zip(tasks, strangers, strict=True)]


def derangement(texts: Sequence[str], seed: int = 0) -> list[int]:
    """For each text the index of another one, each used about once, that differs wherever one does at all."""
    n = len(texts)
    order = np.random.default_rng(seed).permutation(n)
    out = [0] * n
    for place, i in enumerate(order):
        followers = (int(order[(place + step) % n]) for step in range(1, n + 1))
        out[int(i)] = next((j for j in followers if texts[j] != texts[int(i)]), int(order[(place + 1) % n]))
    return out


def swapped_figures(original: Sequence[Rollout], swapped: Sequence[Rollout]) -> dict[str, Estimate]:
    """Pairs of the same scene under the original and the swapped words; only scenes with a box take part.

    `changed`: a box was passed on another side than before. `obeyed_original`, `obeyed_swapped`: every box was
    passed on the side the words of that run name. Boxes never passed count as not changed and not obeyed.
    """
    pairs = [(a, b) for a, b in zip(original, swapped, strict=True) if a.outcome.right_side is not None]
    changed = [_sides_differ(a, b) for a, b in pairs]
    return {
        "changed": wilson(sum(changed), len(pairs)),
        "obeyed_original": wilson(sum(bool(a.outcome.right_side) for a, _ in pairs), len(pairs)),
        "obeyed_swapped": wilson(sum(bool(b.outcome.right_side) for _, b in pairs), len(pairs)),
        "success_swapped": wilson(sum(bool(b.outcome.success) for _, b in pairs), len(pairs)),
    }


def retargeted_figures(original: Sequence[Rollout], retargeted: Sequence[Rollout]) -> dict[str, Estimate]:
    """Pairs of the same room in which another object is named; only rooms with several objects take part.

    `changed`: another object was reached than before. `obeyed_original`, `obeyed_retargeted`: the object named in
    that run was reached. An object never reached counts as not changed and not obeyed.
    """
    pairs = [(a, b) for a, b in zip(original, retargeted, strict=True) if len(a.task.scene.things) > 1]
    changed = [
        None not in (a.outcome.object_reached, b.outcome.object_reached)
        and a.outcome.object_reached != b.outcome.object_reached
        for a, b in pairs
    ]
    return {
        "changed": wilson(sum(changed), len(pairs)),
        "obeyed_original": wilson(sum(bool(a.outcome.right_object) for a, _ in pairs), len(pairs)),
        "obeyed_retargeted": wilson(sum(bool(b.outcome.right_object) for _, b in pairs), len(pairs)),
    }


def _sides_differ(first: Rollout, second: Rollout) -> bool:
    sides = zip(first.outcome.side_passed, second.outcome.side_passed, strict=True)
    return any(a is not None and b is not None and a != b for a, b in sides)


def success_figures(
    original: Sequence[Rollout], probed: Sequence[Rollout]
) -> dict[str, Estimate | PairedTest]:
    """Success on the original demands under foreign or missing words, and the paired drop."""
    return {
        "success": wilson(int(successes(probed).sum()), len(probed)),
        "drop": paired(successes(original), successes(probed)),
    }


def object_figures(rollouts: Sequence[Rollout]) -> tuple[Estimate, float]:
    """Among episodes that reached any object: the share that reached the named one, and the share by chance."""
    reached = [r for r in rollouts if r.outcome.object_reached is not None and len(r.task.scene.things) > 1]
    chance = float(np.mean([1 / len(r.task.scene.things) for r in reached])) if reached else float("nan")
    return wilson(sum(bool(r.outcome.right_object) for r in reached), len(reached)), chance


def listens(
    original: Sequence[Rollout], figures: Mapping[str, Mapping[str, Any]], thresholds: Thresholds
) -> Verdict:
    """Closed-loop verdict: by the sides of the swapped pairs, or where no box stands, by the shuffled success.

    The sides must change, and the swapped words must be obeyed beyond chance: around two boxes a driver that tosses
    a coin changes something in three pairs of four.
    """
    swapped = figures.get("swapped", {})
    changed = swapped.get("changed")
    if isinstance(changed, Estimate) and changed.n:
        obeyed: Estimate = swapped["obeyed_swapped"]
        boxes = [len(r.task.scene.boxes) for r in original if r.outcome.right_side is not None]
        chance = float(np.mean([0.5**count for count in boxes]))
        by_change = decide(changed, thresholds.outcome_change)
        answer = _all_of(by_change, beyond_chance(obeyed, chance))
        words = f"swapping left and right changes the outcome in {percent(changed)}"
        if answer != by_change or max(boxes) > 1:
            words += f"; the swapped words are obeyed in {percent(obeyed)}, chance {100 * chance:.0f} %"
        return Verdict(answer, words)
    shuffled = figures.get("shuffled", {}).get("success")
    if isinstance(shuffled, Estimate) and shuffled.n:
        before = wilson(int(successes(original).sum()), len(original))
        drop: PairedTest = figures["shuffled"]["drop"]
        words = f"with another task's instruction success goes from {share(before)} to {percent(shuffled)}"
        if not before.value or shuffled.n < FEWEST_PAIRS:
            return Verdict("not decided", words)
        answer = decide(drop.difference, (1 - thresholds.success_share) * before.value)
        return Verdict("not decided" if answer == "yes" and not drop.better else answer, words)
    return Verdict("not measured", "no instruction probe was driven")


def tells_objects_apart(rollouts: Sequence[Rollout]) -> Verdict:
    """Whether the named object is reached more often than chance among the objects in the room."""
    estimate, chance = object_figures(rollouts)
    if not estimate.n:
        return Verdict("not measured", "no episode reached one of several objects")
    words = f"of the objects it reaches, {percent(estimate)} are the named one; chance {chance:.0%}"
    return Verdict(beyond_chance(estimate, chance), words)


def action_figures(
    before: np.ndarray, after: np.ndarray, truth: Truth, space: ActionSpace, seed: int = 0
) -> dict[str, Estimate | PairedTest]:
    """Offline: `before`, `after` (S, H, A) SI, the predictions with the true and with the altered input.

    `change`: mean absolute change of the executed action, as a share of each axis's half range. `error_rise`: how
    much farther from the recording the altered prediction is, paired by group.
    """
    moved = np.mean(np.abs(after[:, 0] - before[:, 0]) / half_range(space), axis=1)
    groups, index = np.unique(truth.group, return_inverse=True)
    counts = np.bincount(index, minlength=len(groups)).astype(np.float64)
    rise = paired(
        by_group(frame_error(after, truth, space), truth.group),
        by_group(frame_error(before, truth, space), truth.group),
        seed,
    )
    return {"change": bootstrap_ratio(np.bincount(index, weights=moved), counts, seed), "error_rise": rise}


def by_action(what: str, figures: Mapping[str, Any], thresholds: Thresholds) -> Verdict:
    """Offline verdict: the action must move, and away from what was right. `what` names the change, e.g.
    'hiding the image'."""
    change, rise = figures["change"], figures["error_rise"]
    if (change.clusters or 0) < FEWEST_PAIRS:
        return Verdict("not measured", f"{change.clusters or 0} groups of recordings are too few to tell")
    # "no": the error rises by less than would count as a change of the action.
    worse = "yes" if rise.better else decide(rise.difference, float("inf"), thresholds.action_change)
    answer = _all_of(decide(change, thresholds.action_change), worse)
    effect = {"yes": "makes it worse", "no": "makes it no worse", "not decided": "makes it not clearly worse"}
    words = (
        f"{what} moves the action by {share(change)} of its half range and {effect[worse]} {_spread(change)}"
    )
    return Verdict(answer, words)


def other_instruction(
    spoken: Mapping[str, Sequence[str]],
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]],
    blank: bool = False,
) -> Callable[[Batch], Batch] | None:
    """Probe for recorded frames: each episode gets an instruction of another meaning, or none if `blank`.

    `spoken`: episode id → its instructions. Returns None where all episodes say the same, so nothing can differ.
    """
    pool = sorted({texts[0] for texts in spoken.values()})
    if not blank and len(pool) < 2:
        return None

    def replacement(episode: str) -> str:
        own = spoken[episode]
        start = pool.index(own[0])
        later = (pool[(start + step) % len(pool)] for step in range(1, len(pool)))
        return BLANK if blank else next((text for text in later if text not in own), pool[start - 1])

    def change(batch: Batch) -> Batch:
        rows = batch.episode[batch.windows[:, -1]].tolist()  # which row of instructions each sample uses
        name = {row: episode for row, (episode, _) in zip(rows, batch.keys, strict=True)}
        texts = [
            replacement(name[row]) if row in name else BLANK for row in range(len(batch.instruction_ids))
        ]
        ids, mask = tokenize(texts)
        return replace(batch, instruction_ids=ids, instruction_mask=mask)

    return change


def decide(estimate: Estimate, above: float, no_up_to: float | None = None) -> str:
    """ "yes" if the whole interval lies above `above`, "no" if it lies at or below `no_up_to` (default: the same),
    else "not decided"."""
    if estimate.low is None or estimate.high is None:
        return "not decided"
    if estimate.low > above:
        return "yes"
    return "no" if estimate.high <= (above if no_up_to is None else no_up_to) else "not decided"


def beyond_chance(estimate: Estimate, chance: float) -> str:
    """Whether a share beats chance. Who guesses is at chance, so no interval ever lies wholly below it: "no" is said
    once the interval excludes even half the way from chance to certainty, and never of fewer than six."""
    return decide(estimate, chance, (1 + chance) / 2 if estimate.n >= FEWEST_PAIRS else 0.0)


def _all_of(*answers: str) -> str:
    """One no is a no; a yes takes all."""
    if "no" in answers:
        return "no"
    return "yes" if all(answer == "yes" for answer in answers) else "not decided"


def share(estimate: Estimate) -> str:
    """`97 %`."""
    return "–" if estimate.value is None else f"{100 * estimate.value:.0f} %"


def percent(estimate: Estimate) -> str:
    """`97 % (n=200, 95 % interval 94–99)`."""
    return f"{share(estimate)} {_spread(estimate)}"


def _spread(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"(n={estimate.n})"
    return f"(n={estimate.n}, 95 % interval {100 * estimate.low:.0f}–{100 * estimate.high:.0f})"
