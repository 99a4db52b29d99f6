"""Owns what the check prints: what is in the folder, the findings, how much was looked at, where the page is.

In: an `Outcome`. Out: text on a rich console; plain where the output is no terminal. A usual folder fits 40 lines of
120 columns, so the advice to notes stands on the page alone.
"""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.data.check.contents import contents
from src.data.check.finding import NOTE, Finding, percent
from src.data.check.outcome import Outcome

_COLOUR = {"error": "bold red", "warning": "yellow", "note": "cyan"}
FEW_NAMES = 2
"""So many files are named on the screen."""
SENTENCES = 3
"""Files of one kind whose own reason is printed; check.json and check.html have all of them."""


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Print what is there, the findings, errors first, then how it was found out and the files written."""
    console = console or Console()
    facts, f = outcome.facts, outcome.figures
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.add_row("data", escape(str(facts.root)))
    for name, words in contents(outcome):
        table.add_row(escape(name), escape(words))
    console.print(table)
    console.print()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in outcome.findings:
        table.add_row(f"[{_COLOUR[finding.severity]}]{finding.severity}[/]", _words(finding, outcome))
    if outcome.findings:
        console.print(table)
        console.print()
    counts = outcome.counts()
    console.print(
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes. "
        f"{outcome.seconds:.1f} s: {outcome.times}"
    )
    console.print(outcome.decoded)
    blind = [
        (f"always {f['majority_class']}", f["majority_accuracy"]),
        ("a clock", f["clock_accuracy"]),
        ("a clock that has read the sentence", f["clock_accuracy_given_instruction"]),
    ]
    shown = ", ".join(f"{name} {percent(value)}" for name, value in blind if value is not None)
    if shown:
        console.print(f"Right without looking: {shown}.")
    # soft_wrap: a path that is broken over two lines cannot be clicked or copied
    console.print(f"Page, findings and data card: {escape(str(outcome.out))}/check.html", soft_wrap=True)


def _words(finding: Finding, outcome: Outcome) -> str:
    """Code, reason, files; what to do, except for notes."""
    root = outcome.facts.root
    lines = finding.lines(root, SENTENCES) if finding.headline else []
    reason = finding.headline if lines else finding.reason.replace(f"{root}/", "")
    said = f"[bold]{finding.code}[/]: {escape(reason)}"
    if finding.severity == NOTE:
        return f"{said}."
    count = len(finding.files)
    if count and not lines and not (count == 1 and finding.sentences) and count < len(outcome.facts.episodes):
        names = f": {finding.few_files(root)}" if count <= FEW_NAMES else ""
        said += escape(f" ({count} file{'s' * (count != 1)}{names})")
    said += "".join(f"\n  - {escape(line)}" for line in lines)
    return f"{said}{chr(10) + '  ' if lines else ' '}→ [italic]{escape(finding.advice)}[/]."
