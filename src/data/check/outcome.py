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
        frames, sampled: the options that bound how much is decoded.
        pair_frames: frames decoded besides the samples, for the page's pairs of pictures.
        questions: every question asked, with its findings.
    """

    facts: Facts
    findings: list[Finding]
    figures: dict[str, Any]
    stages: dict[str, float]
    split_rule: str
    out: Path
    frames: int
    sampled: int | None
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
    def decoded(self) -> str:
        """How much of the pictures was looked at, and why not more, as a sentence or two."""
        steps = Counter(len(sample.steps) for sample in self.facts.samples.values())
        shown = [f"{n} each of {count} episodes" for n, count in sorted(steps.items(), reverse=True)]
        total, sampled = int(self.facts.lengths.sum()), "null" if self.sampled is None else self.sampled
        said = f"{self.frames_decoded} of {total} frames were decoded ({', '.join(shown) or 'none'})"
        if self.frames_decoded < total:
            said += f", as frames={self.frames} and sampled={sampled} bound it: decoding is what takes time"
        if self.pair_frames:
            said += f"; {self.pair_frames} were read for pairs of pictures"
        if self.frames_decoded < total:
            said += ". Damage in the others is not seen here"
        return f"{said}."

    def counts(self) -> dict[str, int]:
        """Severity -> number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}
