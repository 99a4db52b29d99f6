"""Owns dataset_card.md: what a reader of a paper or a colleague needs to know about the data, made from the check.

In: an `Outcome`. Out: Markdown. Nothing is in it that the check did not measure; what only a person knows is asked for.
"""

from src.data.check.contents import counted
from src.data.check.finding import percent
from src.data.check.outcome import Outcome


def card(outcome: Outcome) -> str:
    """The whole card."""
    facts, f = outcome.facts, outcome.figures
    space = facts.space
    counts = outcome.counts()
    sizes = sorted({f"{e.frame_shape[0]}×{e.frame_shape[1]}" for e in facts.episodes})
    lines = [
        f"# Data set: {cell(facts.root.name)}",
        "",
        f"Made by `python -m src.check_data`: {counts['error']} errors, {counts['warning']} warnings, "
        f"{counts['note']} notes. {outcome.decoded}",
        "",
        "| | |",
        "|---|---|",
        f"| episodes | {f['episodes']} ({f['files_unusable']} further files unusable) |",
        f"| frames | {f['frames']}, {f['seconds_driven'] / 60:.1f} minutes at {space.control_period:g} s |",
        f"| frame sizes (H×W) | {', '.join(sizes)} |",
        f"| layouts | {', '.join(sorted({e.layout.name for e in facts.episodes}))} |",
        f"| groups | {f['groups']} |",
        f"| sentences | {f['instructions']}, from {cell(counted(f['worded_by']))}; {f['files_without_sentence']} files "
        "hold none |",
        f"| split | {cell(outcome.split_rule)}: {_counts(f['splits'])} |",
        "",
        "## Actions",
        "",
        "| axis | unit | lowest | highest | mean | limits |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for i, name in enumerate(space.names):
        column = facts.actions[:, i]
        seen = (
            f"{column.min():.3g} | {column.max():.3g} | {column.mean():.3g}" if len(column) else "– | – | –"
        )
        lines.append(f"| {name} | {space.units[i]} | {seen} | {space.low[i]:g} … {space.high[i]:g} |")
    if f["class_shares"]:
        lines += ["", "| class | share |", "|---|---:|"]
        lines += [f"| {name} | {percent(share)} |" for name, share in f["class_shares"].items()]
    lines += ["", "## What needs no camera", "", "| guess | right |", "|---|---:|"]
    for words, key in (
        (f"always {f['majority_class']}", "majority_accuracy"),
        ("the step number alone", "clock_accuracy"),
        ("step number and scenario", "clock_accuracy_given_scenario"),
        ("step number and sentence", "clock_accuracy_given_instruction"),
    ):
        lines.append(f"| {words} | {'–' if f[key] is None else percent(f[key])} |")
    read = f["instruction_from_first_frame"]
    if read is not None:
        lines += [
            "",
            f"The instruction can be guessed from the first frame in {percent(read['accuracy'])} of the episodes "
            f"(by chance {percent(read['chance'])}, p = {read['p']:.3f}).",
        ]
    lines += ["", "## Scenarios", "", "| scenario | episodes |", "|---|---:|"]
    lines += [f"| {cell(name)} | {n} |" for name, n in sorted(f["scenarios"].items())]
    lines += ["", "## Findings", ""]
    lines += [
        line
        for x in outcome.findings
        for line in (
            f"- **{x.severity}** `{x.code}`: {cell(x.headline or x.reason)}. "
            f"{cell(x.advice[0].upper() + x.advice[1:])}.",
            *(f"  - {cell(said)}" for said in (x.lines(facts.root) if x.headline else ())),
        )
    ] or ["None."]
    lines += [
        "",
        "## To be filled in by a person",
        "",
        "- Robot, camera and its mounting:",
        "- Place, light, date of recording:",
        "- Who drove, and after which instructions:",
        "- Colour order and signs confirmed on the page (by, date):",
        "- Licence, and whether people can be recognised in the pictures:",
    ]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """One line that breaks no table: line breaks and bars are taken out."""
    return " ".join(str(value).replace("|", "\\|").split())


def _counts(table: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(table.items())) or "none"
