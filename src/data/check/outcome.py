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
        seconds: wall clock of the whole check.
        split_rule: the split in words.
        out: folder of check.html, check.json and dataset_card.md.
    """

    facts: Facts
    findings: list[Finding]
    figures: dict[str, Any]
    seconds: float
    split_rule: str
    out: Path
    questions: list[tuple[str, list[Finding]]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    @property
    def decoded(self) -> str:
        """How much of the pictures was looked at, as a sentence."""
        steps = Counter(len(sample.steps) for sample in self.facts.samples.values())
        shown = ", ".join(f"{n} each of {count} episodes" for n, count in sorted(steps.items(), reverse=True))
        total = int(self.facts.lengths.sum())
        return (
            f"{sum(n * count for n, count in steps.items())} of {total} frames were decoded ({shown or 'none'}); "
            "damage in the others is not seen here."
        )

    def counts(self) -> dict[str, int]:
        """Severity -> number of findings."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}
