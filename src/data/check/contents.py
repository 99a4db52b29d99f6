"""Owns the table of contents of a data folder: what is in it, in one line per fact, before anything is judged.

In: an `Outcome`. Out: (name, words) rows for screen, page and check.json.
"""

from collections.abc import Mapping

from src.data.check.finding import few
from src.data.check.outcome import Outcome
from src.data.split_rules import SPLITS

SHOWN = 8
"""Values counted one by one in a row; the others are only numbered."""


def contents(outcome: Outcome) -> list[tuple[str, str]]:
    """Name -> words, in the order in which a person asks: files, layouts, episodes, pictures, tasks, actions, split."""
    facts, f = outcome.facts, outcome.figures
    lengths, bad = facts.lengths, len({fault.path for fault in facts.faults})
    files = f"{f['episodes'] + bad} files: {f['episodes']} episodes, {bad} that cannot be used"
    rows = [
        ("found", files),
        ("layouts", counted({n.partition(" (")[0]: c for n, c in f["layouts"].items()})),
    ]
    if not facts.episodes:
        return rows[:1]
    steps = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
    actions = facts.actions
    rows += [
        (
            "frames",
            f"{f['frames']}, {steps} per episode, {f['seconds_driven'] / 60:.1f} minutes at "
            f"{facts.space.control_period:g} s",
        ),
        ("frame sizes (W x H)", counted(f["frame_sizes"])),
        (
            "scenarios",
            f"{len(f['scenarios'])} in {f['groups']} groups: {counted(f['scenarios'])}",
        ),
        (
            "instructions",
            f"{f['instructions']} different; from {counted(f['worded_by'])}; {f['files_without_sentence']} files "
            "hold none",
        ),
        *(
            (
                f"{name} ({unit})",
                f"{actions[:, i].min():.3g} to {actions[:, i].max():.3g}, mean {actions[:, i].mean():.3g}; allowed "
                f"{facts.space.low[i]:g} to {facts.space.high[i]:g}",
            )
            for i, (name, unit) in enumerate(zip(facts.space.names, facts.space.units, strict=True))
        ),
        (
            "split",
            ", ".join(f"{name} {f['splits'][name]}" for name in SPLITS if name in f["splits"]) or "none",
        ),
    ]
    return rows


def counted(table: Mapping[str, int]) -> str:
    """ "<name> <count>, …", the commonest first."""
    ordered = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    return few([f"{name} ({count})" for name, count in ordered], SHOWN) or "none"
