"""Owns what a check says and what it looks at: `Finding` (one sentence, one remedy, the files) and `Facts`.

In: opened episodes, what could not be opened, samples of their frames, the split. Out: findings, in order of severity.
A checker is a function Facts -> findings; its docstring's first line is the question shown on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import EpisodeFile

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
FILES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing a person should know about the data.

    Args:
        code: stable name, e.g. "lfs_pointer".
        severity: error (training on this is wrong), warning (it works, but may mislead), note (worth knowing).
        reason: what was found, with figures, as one sentence.
        advice: what to do about it.
        files: every file it concerns; none means the whole data set.
        spoils: whether the files named cannot be trained on and can be left out one by one.
        sentences: why each of `files`, in their order, where each has a reason of its own (key, found, expected, fix);
            else none.
        headline: `reason` without the example in it, for who lists the sentences; none where `reason` has no example.
    """

    code: str
    severity: str
    reason: str
    advice: str
    files: tuple[Path, ...] = ()
    spoils: bool = False
    sentences: tuple[str, ...] = ()
    headline: str = ""

    def __post_init__(self) -> None:
        if self.sentences and len(self.sentences) != len(self.files):
            raise ValueError(f"{self.code}: {len(self.sentences)} sentences for {len(self.files)} files")
        if self.severity not in SEVERITIES:
            raise ValueError(f"{self.code}: severity {self.severity!r} is none of {SEVERITIES}")

    def to_dict(self, root: Path) -> dict[str, Any]:
        """Plain values; paths relative to `root`, all of them. `each` has a sentence per file, where they differ."""
        return {
            "code": self.code,
            "severity": self.severity,
            "reason": self.reason,
            "advice": self.advice,
            "file_count": len(self.files),
            "files": [relative(path, root) for path in self.files],
            "each": [
                {"file": relative(path, root), "sentence": sentence}
                for path, sentence in zip(self.files, self.sentences, strict=bool(self.sentences))
            ],
        }

    def by_file(self) -> dict[Path, str]:
        """File -> why it is named here: its own sentence, or the reason and the advice that hold for all of them."""
        common = f"{self.reason}; {self.advice}."
        return dict(zip(self.files, self.sentences or [common] * len(self.files), strict=True))

    def lines(self, root: Path, most: int | None = None) -> list[str]:
        """The first `most` sentences with paths relative to `root`, and how many more; none for a single file."""
        if len(self.sentences) < 2:
            return []
        shown = [sentence.replace(f"{root}/", "") for sentence in self.sentences[:most]]
        rest = len(self.sentences) - len(shown)
        return [
            *shown,
            *([f"… and {rest} more files, all of them in check.json and check.html"] if rest else []),
        ]

    def few_files(self, root: Path, most: int = FILES_SHOWN) -> str:
        """The first files and how many more there are, for a line of text."""
        return few([relative(path, root) for path in self.files], most)


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used: which code it falls under, and the reader's own sentence."""

    path: Path
    code: str
    sentence: str


@dataclass(frozen=True)
class Sample:
    """What was decoded of one episode.

    Attributes:
        steps: (k,) the sampled steps, ascending, the first one being 0.
        tiny: (k, 16, 16, 3) uint8 RGB, each sampled frame averaged down.
        digests: (k,) SHA-256 of each sampled frame at full size.
        flat: the sampled steps whose frame is one single colour.
        jpeg: the first frame as a JPEG of at most 240 px.
        first: (32, 32, 3) uint8 RGB, the first frame as the split compares it.
    """

    steps: tuple[int, ...]
    tiny: np.ndarray
    digests: tuple[str, ...]
    flat: tuple[int, ...]
    jpeg: bytes
    first: np.ndarray

    def same_frames(self, other: Sample) -> bool:
        """Whether all frames that both have are equal to the bit; the first one is always among them."""
        theirs = dict(zip(other.steps, other.digests, strict=True))
        return all(theirs.get(s, d) == d for s, d in zip(self.steps, self.digests, strict=True))


@dataclass(eq=False)  # compared and hashed as an object, so that what is costly to measure can be kept
class Facts:
    """All that the checkers look at.

    Attributes:
        root: the data folder.
        space: the action space that training would use.
        episodes: those that can be read, sorted by path.
        faults: the files that cannot.
        samples: path -> decoded frames; empty in the quick check.
        worded_by: path -> where the episode's sentences come from, "the episode file" or the YAML of a map; empty in
            the quick check.
        silent: the files that hold no sentence of their own, those among `faults` included.
        split: episode id -> "train", "val" or "test"; empty where no split is known.
        split_fault: why the stored split cannot be used, if so.
        allow_mixed_sizes: whether training would accept frames of several sizes.
    """

    root: Path
    space: ActionSpace
    episodes: list[EpisodeFile]
    faults: list[Fault] = field(default_factory=list)
    samples: dict[Path, Sample] = field(default_factory=dict)
    worded_by: dict[Path, str] = field(default_factory=dict)
    silent: list[Path] = field(default_factory=list)
    split: dict[str, str] = field(default_factory=dict)
    split_fault: str | None = None
    allow_mixed_sizes: bool = False

    @cached_property
    def actions(self) -> np.ndarray:
        """(n, A) float64, the actions of all readable episodes in order."""
        if not self.episodes:
            return np.zeros((0, self.space.dim))
        return np.concatenate([episode.actions for episode in self.episodes]).astype(np.float64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) int64, steps of each episode."""
        return np.array([episode.length for episode in self.episodes], np.int64)

    @cached_property
    def owners(self) -> np.ndarray:
        """(n,) int64, the episode that each row of `actions` belongs to."""
        return np.repeat(np.arange(len(self.episodes)), self.lengths)

    @cached_property
    def steps(self) -> np.ndarray:
        """(n,) int64, the step t of each row of `actions`."""
        return np.arange(len(self.actions)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    @cached_property
    def classes(self) -> np.ndarray | None:
        """(n,) int64, the direction class of each row of `actions`; None where the space names no classes."""
        return self.space.classify(self.actions) if self.space.classes else None

    def rows(self, values: np.ndarray) -> list[np.ndarray]:
        """Split (n, …) values of all steps into one array per episode."""
        return np.split(values, np.cumsum(self.lengths)[:-1]) if self.episodes else []

    def paths(self, indices: Iterable[int]) -> tuple[Path, ...]:
        """The files of these episodes."""
        return tuple(self.episodes[int(index)].path for index in indices)


Checker = Callable[[Facts], Iterator[Finding]]


def run_checkers(facts: Facts, checkers: Sequence[Checker]) -> list[Finding]:
    """Every finding of these checkers, errors first, otherwise in the order of the checkers."""
    found = [finding for checker in checkers for finding in checker(facts)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def question(checker: Checker) -> str:
    """The first line of a checker's docstring."""
    return (checker.__doc__ or checker.__name__).strip().splitlines()[0]


def some(
    facts: Facts, bad: Sequence[int], code: str, severity: str, reason: str, advice: str, spoils: bool = False
) -> Iterator[Finding]:
    """A finding about some of the episodes, "<n> of <all> episodes <reason>", with their files; none for no `bad`."""
    if bad:
        words = f"{len(bad)} of {len(facts.episodes)} episodes {reason}"
        yield Finding(code, severity, words, advice, facts.paths(bad), spoils)


def refuse(findings: Iterable[Finding], root: Path) -> None:
    """Raise a ProjectError that names the first error and counts the others; return if there is none."""
    errors = [finding for finding in findings if finding.severity == ERROR]
    if not errors:
        return
    first = errors[0]
    files = f" ({first.few_files(root)})" if first.files else ""
    more = (
        f" {len(errors) - 1} more kinds of error: {', '.join(e.code for e in errors[1:])}."
        if errors[1:]
        else ""
    )
    raise ProjectError(f"data.root={root}: {first.reason}{files}; {first.advice}.{more}")


def relative(path: Path, root: Path) -> str:
    """The path below `root` where it lies there, else all of it."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def few(names: Sequence[str], most: int = FILES_SHOWN) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def percent(share: float) -> str:
    """A share as "88.8 %"."""
    return f"{100 * share:.1f} %"


def by_value(values: Sequence[Any]) -> Mapping[Any, list[int]]:
    """Value -> the positions where it stands, in order of first appearance."""
    found: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        found.setdefault(value, []).append(index)
    return found
