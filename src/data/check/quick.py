"""Owns the check that every training makes at its start: files, actions and the split, without decoding a frame.

In: opened episodes, or a folder. Out: findings in a fraction of a second; `usable` also sorts out what cannot be used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.check import actions, files, leakage
from src.data.check.finding import ERROR, Checker, Facts, Fault, Finding, run_checkers
from src.data.episode import EpisodeFile
from src.data.layouts import LabOptions

FILE_CHECKS: tuple[Checker, ...] = (
    files.unusable_files,
    files.double_ids,
    files.mixed_sizes,
    actions.out_of_range,
)
"""What concerns single files; the errors among them can be left out one by one."""

ACTION_CHECKS: tuple[Checker, ...] = (
    actions.dead_axes,
    actions.constant_episodes,
    actions.identical_sequences,
    actions.clock,
    actions.class_balance,
    actions.idle_frames,
    actions.missing_stop,
    actions.uneven_time,
    files.remarks,
)
SPLIT_CHECKS: tuple[Checker, ...] = (
    files.duplicate_episodes,
    leakage.unusable_split,
    leakage.duplicates_across_splits,
    leakage.groups_across_splits,
    leakage.sessions_across_splits,
)
QUICK = (*FILE_CHECKS, *ACTION_CHECKS, *SPLIT_CHECKS)


def quick_check(
    episodes: Sequence[EpisodeFile],
    space: ActionSpace,
    root: Path,
    members: Mapping[str, Sequence[str]] | None = None,
    faults: Sequence[Fault] = (),
    allow_mixed_sizes: bool = False,
) -> list[Finding]:
    """Findings about files, actions and leakage, errors first. No frame is decoded.

    Args:
        episodes: those that training would use, of all splits.
        space: data.action.
        root: data.root, for messages.
        members: split name -> episode ids (`Split.members`); None leaves the questions about the split out.
        faults: files that could not be opened, from `files.open_all`.
        allow_mixed_sizes: data.allow_mixed_sizes.
    """
    split = {episode: name for name, ids in (members or {}).items() for episode in ids}
    facts = Facts(root, space, list(episodes), list(faults), split=split, allow_mixed_sizes=allow_mixed_sizes)
    return run_checkers(facts, QUICK)


def usable(
    root: Path, space: ActionSpace, lab: LabOptions | None = None, allow_mixed_sizes: bool = False
) -> tuple[list[EpisodeFile], list[Finding]]:
    """The episodes below `root` that training can use, sorted by id, and an error finding for all that it cannot.

    For data.on_bad_files=skip; each finding names every file that it left out. Raises a ProjectError if none is left.
    """
    episodes, faults = files.open_all(root, space, lab)
    facts = Facts(root, space, episodes, faults, allow_mixed_sizes=allow_mixed_sizes)
    findings = [f for f in run_checkers(facts, FILE_CHECKS) if f.severity == ERROR and f.spoils]
    bad = {path for finding in findings for path in finding.files}
    left = sorted((e for e in episodes if e.path not in bad), key=lambda episode: episode.id)
    if not left:
        raise ProjectError(
            f"data.root={root}: none of {len(episodes) + len(faults)} files can be used, the first reason: "
            f"{findings[0].reason}; {findings[0].advice}."
        )
    return left, findings
