"""Owns `show=<run>`: one run on one screen, and the command that comes next.

In: a run of the list. Out: lines on stdout: state, command, verdict, main figures, cost, where its files lie.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from src.comparison.listing.command import Entry, shown
from src.comparison.listing.screen import age, number
from src.experiment.run_record import evaluation_failed

_MAIN = ("best/val/loss", "best/epoch", "offline/error")
_FILES = (
    "report.html", "report.json", "run.json", "metrics.csv", "checkpoints", "adapter", "rollouts", "evaluations",
    "tensorboard", "wandb", "changes.diff",
)  # fmt: skip


def screen(entry: Entry) -> None:
    """Print everything that one wants to know of a run first."""
    print("\n".join(lines(entry)))


def lines(entry: Entry) -> Iterator[str]:
    """The screen, line by line."""
    yield f"run      {entry.path}"
    minutes = "" if entry.minutes is None else f", {entry.minutes:.1f} minutes"
    begun = "" if entry.started is None else f", started {age(entry.started)} ago ({entry['started']})"
    yield f"state    {entry['state']}{_stage(entry)}{minutes}{begun}"
    if entry["error"]:
        yield f"error    {str(entry['error']).strip().splitlines()[0]}"
    facts = [f"{key} {entry[key]}" for key in ("experiment", "arm", "seed") if entry[key] is not None]
    if facts:
        yield f"what     {', '.join(facts)}"
    if entry["command"]:
        yield f"command  {entry['command']}"
    if isinstance(source := entry["imported_from"], dict):
        yield f"from     {source.get('source')}"
    code = entry.section("code")
    if code.get("sha"):
        dirty = ", with uncommitted changes (changes.diff)" if code.get("dirty") else ""
        yield f"code     {str(code['sha'])[:10]}{dirty}"
    data = entry.section("data")
    if data.get("data_hash"):
        yield f"data     {data.get('root')}, hash {data['data_hash']}, split {data.get('split_hash')}"
    if entry.section("verdict").get("line"):
        yield f"verdict  {entry.section('verdict')['line']}"
    for index, name in enumerate(main_figures(entry)):
        yield f"{'figures' if index == 0 else '':<8} {name} = {number(entry.figures[name])}"
    cost = [f"{key} {number(value)}" for key, value in entry.section("cost").items() if value is not None]
    if cost:
        yield f"cost     {', '.join(cost)}"
    found = [name for name in _FILES if (entry.folder / name).exists()]
    yield f"files    {', '.join(found)}"
    yield f"next     {next_command(entry)}"


def main_figures(entry: Entry) -> list[str]:
    """The headline, the figures that its comparison decides by, loss and error; those that it has."""
    plan = (entry.section("config").get("comparison") or {}).get("metrics") or []
    wanted = [entry.headline, *plan, *_MAIN, *(name for name in entry.figures if name.startswith("best/"))]
    few = dict.fromkeys(str(name) for name in wanted if name in entry.figures and name != "best/bytes")
    return list(few)[:10]


def next_command(entry: Entry) -> str:
    """What one would type now, ready to be pasted into a shell."""
    state, folder = entry["state"], entry.folder
    experiment = entry["experiment"]
    if state == "running":
        return "wait; python -m src.runs state=running shows when it is over"
    if state == "pruned":
        return "nothing: its study gave it up"
    if state == "imported":
        return f"python -m src.runs {shlex.quote(f'diff=[{shown(folder)},<another run>]')}"
    if evaluation_failed({"state": state, "stage": entry["stage"]}) or (
        state == "finished" and not _judged(entry)
    ):
        return f"python -m src.evaluate {_argument('run', folder)}"
    if state != "finished":
        if _has_last(folder):
            return f"python -m src.train {_argument('resume', folder)}"
        return f"start it anew, it kept no checkpoint: {entry['command'] or 'its command is not known'}"
    if experiment and entry["arm"]:
        return f"python -m src.compare experiment={experiment}"
    return f"look at {shown(folder / 'report.html')}"


def _judged(entry: Entry) -> bool:
    return (entry.folder / "report.json").exists()


def _has_last(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("last*"))


def _argument(key: str, folder: Path) -> str:
    """`key=folder` as Hydra and a shell read it: a comma or `=` in a folder's name needs quotes of both."""
    path = shown(folder)
    plain = not set(path) & set(",= '\"()[]{}")
    return f"{key}={path}" if plain else shlex.quote(f'{key}="{path}"')


def _stage(entry: Entry) -> str:
    return (
        f" in {entry['stage']}" if entry["stage"] and entry["state"] not in ("finished", "imported") else ""
    )
