"""Owns what a check hands to those who show it: screen, page and card.

In: facts and findings, from the runner. Out: plain attributes and a sentence or two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.data.check.finding import ERROR, SEVERITIES, Facts, Finding


@dataclass
class Outcome:
    """What a check found.

    Attributes:
        facts: what was looked at.
        findings: errors first.
        figures: plain numbers behind the findings, for check.json.
        stages: stage -> seconds of wall clock, in the order in which they ran. Starting Python is not in them.
        split_rule: the split in words.
        out: folder of check.html, check.json and dataset_card.md.
        frames, sampled: the options that bound how much is decoded; frames may be "auto" or "all".
        whole_seconds: about how long decoding every frame takes here.
        pair_frames: frames decoded besides the samples, for the page's pairs of pictures.
        questions: every question asked, with its findings.
    """

    facts: Facts
    findings: list[Finding]
    figures: dict[str, Any]
    stages: dict[str, float]
    split_rule: str
    out: Path
    frames: int | str
    sampled: int | None
    whole_seconds: float = 0.0
    pair_frames: int = 0
    questions: list[tuple[str, list[Finding]]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    @property
    def seconds(self) -> float:
        """Wall clock of all stages."""
        return sum(self.stages.values())

    @property
    def times(self) -> str:
        """Where the seconds went, as a sentence."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stages.items()) + "."

    @property
    def frames_decoded(self) -> int:
        """Of all readable episodes, without those of `pair_frames`."""
        return sum(len(sample.steps) for sample in self.facts.samples.values())

    @property
    def frames_unseen(self) -> int:
        """Frames of readable episodes that were not decoded."""
        return int(self.facts.lengths.sum()) - self.frames_decoded

    @property
    def decoded(self) -> str:
        """How much of the pictures was looked at, and how all of them can be, as a sentence or two."""
        total = int(self.facts.lengths.sum())
        pairs = f"; {self.pair_frames} were read again for pairs of pictures" if self.pair_frames else ""
        if not self.frames_unseen:
            return f"All {total} frames were decoded{pairs}."
        steps = Counter(len(sample.steps) for sample in self.facts.samples.values())
        shown = ", ".join(f"{n} each of {count} episodes" for n, count in sorted(steps.items(), reverse=True))
        sampled = "null" if self.sampled is None else self.sampled
        long = self.whole_seconds
        return (
            f"{self.frames_decoded} of {total} frames were decoded ({shown}; frames={self.frames}, "
            f"sampled={sampled}){pairs}. Damage in the other {self.frames_unseen} is not seen here: frames=all "
            f"decodes them, too, in about {f'{long / 60:.0f} minutes' if long > 90 else f'{max(1, long):.0f} s'}."
        )

    def counts(self) -> dict[str, int]:
        """Severity -> number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}
