"""Owns findings about files as such: what cannot be read and why, copies, sizes, pictures that show nothing.

In: a path and the reader's refusal, or `Facts`. Out: a `Fault` per bad file, findings per kind of fault. The kind is
taken from the file itself (kinds.py); the reason is the reader's own sentence.
"""

import filecmp
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Fault, Finding, by_value, some
from src.data.check.kinds import kind_of
from src.data.episode import EpisodeFile, open_episode
from src.data.layouts import LabOptions
from src.data.scan import check_action_space, find_episodes
from src.data.unwritten import require_written

_SHA_LENGTH = 64

NO_STOP = "no action is a stop, so stopping cannot be learned from the file"
"""A remark of the lab's readers; where data.action names classes, missing_stop (actions.py) reports these files."""

ADVICE = {
    "unreadable": "make the file readable for you, or move it away",
    "empty_file": "record or copy it again; 0 bytes were written",
    "lfs_pointer": "run `git lfs pull` where the data came from, and copy again",
    "not_hdf5": "it only has the name of an episode; convert it or move it away",
    "truncated": "the copy or the recording was interrupted; copy it again or move it away",
    "damaged_frames": "its pictures cannot be decoded; copy it again or move it away",
    "unwritten_data": "the recorder stopped before it had written all; such places read as zeros. Move it away",
    "crashes_reader": "reading it ends the HDF5 library itself; move it away",
    "non_finite_actions": "find out where the recorder made NaN; move the file away",
    "unknown_layout": "convert it (README: the project's own format), or move it away",
    "missing_data": "a dataset that every episode of its layout has is not in it; record or convert it again",
    "wrong_shape": "convert it to the expected shape and type, or move it away",
    "missing_scenario": "rename the file to hold its scenario, or set data.lab.scenario_from=none",
    "broken_text": "its sentence is no text; write it again as UTF-8",
    "broken_header": "write the file again with write_episode",
    "wrong_classes": "correct data.lab.class_names, axis_order or the signs, or set class_names to null",
    "wrong_action_space": "choose the data/action of this data, or move the file to a folder of its own",
    "missing_instruction": "write the sentence into the file, or choose a data/instruction with one for its scenario",
    "unusable": "convert it or move it away",
}
"""What to do about each kind of file that cannot be used; its keys are all kinds there are."""


def open_one(path: Path, action: ActionSpace, lab: LabOptions | None) -> EpisodeFile | Fault:
    """The episode at `path`, or why it cannot be used. Never raises: one file must not lose the others."""
    try:
        episode = open_episode(path, lab)
    except Exception as error:  # whatever a foreign file provokes in a reader is a fault of that file
        sentence = (
            str(error) if isinstance(error, ProjectError) else f"{path}: {type(error).__name__}: {error}"
        )
        code = kind_of(path, lab)
        if code == "empty_file":  # the library only says that it finds no signature
            sentence = f"{path} is empty (0 bytes), expected an HDF5 episode; record or copy it again."
        elif code == "not_hdf5" and path.is_file():
            sentence = f"{path} is no HDF5 file, it begins with {_head(path)!r}; convert it or move it away."
        return Fault(path, code, sentence)
    try:
        check_action_space(episode, action)
    except ProjectError as error:
        return Fault(path, "wrong_action_space", str(error))
    try:
        require_written(path)
    except ProjectError as error:
        return Fault(path, "unwritten_data", str(error))
    return episode


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)


def open_all(
    root: Path, action: ActionSpace, lab: LabOptions | None
) -> tuple[list[EpisodeFile], list[Fault]]:
    """Every episode below `root` that can be read, sorted by path, and a fault for every other file."""
    opened = [open_one(path, action, lab) for path in find_episodes(root)]
    return [e for e in opened if isinstance(e, EpisodeFile)], [f for f in opened if isinstance(f, Fault)]


# ---------------------------------------------------------------- findings


def unusable_files(facts: Facts) -> Iterator[Finding]:
    """Can every file be read, with frames, finite actions, a sentence, and the axes of data.action?"""
    total = len({fault.path for fault in facts.faults} | {episode.path for episode in facts.episodes})
    for code, indices in by_value([fault.code for fault in facts.faults]).items():
        group = [facts.faults[index] for index in indices]
        reason, headline = group[0].sentence.rstrip("."), ""
        if len(group) > 1:
            headline = f"{len(group)} of {total} files cannot be used"
            reason = f"{headline}, the first: {reason}"
        yield Finding(
            code, ERROR, reason, ADVICE[code], tuple(fault.path for fault in group), spoils=True,
            sentences=tuple(fault.sentence for fault in group), headline=headline,
        )  # fmt: skip


def double_ids(facts: Facts) -> Iterator[Finding]:
    """Does every episode have a name of its own?"""
    double = {name: i for name, i in by_value([e.id for e in facts.episodes]).items() if len(i) > 1}
    if not double:
        return
    extra = [(index, indices[0]) for indices in double.values() for index in indices[1:]]
    name, indices = next(iter(double.items()))
    headline = "" if len(double) == 1 else f"{len(double)} names are those of several episodes each"
    reason = f"{len(indices)} files are all episode {name!r}"
    yield Finding(
        "double_id", ERROR, f"{headline}, the first: {reason}" if headline else reason,
        "keep one of them, or give the others another id", facts.paths(index for index, _ in extra), spoils=True,
        sentences=tuple(
            f"{facts.episodes[i].path}: is episode {facts.episodes[i].id!r}, as {facts.episodes[first].path}; keep one "
            "of them, or give one another id."
            for i, first in extra
        ),
        headline=headline,
    )  # fmt: skip


def mixed_sizes(facts: Facts) -> Iterator[Finding]:
    """Do all frames have the same size?"""
    sizes = Counter(episode.frame_shape[:2] for episode in facts.episodes)
    if len(sizes) < 2:
        return
    usual, count = sizes.most_common(1)[0]
    odd = [i for i, episode in enumerate(facts.episodes) if episode.frame_shape[:2] != usual]
    shown = ", ".join(f"{h}x{w} ({n})" for (h, w), n in sizes.most_common())
    yield Finding(
        "mixed_sizes", NOTE if facts.allow_mixed_sizes else ERROR,
        f"frames come in {len(sizes)} sizes (height x width): {shown}; {count} files have the usual one",
        "move the odd ones away, or set data.allow_mixed_sizes=true to squeeze all to data.image_size",
        facts.paths(odd), spoils=not facts.allow_mixed_sizes,
    )  # fmt: skip


def duplicates(facts: Facts) -> list[list[int]]:
    """Sets of episodes that are the same recording: equal actions, and equal frames as far as they are known.

    Known are, in this order: the content hash of the project's own format, the sampled frames, the bytes of the file.
    """
    keys = [(e.length, e.frame_shape, e.actions.tobytes()) for e in facts.episodes]
    found: list[list[int]] = []
    for indices in by_value(keys).values():
        while len(indices) > 1:
            first, rest = indices[0], indices[1:]
            same = [i for i in rest if _same_frames(facts, facts.episodes[first], facts.episodes[i])]
            if same:
                found.append([first, *same])
            indices = [i for i in rest if i not in same]
    return found


def _same_frames(facts: Facts, one: EpisodeFile, two: EpisodeFile) -> bool:
    if len(one.meta.content) == len(two.meta.content) == _SHA_LENGTH:
        return one.meta.content == two.meta.content
    first, second = facts.samples.get(one.path), facts.samples.get(two.path)
    if first is not None and second is not None:
        return first.same_frames(second)
    return one.path.stat().st_size == two.path.stat().st_size and filecmp.cmp(
        one.path, two.path, shallow=False
    )


def duplicate_episodes(facts: Facts) -> Iterator[Finding]:
    """Is every recording there only once (by actions and frames)?"""
    groups = duplicates(facts)
    if groups:
        extra = sum(len(group) - 1 for group in groups)
        one, two = (facts.episodes[i].id for i in groups[0][:2])
        yield Finding(
            "duplicate_episodes", WARNING,
            f"{extra} of {len(facts.episodes)} episodes are copies of another one (the same actions and frames), "
            f"e.g. {two} of {one}",
            "delete the copies; they count double in training and may put one recording into two splits",
            facts.paths(i for group in groups for i in group[1:]),
        )  # fmt: skip


def blank_frames(facts: Facts) -> Iterator[Finding]:
    """Does every sampled frame show something?"""
    bad = [i for i, e in enumerate(facts.episodes) if e.path in facts.samples and facts.samples[e.path].flat]
    steps = facts.samples[facts.episodes[bad[0]].path].flat if bad else ()
    yield from some(
        facts, bad, "blank_frames", ERROR, f"have frames of one single colour, first at step {min(steps, default=0)}",
        "the camera gave no picture; move these files away", spoils=True,
    )  # fmt: skip


def frozen_camera(facts: Facts) -> Iterator[Finding]:
    """Do the frames of an episode differ while the robot moves?"""
    bad = []
    for i, episode in enumerate(facts.episodes):
        sample = facts.samples.get(episode.path)
        if sample is None or len(sample.steps) < 2 or not np.abs(episode.actions).max() > 0:
            continue
        if (sample.tiny == sample.tiny[0]).all():
            bad.append(i)
    yield from some(
        facts, bad, "frozen_camera", WARNING,
        "show the same picture at every sampled step while the robot is commanded to move",
        "look at them; a camera that stands still teaches the policy not to look",
    )  # fmt: skip


def remarks(facts: Facts) -> Iterator[Finding]:
    """Does the reader of the files have something to say?"""
    said = [
        (remark, i)
        for i, episode in enumerate(facts.episodes)
        for remark in episode.meta.remarks
        if remark != NO_STOP or facts.classes is None
    ]
    for remark, positions in by_value([remark for remark, _ in said]).items():
        yield from some(
            facts, [said[position][1] for position in positions], "reader_remark", WARNING, f"have a remark: {remark}",
            "see that this is meant so; data.lab says how the files are read",
        )  # fmt: skip


def assumed_meaning(facts: Facts) -> Iterator[Finding]:
    """Do the files say colour order and signs themselves, or are they assumed?"""
    assumed = [i for i, episode in enumerate(facts.episodes) if episode.meta.assumed]
    if assumed:
        yield Finding(
            "confirm_meaning", NOTE,
            f"{len(assumed)} files state neither colour order nor signs; declared is "
            f"{', '.join(facts.episodes[assumed[0]].meta.assumed)}",
            "compare the pictures under “Please confirm” on the page with what you know of the place",
            facts.paths(assumed),
        )  # fmt: skip
    named = Counter(name for episode in facts.episodes for name in episode.meta.from_name if name != "id")
    if named:
        fields = ", ".join(f"{name} ({count})" for name, count in sorted(named.items()))
        yield Finding(
            "from_file_name", NOTE, f"taken from the file name because the file does not hold it: {fields}",
            "do not rename files; a wrong name is a wrong scenario",
        )  # fmt: skip
