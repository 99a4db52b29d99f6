"""Owns findings about the split: does training see what validation and test are to judge?

In: `Facts` with a split. Out: findings. The split is the one the config would use: the stored file if there is one,
else what would be made now. Nothing is written into the data folder, not even fresh time stamps into the stored file.
"""

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.core.errors import ProjectError
from src.data.check.files import duplicates
from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Finding, Sample, by_value
from src.data.episode import EpisodeFile
from src.data.groups import group_episodes
from src.data.manifest import read_manifest
from src.data.split import SplitMethod

NEAR = 1.5
"""Mean difference of two 16x16 first frames, in grey levels of 255, below which they show the same layout: sensor
noise averages out to well below one level, another place or object moves the mean by several."""
_SESSION = re.compile(r"(?:^|_)(\d{8})_\d{6}")


def planned_split(
    episodes: Sequence[EpisodeFile],
    rule: SplitMethod,
    root: Path,
    samples: Mapping[Path, Sample] | None = None,
    left_out: Collection[Path] = (),
) -> tuple[dict[str, str], str | None]:
    """Episode id -> split name as a training would use it, and why the stored split cannot be used, if so.

    Where there is none, or it does not fit, the answer is the split that would be made now. First frames that are
    known from `samples` are not decoded again (0.08 s each at 720p). `left_out` are the files that training would go
    without (data.on_bad_files=skip).
    """
    trouble = None
    if rule.file(root).exists():
        try:
            return _stored(episodes, rule, root, left_out), None
        except ProjectError as error:
            trouble = str(error)
    try:
        known = [_with_first_frame(e, (samples or {}).get(e.path)) for e in episodes]
        groups = group_episodes(known, rule.near_duplicates).groups
        parts = rule.parts([(e.id, groups[e.id], e.scenario) for e in episodes])
        return {episode: rule.role(part) for episode, part in parts.items()}, trouble
    except ProjectError as error:
        return {}, trouble or str(error)


def _stored(
    episodes: Sequence[EpisodeFile], rule: SplitMethod, root: Path, left_out: Collection[Path]
) -> dict[str, str]:
    """Episode id -> split of the stored file, as src/data/split.py has it; a ProjectError if it cannot be used.

    A copy is read: reading notes new time stamps of unchanged episodes in the file that it reads.
    """
    path = rule.file(root)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / path.name
        try:
            shutil.copyfile(path, twin)
            parts = read_manifest(twin, root, episodes, rule, left_out).parts
        except OSError as error:
            raise ProjectError(
                f"{path} cannot be read ({error.strerror}); change its permissions."
            ) from error
        except ProjectError as error:
            raise ProjectError(str(error).replace(str(twin), str(path))) from error
    split = {episode: rule.role(part) for episode, part in parts.items()}
    wanted = {name for episode in episodes for name in rule.expected(episode.scenario)}
    if wanted - set(split.values()):
        raise ProjectError(
            f"{path}: no episode that can be used is in {' and '.join(sorted(wanted - set(split.values())))}; restore "
            "the episodes, or delete the file to split anew."
        )
    return split


class _Known(EpisodeFile):
    """An episode whose first frame is in memory, at the size that groups.py compares."""

    first: np.ndarray

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(1, 32, 32, 3) uint8 RGB for 0:1, else what the file holds."""
        return self.first[None] if (start, stop) == (0, 1) else super().frames(start, stop)


def _with_first_frame(episode: EpisodeFile, sample: Sample | None) -> EpisodeFile:
    if sample is None:
        return episode
    known = _Known.__new__(_Known)
    known.__dict__.update(episode.__dict__, first=sample.first)
    return known


def unusable_split(facts: Facts) -> Iterator[Finding]:
    """Can the split that the config asks for be used, and is every part of it there?"""
    if facts.split_fault is not None:
        yield Finding(
            "unusable_split", ERROR, facts.split_fault.rstrip("."),
            "training will refuse this folder until it is settled",
        )  # fmt: skip


def duplicates_across_splits(facts: Facts) -> Iterator[Finding]:
    """Is no recording in two splits?"""
    yield from _cut(
        facts, {facts.episodes[members[0]].id: members for members in duplicates(facts)},
        "duplicate_across_splits", ERROR, "{n} recordings stand in {splits}",
        "delete the copies, then delete the split file to split anew",
    )  # fmt: skip


def groups_across_splits(facts: Facts) -> Iterator[Finding]:
    """Does no split cut a group of near-duplicates?"""
    yield from _cut(
        facts, by_value([e.group for e in facts.episodes]), "group_across_splits", ERROR,
        "{n} groups of near-duplicates stand in {splits}",
        "delete the split file to split anew; a new split never cuts a group",
    )  # fmt: skip


def same_view_across_splits(facts: Facts) -> Iterator[Finding]:
    """Does no first frame of validation or test also stand in training?"""
    known = [i for i, e in enumerate(facts.episodes) if e.path in facts.samples and e.id in facts.split]
    train = [i for i in known if facts.split[facts.episodes[i].id] == "train"]
    held = [i for i in known if facts.split[facts.episodes[i].id] != "train"]
    copies = {i for group in duplicates(facts) for i in group}  # they have a finding of their own
    seen: list[int] = []
    if train:
        views = np.stack([_view(facts, i) for i in train])
        apart = (np.abs(views - _view(facts, i)).mean(axis=(1, 2, 3)).min() for i in held)
        seen = [i for i, least in zip(held, apart, strict=True) if least < NEAR and i not in copies]
    if seen:
        share = len(seen) / len(held)
        yield Finding(
            "same_view_across_splits", WARNING if share > 0.1 else NOTE,
            f"{len(seen)} of {len(held)} episodes held out begin with a view that training has, too (first frames of "
            f"16x16 px differ by less than {NEAR:g} levels)",
            "give near-duplicates one group (data.lab.group_by=session or scenario) and split anew, or test elsewhere",
            facts.paths(seen),
        )  # fmt: skip


def _view(facts: Facts, index: int) -> np.ndarray:
    """(16, 16, 3) int16, the first frame of an episode."""
    return facts.samples[facts.episodes[index].path].tiny[0].astype(np.int16)


def sessions_across_splits(facts: Facts) -> Iterator[Finding]:
    """Are recordings of the same day and scenario kept together?"""
    days = [(_SESSION.search(e.id), e) for e in facts.episodes]
    keys = [f"{found.group(1)} {e.scenario}" if found else e.id for found, e in days]
    yield from _cut(
        facts, by_value(keys), "session_across_splits", NOTE,
        "{n} recording sessions (the same day and scenario) lie in {splits}",
        "data.lab.group_by=session keeps them together; light and layout of a day are then truly held out",
    )  # fmt: skip


def _cut(
    facts: Facts, groups: Mapping[str, Sequence[int]], code: str, severity: str, reason: str, advice: str
) -> Iterator[Finding]:
    """A finding about the groups of episodes that the split cuts, with all their files; none where it cuts none.

    `reason` has places for {n}, how many are cut, and {splits}, where they are, the first one by name.
    """
    cut = {name: members for name, members in groups.items() if len(_names(facts, members)) > 1}
    if cut:
        name, members = next(iter(cut.items()))
        where = f"several splits, e.g. {name} in {' and '.join(sorted(_names(facts, members)))}"
        files = facts.paths(i for members in cut.values() for i in members)
        yield Finding(code, severity, reason.format(n=len(cut), splits=where), advice, files)


def _names(facts: Facts, indices: Sequence[int]) -> set[str]:
    return {facts.split[facts.episodes[i].id] for i in indices if facts.episodes[i].id in facts.split}
