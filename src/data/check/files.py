"""Owns findings about files as such: what cannot be read and why, copies, sizes, pictures that show nothing.

In: a path and the reader's refusal, or `Facts`. Out: a `Fault` per bad file, findings per kind of fault. The kind is
taken from the file itself; the reason is the reader's own sentence.
"""

import filecmp
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Fault, Finding, by_value, some
from src.data.episode import EpisodeFile, OwnLayout, open_episode
from src.data.layouts import LabOptions
from src.data.scan import check_action_space, find_episodes

_LFS_HEAD = b"version https://git-lfs"
_FRAME_KEYS = ("frames", "frames_jpeg", "images", "observations/images")
_SHA_LENGTH = 64

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
    "wrong_shape": "convert it to the expected shape and type, or move it away",
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
        return Fault(path, kind_of(path, sentence), sentence)
    try:
        check_action_space(episode, action)
    except ProjectError as error:
        return Fault(path, "wrong_action_space", str(error))
    hole = _unwritten(path)
    return episode if hole is None else Fault(path, "unwritten_data", hole)


def open_all(
    root: Path, action: ActionSpace, lab: LabOptions | None
) -> tuple[list[EpisodeFile], list[Fault]]:
    """Every episode below `root` that can be read, sorted by path, and a fault for every other file."""
    opened = [open_one(path, action, lab) for path in find_episodes(root)]
    return [e for e in opened if isinstance(e, EpisodeFile)], [f for f in opened if isinstance(f, Fault)]


def kind_of(path: Path, sentence: str) -> str:
    """Under which code of `ADVICE` a refused file falls, from its content (the sentence only for the text)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_LFS_HEAD))
    except OSError:
        return "unreadable"
    if not head:
        return "empty_file"
    if head == _LFS_HEAD:
        return "lfs_pointer"
    if not h5py.is_hdf5(path):
        return "not_hdf5"
    try:
        with h5py.File(path, "r") as file:
            kind = _kind_of_content(file)
    except (OSError, RuntimeError, KeyError, ValueError):
        return "truncated"
    if kind is None and "instruction" in sentence:
        return "missing_instruction"
    return kind or "unusable"


def _kind_of_content(file: h5py.File) -> str | None:
    frames = next((file[key] for key in _FRAME_KEYS if isinstance(file.get(key), h5py.Dataset)), None)
    actions = file.get("actions")
    if frames is None or not isinstance(actions, h5py.Dataset):
        return None
    if frames.ndim == 4 and (frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape):
        return "wrong_shape"
    if actions.ndim != 2 or actions.dtype.kind != "f" or len(actions) != len(frames):
        return "wrong_shape"
    return "non_finite_actions" if not np.isfinite(actions[()]).all() else None


def _unwritten(path: Path) -> str | None:
    """A sentence if some dataset has places that were never written; HDF5 reads them as zeros without a word."""
    holes: list[str] = []

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(node, h5py.Dataset) or not node.shape or 0 in node.shape:
            return
        if node.chunks is None:
            if node.id.get_storage_size() == 0 and not node.external:
                holes.append(f"{name} (nothing written)")
            return
        wanted = math.prod(-(-side // chunk) for side, chunk in zip(node.shape, node.chunks, strict=True))
        stored = node.id.get_num_chunks()
        if stored < wanted:
            holes.append(f"{name} ({stored} of {wanted} chunks)")

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return f"{path}: not everything was written: {', '.join(holes)}." if holes else None


# ---------------------------------------------------------------- findings


def unusable_files(facts: Facts) -> Iterator[Finding]:
    """Can every file be read, with frames, finite actions, a sentence, and the axes of data.action?"""
    for code, indices in by_value([fault.code for fault in facts.faults]).items():
        group = [facts.faults[index] for index in indices]
        total = len({fault.path for fault in facts.faults} | {episode.path for episode in facts.episodes})
        reason = group[0].sentence.rstrip(".")
        if len(group) > 1:
            reason = f"{len(group)} of {total} files cannot be used, the first: {reason}"
        yield Finding(code, ERROR, reason, ADVICE[code], tuple(fault.path for fault in group), spoils=True)


def double_ids(facts: Facts) -> Iterator[Finding]:
    """Does every episode have a name of its own?"""
    for name, indices in by_value([episode.id for episode in facts.episodes]).items():
        if len(indices) > 1:
            yield Finding(
                "double_id", ERROR, f"{len(indices)} files are all episode {name!r}",
                "keep one of them, or give the others another id", facts.paths(indices[1:]), spoils=True,
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
    said = [(remark, i) for i, episode in enumerate(facts.episodes) for remark in episode.meta.remarks]
    for remark, positions in by_value([remark for remark, _ in said]).items():
        yield from some(
            facts, [said[position][1] for position in positions], "reader_remark", WARNING, f"have a remark: {remark}",
            "see that this is meant so; data.lab says how the files are read",
        )  # fmt: skip


def assumed_meaning(facts: Facts) -> Iterator[Finding]:
    """Do the files say colour order and signs themselves, or are they assumed?"""
    assumed = [i for i, episode in enumerate(facts.episodes) if not isinstance(episode.layout, OwnLayout)]
    if assumed:
        yield Finding(
            "confirm_meaning", NOTE,
            f"{len(assumed)} files state neither colour order nor the sign of rotation; data.lab declares them",
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
