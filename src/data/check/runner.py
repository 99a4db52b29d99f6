"""Owns the check as a whole: read every file, ask every question, write the page, the JSON and the data card.

In: the data module that a training would use (never set up here). Out: `Outcome`, and three files in a folder. Nothing
else is written: no split, no cache.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, atomic_write_text
from src.data.check import actions, confounding, files, instructions, leakage
from src.data.check.contents import contents
from src.data.check.finding import (
    SEVERITIES,
    Checker,
    Facts,
    Fault,
    question,
    run_checkers,
)  # fmt: skip
from src.data.check.look import SECONDS, look_at_all, look_whole, seconds_to_decode, unfinished
from src.data.check.outcome import Outcome
from src.data.check.quick import ACTION_CHECKS, FILE_CHECKS, SPLIT_CHECKS
from src.data.datamodule import EpisodeDataModule
from src.data.scan import find_episodes

SCHEMA = "mobile-vla-check/2"
AUTO, EVERY = "auto", "all"
FEW_FRAMES = 2
"""Decoded of an episode where a folder is too large to decode all of it: the first and the last."""
PICTURE_CHECKS: tuple[Checker, ...] = (files.blank_frames, files.frozen_camera, files.assumed_meaning)
WORD_CHECKS: tuple[Checker, ...] = (
    instructions.sentence_sources,
    instructions.constant_instruction,
    instructions.one_phrasing,
    instructions.leaking_words,
    instructions.instruction_gives_actions,
    confounding.instruction_in_picture,
    confounding.path_from_scenario,
)
VIEW_CHECKS: tuple[Checker, ...] = (leakage.same_view_across_splits,)
ALL = (*FILE_CHECKS, *PICTURE_CHECKS, *ACTION_CHECKS, *WORD_CHECKS, *SPLIT_CHECKS, *VIEW_CHECKS)
"""Every question, in the order of the page."""


def check(
    data: EpisodeDataModule,
    out: str | None = None,
    frames: int | str = "auto",
    sampled: int | None = 250,
    workers: int = 0,
    progress: bool = True,
) -> Outcome:
    """Check the folder of `data` and write check.html, check.json and dataset_card.md.

    Args:
        data: as for a training; its root, action, lab, instruction, split and allow_mixed_sizes are used.
        out: folder for the three files; None takes <data.root>/check.
        frames: decoded of an episode, evenly spread; 1 sees the first frame only. "all": every frame of every episode.
            "auto": every frame if that takes about 20 s or less, else 2.
        sampled: of so many episodes `frames` are decoded, of all others the first frame only; None: of all. Nothing
            where all frames are decoded.
        workers: processes that read; 0 takes one per core.
        progress: show a progress bar on a terminal.

    Raises:
        ProjectError: the folder does not exist or holds no episode, or `out` cannot be written.
    """
    from src.data.check.card import card
    from src.data.check.page import page
    from src.data.check.views import views

    if frames not in (AUTO, EVERY) and not (isinstance(frames, int) and frames >= 1):
        raise ProjectError(
            f"frames is {frames}; expected 1 or more frames to decode of every episode, or {AUTO} or {EVERY}."
        )
    if sampled is not None and sampled < 0:
        raise ProjectError(f"sampled is {sampled}; expected 0 or more episodes, or null for all of them.")
    if workers < 0:
        raise ProjectError(f"workers is {workers}; expected 0 (one per core) or more.")
    clock = _Clock()
    facts = read(data, frames, sampled, workers, progress)
    clock.stage("reading")
    plan_split(facts, data)
    clock.stage("split")
    shown = views(facts)
    clock.stage("pictures")
    asked = [(question(checker), run_checkers(facts, [checker])) for checker in ALL]
    findings = [finding for _, found in asked for finding in found]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    numbers = figures(facts)
    clock.stage("questions")
    outcome = Outcome(
        facts=facts,
        findings=findings,
        figures=numbers,
        stages=clock.stages,
        split_rule=str(data.split_rule),
        out=Path(out) if out is not None else data.root / "check",
        frames=frames,
        sampled=sampled,
        whole_seconds=seconds_to_decode(
            list(zip(facts.episodes, facts.samples.values(), strict=True)), workers
        ),
        pair_frames=2 * len(shown.pairs),
        questions=asked,
    )
    atomic_write_text(outcome.out / "check.html", page(outcome, shown))
    atomic_write_text(outcome.out / "dataset_card.md", card(outcome))
    atomic_write_json(outcome.out / "check.json", to_dict(outcome))
    return outcome


class _Clock:
    """Wall clock by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._begun = time.monotonic()

    def stage(self, name: str) -> None:
        """What passed since the last call, or since the beginning, was this stage."""
        now = time.monotonic()
        self.stages[name], self._begun = now - self._begun, now


def read(
    data: EpisodeDataModule, frames: int | str, sampled: int | None, workers: int, progress: bool
) -> Facts:
    """Look at every file of the data module's folder, with the sentences that its config gives. No split yet.

    All files are opened and sampled first; with `frames` "auto" their sizes decide whether all is decoded.
    """
    paths = find_episodes(data.root)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), _Speed(),
        TimeRemainingColumn(),
    )  # fmt: skip
    hidden = not (progress and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        line = bar.add_task("reading", total=len(paths))
        how = data.action_space, data.lab
        number = {EVERY: 1, AUTO: FEW_FRAMES}.get(str(frames), frames)
        looked = look_at_all(paths, *how, int(number), workers, lambda: bar.advance(line), sampled)
        if frames == EVERY or (frames == AUTO and seconds_to_decode(looked, workers) <= SECONDS):
            bar.reset(line, description="decoding", total=len(unfinished(looked)))
            looked = look_whole(looked, *how, workers, lambda: bar.advance(line))
    facts = Facts(data.root, data.action_space, [], allow_mixed_sizes=data.allow_mixed_sizes)
    for found in looked:
        if isinstance(found, Fault):
            facts.faults.append(found)
            continue
        episode, sample = found
        if not episode.instructions:
            facts.silent.append(episode.path)
        try:
            facts.episodes.append(episode.retold(tuple(data.instruction.wordings(episode))))
            facts.samples[episode.path] = sample
            facts.worded_by[episode.path] = instructions.source_of(episode, data.instruction)
        except ProjectError as error:
            facts.faults.append(Fault(episode.path, "missing_instruction", str(error)))
    return facts


class _Speed(ProgressColumn):
    """Files per second, of the last half minute."""

    def render(self, task: Task) -> Text:
        """ "12.3/s"; nothing before there is a figure."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def plan_split(facts: Facts, data: EpisodeDataModule) -> None:
    """Find out which split a training would use, and note it in `facts`."""
    if facts.episodes:
        # of a double id, the first file
        unique = list({episode.id: episode for episode in reversed(facts.episodes)}.values())
        facts.split, facts.split_fault = leakage.planned_split(
            unique, data.split_rule, data.root, facts.samples,
            [fault.path for fault in facts.faults] if data.on_bad_files == "skip" else (),
        )  # fmt: skip


def figures(facts: Facts) -> dict[str, Any]:
    """The numbers behind the findings; what cannot be computed is None."""
    best = actions.majority(facts)
    path = confounding.path_accuracy(facts)
    read = confounding.measure(facts)
    return {
        "episodes": len(facts.episodes),
        "files_unusable": len(facts.faults),
        "frames": int(facts.lengths.sum()),
        "seconds_driven": float(sum(e.length * e.control_period for e in facts.episodes)),
        "scenarios": dict(Counter(e.scenario for e in facts.episodes)),
        "groups": len({e.group for e in facts.episodes}),
        "files_without_sentence": len(facts.silent),
        "worded_by": dict(Counter(facts.worded_by.values())),
        "layouts": dict(Counter(e.layout.name for e in facts.episodes)),
        "frame_sizes": dict(Counter(f"{e.frame_shape[1]}x{e.frame_shape[0]}" for e in facts.episodes)),
        "instructions": len({text for e in facts.episodes for text in e.instructions}),
        "splits": dict(Counter(facts.split.values())),
        "class_shares": actions.class_shares(facts),
        "majority_class": best[0] if best else None,
        "majority_accuracy": best[1] if best else None,
        "clock_accuracy": actions.clock_accuracy(facts),
        "clock_accuracy_given_scenario": actions.clock_accuracy(facts, [e.scenario for e in facts.episodes]),
        "clock_accuracy_given_instruction": instructions.reader_accuracy(facts),
        "path_accuracy_given_scenario": path[0] if path else None,
        "path_accuracy_majority": path[1] if path else None,
        "instruction_from_first_frame": None if read is None else _reading(read.instruction),
        "words_from_first_frame": None if read is None else [_reading(r) for r in read.words[:10]],
    }


def _reading(reading: confounding.Reading) -> dict[str, Any]:
    return {
        "what": reading.what,
        "accuracy": reading.accuracy,
        "chance": reading.chance,
        "chance_95": reading.upper,
        "p": reading.p,
    }


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """The content of check.json."""
    facts = outcome.facts
    return {
        "schema": SCHEMA,
        "root": str(facts.root),
        "files": len(facts.episodes) + len(facts.faults),
        "frames_decoded": outcome.frames_decoded,
        "frames_not_decoded": outcome.frames_unseen,
        "frames_decoded_for_pairs": outcome.pair_frames,
        "seconds": round(outcome.seconds, 2),
        "seconds_by_stage": {name: round(seconds, 2) for name, seconds in outcome.stages.items()},
        "counts": outcome.counts(),
        "split": outcome.split_rule,
        "contents": dict(contents(outcome)),
        "findings": [finding.to_dict(facts.root) for finding in outcome.findings],
        "asked": [
            {"question": text, "findings": [f.code for f in found]} for text, found in outcome.questions
        ],
        "figures": outcome.figures,
    }
