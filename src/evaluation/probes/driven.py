"""Owns the probes that are driven: the same simulated tasks once more under other words, and what then happens.

In: tasks, and rollouts of the original and of the changed ones. Out: changed tasks; figures on pairs of drives.
A policy may drive well and still be deaf: only a changed input can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.evaluation.driving.closed_loop import Rollout, successes
from src.evaluation.statistics import Estimate, PairedTest, paired, wilson
from src.model.senses import BLANK
from src.sim import Task

KINDS = ("swapped", "retargeted", "shuffled", "blank")

SAME = 1e-3
"""m/s, rad/s: commands this near are the same. Sums of a network differ by less from batch to batch, words by more."""

Figures = dict[str, Estimate | PairedTest]


def driven_figures(kind: str, original: Sequence[Rollout], probed: Sequence[Rollout]) -> Figures:
    """The figures of the probe `kind` (one of `KINDS`); both sets of rollouts in the order of the tasks."""
    if kind == "swapped":
        return swapped_figures(original, probed)
    return retargeted_figures(original, probed) if kind == "retargeted" else success_figures(original, probed)


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


def swapped_figures(original: Sequence[Rollout], swapped: Sequence[Rollout]) -> Figures:
    """Pairs of the same scene under the original and the swapped words; only scenes with a box take part.

    `passed`: both drives passed every box. Of these pairs alone, because a box that was never reached says nothing
    about the words: `changed`, a box was passed on another side than before; `obeyed_original`, `obeyed_swapped`, every
    box was passed on the side the words of that run name. Of all pairs: `success_swapped`, and `same_commands`, both
    drives got the same commands from the first step to the last (within `SAME`).
    """
    pairs = [(a, b) for a, b in zip(original, swapped, strict=True) if a.outcome.right_side is not None]
    judged = [(a, b) for a, b in pairs if None not in (*a.outcome.side_passed, *b.outcome.side_passed)]
    changed = [a.outcome.side_passed != b.outcome.side_passed for a, b in judged]
    return {
        "passed": wilson(len(judged), len(pairs)),
        "changed": wilson(sum(changed), len(judged)),
        "obeyed_original": wilson(sum(bool(a.outcome.right_side) for a, _ in judged), len(judged)),
        "obeyed_swapped": wilson(sum(bool(b.outcome.right_side) for _, b in judged), len(judged)),
        "success_swapped": wilson(sum(bool(b.outcome.success) for _, b in pairs), len(pairs)),
        "same_commands": wilson(sum(_same_commands(a, b) for a, b in pairs), len(pairs)),
    }


def _same_commands(first: Rollout, second: Rollout) -> bool:
    return first.actions.shape == second.actions.shape and bool(
        (np.abs(first.actions - second.actions) <= SAME).all()
    )


def retargeted_figures(original: Sequence[Rollout], retargeted: Sequence[Rollout]) -> Figures:
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


def success_figures(original: Sequence[Rollout], probed: Sequence[Rollout]) -> Figures:
    """Success on the original demands under foreign or missing words, and the paired drop."""
    return {
        "success": wilson(int(successes(probed).sum()), len(probed)),
        "drop": paired(successes(original), successes(probed)),
    }


def object_figures(rollouts: Sequence[Rollout]) -> Estimate:
    """Among episodes that reached any of several objects: the share that reached the named one."""
    reached = _reached(rollouts)
    return wilson(sum(bool(r.outcome.right_object) for r in reached), len(reached))


def chances(rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """What guessing scores. `sides`: share of tasks with boxes in which every box is passed on the named side by a toss
    of a coin. `objects`: the named object among those of the room. None where there is nothing to guess."""
    boxes = [len(r.task.scene.boxes) for r in rollouts if r.outcome.right_side is not None]
    things = [len(r.task.scene.things) for r in _reached(rollouts)]
    return {
        "sides": float(np.mean([0.5**count for count in boxes])) if boxes else None,
        "objects": float(np.mean([1 / count for count in things])) if things else None,
    }


def _reached(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [r for r in rollouts if r.outcome.object_reached is not None and len(r.task.scene.things) > 1]
