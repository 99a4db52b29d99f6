"""Owns which runs a table is made of.

In: run folders (or what W&B gave), the plan. Out: the finished runs of its arms, and sentences on all others: not
finished, with the command that completes them, or left out, with the reason.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from src.comparison.plan import Plan
from src.comparison.run import IMPORTED, UNREADABLE, Run, from_folder, from_folder_or_unreadable
from src.core.errors import ProjectError
from src.experiment.run_record import FILE

DONE = ("finished", IMPORTED)


@dataclass(frozen=True)
class Gathered:
    """The runs of a table, in the order of its arms and seeds."""

    runs: tuple[Run, ...]
    missing: Mapping[str, tuple[int, ...]]
    """Arm → seeds of the plan without a finished run."""
    warnings: tuple[str, ...]


def below(folder: Path) -> list[Run]:
    """The runs one level below `folder`, sorted by name; a damaged one has the state `unreadable`.

    Raises:
        ProjectError: no such folder, or no run in it that can be read.
    """
    if not folder.is_dir():
        raise ProjectError(
            f"folder={folder}: not found, expected the folder of a sweep with one run per subfolder; make the runs "
            "with python -m src.train --multirun experiment=<name>, or give their folder."
        )
    found = [from_folder_or_unreadable(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]
    if found and all(run.state == UNREADABLE for run in found):
        raise ProjectError(str(found[0].error))
    if not found:
        raise ProjectError(f"folder={folder}: holds no run, expected subfolders with a {FILE}.")
    return found


def named(patterns: Sequence[str]) -> list[Run]:
    """The runs that folders, or patterns with `*`, name; sorted, each once.

    Raises:
        ProjectError: a pattern that names no run.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(glob(pattern)) if any(sign in pattern for sign in "*?") else [pattern]
        hits = [Path(path) for path in paths if (Path(path) / FILE).is_file()]
        if not hits:
            raise ProjectError(f"runs: {pattern} names no folder with a {FILE}, expected run folders.")
        folders.update(dict.fromkeys(hits))
    return [from_folder(folder) for folder in folders]


def with_arms(runs: Iterable[Run], label: str = "") -> list[Run]:
    """Each run with an arm (else its folder's name) and a seed: unknown ones get -1, -2 … and are never paired."""
    out, unknown = [], 0
    for run in runs:
        seed = run.seed
        if seed is None:
            unknown += 1
            seed = -unknown
        out.append(replace(run, arm=f"{label}{run.arm or Path(run.id).name}", seed=seed))
    return out


def choose(plan: Plan, runs: Iterable[Run], allow: Collection[str] = ()) -> Gathered:
    """The finished runs of the plan's arms.

    Raises:
        ProjectError: two finished runs of one arm and seed; an arm without any run, unless `missing` is allowed; a
            record that cannot be read in the folder of one of the arms.
    """
    kept: dict[tuple[str, int], Run] = {}
    rest: list[Run] = []
    warnings: list[str] = []
    strangers: dict[str, int] = {}
    for run in sorted(runs, key=lambda run: run.id):
        arm, seed = str(run.arm), run.seed
        if run.state == UNREADABLE:
            name = Path(run.id).name
            if any(name.startswith((f"{one}-seed", f"{one},seed=")) for one in plan.arms):
                raise ProjectError(str(run.error))
            warnings.append(f"Left out: {run.error}")
        elif arm not in plan.arms or seed is None:
            strangers[arm] = strangers.get(arm, 0) + 1
        elif run.state not in DONE:
            rest.append(run)
        elif (arm, seed) in kept:
            raise ProjectError(
                f"{kept[arm, seed].id} and {run.id}: both are finished runs of arm {arm} with seed {seed}, expected "
                "one; move one of them out of the folder."
            )
        else:
            kept[arm, seed] = run
    for chosen_away, why in ((True, "not chosen"), (False, "for the table has no such arm")):
        away = [
            f"{arm} ({n})" for arm, n in sorted(strangers.items()) if (arm in plan.expected) == chosen_away
        ]
        warnings += [f"Left out, {why}: {', '.join(away)}."] if away else []
    for run in rest:
        if (str(run.arm), int(run.seed or 0)) not in kept:
            why = f" ({run.error.splitlines()[0]})" if run.error else ""
            then = (
                "it is still running"
                if run.state == "running"
                else f"complete it with: {command(plan, [str(run.arm)], [int(run.seed or 0)])}"
            )
            warnings.append(f"Not in the table: {run.arm}, seed {run.seed}, is {run.state}{why}; {then}")
    missing = {
        arm: tuple(seed for seed in plan.seeds if (arm, seed) not in kept)
        for arm in plan.arms
        if not plan.expected or arm in plan.expected
    }
    _require_arms(plan, {arm for arm, _ in kept}, allow, warnings)
    partial: dict[tuple[int, ...], list[str]] = {}
    for arm, seeds in missing.items():
        if seeds and any(one == arm for one, _ in kept):
            partial.setdefault(seeds, []).append(arm)
    for seeds, arms in partial.items():
        listed = f"{', '.join(arms)}: no finished run with seed {', '.join(map(str, seeds))}"
        warnings.append(f"{listed}; run {command(plan, arms, seeds)}")
    order = {arm: index for index, arm in enumerate(plan.arms)}
    chosen = sorted(kept.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    return Gathered(tuple(run for _, run in chosen), missing, tuple(warnings))


def _require_arms(plan: Plan, present: Collection[str], allow: Collection[str], warnings: list[str]) -> None:
    absent = [arm for arm in plan.arms if arm not in present]
    if not absent:
        return
    how = command(plan, absent, plan.seeds)
    if "missing" not in allow or not present:
        raise ProjectError(
            f"{', '.join(absent)}: no finished run, expected one or more per arm; run {how}, choose arms with "
            "arms=[…], or make the table without them with allow=[missing]."
        )
    warnings.append(f"{', '.join(absent)}: no finished run; run {how}")


def command(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """The command that makes these runs."""
    words = ["python", "-m", "src.train", "--multirun"]
    words += [f"experiment={plan.experiment}"] if plan.experiment else []
    words += plan.overrides
    if plan.experiment:
        words += [f"arm={','.join(arms)}"] if list(arms) != list(plan.expected) else []
    else:
        words += plan.arms[arms[0]] if len(arms) == 1 else ["<values of the arm>"]
    words += [f"seed={','.join(map(str, seeds))}"]
    return " ".join(word if word.startswith("<") else shlex.quote(word) for word in words)
