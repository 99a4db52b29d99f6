"""Owns what the check prints: a table of findings, the figures in one line each, where the page is.

In: an `Outcome`. Out: text on a rich console; plain where the output is no terminal.
"""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.data.check.finding import percent
from src.data.check.outcome import Outcome

_COLOUR = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Print the findings, errors first, then the figures and the files written."""
    console = console or Console()
    facts, f = outcome.facts, outcome.figures
    table = Table(show_lines=True)
    for name in ("", "finding", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in outcome.findings:
        files = ""
        if finding.files:
            files = f"\n[dim]{len(finding.files)} file(s): {escape(finding.few_files(facts.root, 2))}[/]"
        table.add_row(
            f"[{_COLOUR[finding.severity]}]{finding.severity}[/]",
            f"[bold]{finding.code}[/]\n{escape(finding.reason)}{files}",
            escape(finding.advice),
        )
    if outcome.findings:
        console.print(table)
    counts = outcome.counts()
    total = f["episodes"] + len({fault.path for fault in facts.faults})
    console.print(
        f"{total} files: {f['episodes']} episodes, {f['frames']} frames; {counts['error']} errors, "
        f"{counts['warning']} warnings, {counts['note']} notes, {outcome.seconds:.1f} s."
    )
    console.print(outcome.decoded)
    console.print(f"Where the time went: {outcome.times}")
    blind = [
        (f"always {f['majority_class']}", f["majority_accuracy"]),
        ("a clock", f["clock_accuracy"]),
        ("a clock that has read the sentence", f["clock_accuracy_given_instruction"]),
    ]
    shown = ", ".join(f"{name} {percent(value)}" for name, value in blind if value is not None)
    if shown:
        console.print(f"Right without looking (class of each action): {shown}.")
    # soft_wrap: a path that is broken over two lines cannot be clicked or copied
    console.print(f"Page, findings and data card: {escape(str(outcome.out))}/check.html", soft_wrap=True)
