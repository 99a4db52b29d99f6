"""Owns findings about instructions: missing, always the same, one phrasing only, giving the actions away.

In: `Facts`, whose episodes have the sentences that data.instruction gives them. Out: findings. An instruction is
missing where neither the file nor data.instruction has one; `with_sentences` sorts such episodes out.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from src.core.errors import ProjectError
from src.data.check.actions import FEW, clock_accuracy
from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Finding, by_value, percent
from src.data.episode import EpisodeFile
from src.data.instruction import InstructionSource

READER_SHARE = 0.95
_TERMS = 4
_MOTIONS = {
    "forward": "forward", "straight": "forward", "ahead": "forward", "전진": "forward", "직진": "forward",
    "backward": "backward", "back": "backward", "후진": "backward",
    "left": "left", "왼쪽": "left", "좌회전": "left", "right": "right", "오른쪽": "right", "우회전": "right",
    "stop": "stop", "정지": "stop", "turn": "turn", "rotate": "turn", "회전": "turn",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")
_KEYS = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[,>\-\[(]))[wasdqezcrt](?=[\s,>\-\])]|$)", re.IGNORECASE)
_NUMBERS = re.compile(
    r"\b(?:linear_[xy]|angular_z|v[xy]|wz)\b|\b\d+\s*(?:steps?|times)\b|\b\d+(?:\.\d+)?\s*(?:m/s|rad/s|deg|degrees)\b",
    re.IGNORECASE,
)


def with_sentences(
    episodes: Sequence[EpisodeFile], source: InstructionSource
) -> tuple[list[EpisodeFile], list[Finding]]:
    """The episodes for which `source` has a sentence, in their order, and an error finding for all others."""
    kept: list[EpisodeFile] = []
    silent: list[tuple[EpisodeFile, str]] = []
    for episode in episodes:
        try:
            source.wordings(episode)
        except ProjectError as error:
            silent.append((episode, str(error).rstrip(".")))
        else:
            kept.append(episode)
    if not silent:
        return kept, []
    reason = silent[0][1]
    if len(silent) > 1:
        reason = f"{len(silent)} of {len(episodes)} files have no instruction, the first: {reason}"
    finding = Finding(
        "missing_instruction", ERROR, reason,
        "or write it into the files, choose another map (data/instruction), or move them away",
        tuple(episode.path for episode, _ in silent), spoils=True,
    )  # fmt: skip
    return kept, [finding]


@lru_cache(maxsize=2)
def meanings(facts: Facts) -> tuple[int, ...]:
    """A number per episode: the same one where episodes share any phrasing, directly or through others."""
    parent = list(range(len(facts.episodes)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, episode in enumerate(facts.episodes):
        for text in episode.instructions:
            parent[root(index)] = root(first.setdefault(text, index))
    return tuple(root(index) for index in range(len(facts.episodes)))


def constant_instruction(facts: Facts) -> Iterator[Finding]:
    """Do instructions differ between episodes?"""
    if len(facts.episodes) < 2 or len(set(meanings(facts))) > 1:
        return
    yield Finding(
        "constant_instruction", WARNING,
        f"all {len(facts.episodes)} episodes have the same instruction: {facts.episodes[0].instructions[0]!r}",
        "record other tasks, or give each scenario its own sentence (data/instruction=lab_en with "
        "data.instruction.prefer_file=false); a policy cannot learn to listen from one sentence",
    )  # fmt: skip


def one_phrasing(facts: Facts) -> Iterator[Finding]:
    """Is each instruction phrased in more than one way?"""
    texts: dict[int, set[str]] = {}
    for meaning, episode in zip(meanings(facts), facts.episodes, strict=True):
        texts.setdefault(meaning, set()).update(episode.instructions)
    if len(facts.episodes) >= FEW and len(texts) > 1 and all(len(one) == 1 for one in texts.values()):
        yield Finding(
            "one_phrasing", NOTE, f"each of the {len(texts)} instructions exists in one wording only",
            "a policy may not understand other words; lists of phrasings and data.paraphrase=random help",
        )  # fmt: skip


def motions(text: str) -> list[str]:
    """The directions that a sentence names, in order: ["forward", "left", "stop"]."""
    return [_MOTIONS[word] for word in _WORD.findall(text.lower()) if word in _MOTIONS]


def motion_by_motion(text: str, driven: Sequence[str]) -> bool:
    """Whether a sentence spells out the drive instead of naming a goal.

    It does if it lists keys or axes with figures, names four or more directions, or names two or more that are
    exactly the drive's own, in order.

    Args:
        driven: the classes of the drive, repetitions removed, e.g. ["forward", "forward_left", "stop"].
    """
    if len(_KEYS.findall(text)) >= 3 or _NUMBERS.search(text):
        return True
    named = motions(text)
    own = [part for name in driven for part in name.replace("rotate", "turn").split("_")]
    return len(named) >= _TERMS or (len(named) >= 2 and named == own)


def leaking_words(facts: Facts) -> Iterator[Finding]:
    """Do instructions name a goal, not the single motions?"""
    names = facts.space.class_names
    drives = (
        facts.rows(facts.classes) if facts.classes is not None else [np.zeros(0, int)] * len(facts.episodes)
    )
    bad = []
    for i, (episode, labels) in enumerate(zip(facts.episodes, drives, strict=True)):
        runs = labels[np.flatnonzero(np.diff(labels, prepend=-1))] if len(labels) else labels
        driven = [names[int(label)] for label in runs]
        if any(motion_by_motion(text, driven) for text in episode.instructions):
            bad.append(i)
    if bad:
        text = next(t for t in facts.episodes[bad[0]].instructions)
        yield Finding(
            "instruction_spells_actions", WARNING,
            f"the instructions of {len(bad)} of {len(facts.episodes)} episodes spell out the motions, e.g. {text!r}",
            "say where to go, not which motions to make; otherwise a policy reads the answer and need not look",
            facts.paths(bad),
        )  # fmt: skip


def reader_accuracy(facts: Facts) -> float | None:
    """What a clock scores that has also read the sentence, but sees no picture; see `clock_accuracy`."""
    return clock_accuracy(facts, meanings(facts))


def instruction_gives_actions(facts: Facts) -> Iterator[Finding]:
    """Does the instruction leave something to see, or does it settle the whole action sequence?"""
    reader, plain = reader_accuracy(facts), clock_accuracy(facts)
    groups = [g for g in by_value(meanings(facts)).values() if len(g) > 1]
    if reader is None or plain is None or len(facts.episodes) < FEW or len(groups) < 2:
        return
    if reader >= READER_SHARE and reader > plain:
        yield Finding(
            "instruction_gives_actions", WARNING,
            f"knowing the sentence and the step number is enough for {percent(reader)} of all actions "
            f"({percent(plain)} without the sentence): no picture is needed",
            "vary the scenes under each instruction; this data cannot show whether a policy looks",
        )  # fmt: skip
