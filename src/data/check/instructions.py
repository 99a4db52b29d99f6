"""Owns findings about instructions: missing, always the same, one phrasing only, giving the actions away (motions.py).

In: `Facts`, whose episodes have the sentences that data.instruction gives them. Out: findings. An instruction is
missing where neither the file nor data.instruction has one; `with_sentences` sorts such episodes out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from src.core.errors import ProjectError
from src.data.check.actions import FEW, clock_accuracy
from src.data.check.finding import ERROR, NOTE, WARNING, Facts, Finding, by_value, percent, some
from src.data.check.motions import motion_by_motion
from src.data.episode import EpisodeFile
from src.data.instruction import InstructionSource

READER_SHARE = 0.95
FILE = "the episode file"


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
            silent.append((episode, str(error)))
        else:
            kept.append(episode)
    if not silent:
        return kept, []
    reason, headline = silent[0][1].rstrip("."), ""
    if len(silent) > 1:
        headline = f"{len(silent)} of {len(episodes)} files have no instruction"
        reason = f"{headline}, the first: {reason}"
    finding = Finding(
        "missing_instruction", ERROR, reason,
        "or write it into the files, choose another map (data/instruction), or move them away",
        tuple(episode.path for episode, _ in silent), spoils=True,
        sentences=tuple(sentence for _, sentence in silent), headline=headline,
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


def sentence_sources(facts: Facts) -> Iterator[Finding]:
    """Does each file hold its own sentence, and is that the one used?"""
    found = [facts.worded_by.get(episode.path) for episode in facts.episodes]
    silent = set(facts.silent)
    filled = [i for i, e in enumerate(facts.episodes) if e.path in silent and found[i] is not None]
    yield from some(
        facts, filled, "no_own_sentence", NOTE,
        f"hold no sentence; they get that of their scenario in {_names(found, filled)}",
        "fine where the scenario says all that was asked; else write each file's own sentence into it",
    )  # fmt: skip
    unused = [
        i for i, e in enumerate(facts.episodes)
        if e.path not in silent and found[i] not in (None, FILE)
    ]  # fmt: skip
    yield from some(
        facts, unused, "own_sentence_unused", NOTE,
        f"hold a sentence of their own that is not used; {_names(found, unused)} replaces it",
        "data.instruction.prefer_file=true takes the file's own sentence",
    )  # fmt: skip


def _names(found: Sequence[str | None], indices: Sequence[int]) -> str:
    return " and ".join(name for name, _ in Counter(str(found[i]) for i in indices).most_common())


def source_of(episode: EpisodeFile, source: InstructionSource) -> str:
    """Where the sentences of an episode, as it was opened, come from: `FILE`, or the YAML of the map."""
    return FILE if source.from_file(episode) else source.name


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


def leaking_words(facts: Facts) -> Iterator[Finding]:
    """Do instructions name a goal, not the single motions?"""
    names = facts.space.class_names
    drives = (
        facts.rows(facts.classes) if facts.classes is not None else [np.zeros(0, int)] * len(facts.episodes)
    )
    bad: dict[int, str] = {}
    for i, (episode, labels) in enumerate(zip(facts.episodes, drives, strict=True)):
        runs = labels[np.flatnonzero(np.diff(labels, prepend=-1))] if len(labels) else labels
        driven = [names[int(label)] for label in runs]
        leak = next((t for t in episode.instructions if motion_by_motion(t, driven, names)), None)
        if leak is not None:
            bad[i] = leak
    if bad:
        text = next(iter(bad.values()))
        yield Finding(
            "instruction_spells_actions", WARNING,
            f"the instructions of {len(bad)} of {len(facts.episodes)} episodes spell out the motions, e.g. {text!r}",
            "say where to go, not which motions to make; otherwise a policy reads the answer and need not look",
            facts.paths(bad),
            sentences=tuple(f"{facts.episodes[i].path}: says {leak!r}." for i, leak in bad.items()),
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
