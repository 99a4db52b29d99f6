"""Owns what a search leaves: the table on the screen, results.csv, results.json, and the commands that come next.

In: a study and the settings it ran with. Out: trials with their state, values, parameters and folders; the best one,
or the Pareto set; which parameters mattered; how to run the best one with other seeds and how to look at the study.
"""

from __future__ import annotations

import csv
import io
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.core.files import atomic_write_json, atomic_write_text
from src.sweep.study import ERROR, FINISHED, WITHDRAWN, Search

ENOUGH = 10
"""Complete trials below which nothing is said of importances: PED-ANOVA compares the five best with the rest."""
_STATES = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


def gather(search: Search) -> dict[str, Any]:
    """Everything that results.json holds, in plain values."""
    trials = search.study.get_trials(deepcopy=False)
    shown = [trial for trial in trials if WITHDRAWN not in trial.user_attrs]
    metrics = [objective.metric for objective in search.objectives]
    complete = [trial for trial in shown if trial.state == TrialState.COMPLETE]
    best = [trial.number for trial in search.study.best_trials] if complete else []
    return {
        "study": search.name,
        "storage": search.place,
        "objectives": [vars(objective) for objective in search.objectives],
        "space": {name: dimension.text for name, dimension in search.space.dimensions.items()},
        "fixed": list(search.space.fixed),
        "wanted": search.n_trials,
        "counts": {
            state: sum(_STATES[trial.state] == state for trial in shown) for state in _STATES.values()
        },
        "withdrawn": len(trials) - len(shown),
        "exhausted": search.exhausted,
        "trials": [_row(trial, metrics, search) for trial in shown],
        "best": best,
        "importances": importances(search, complete),
        "command": _again(search, trials[best[0]].params) if best else None,
        "dashboard": f"optuna-dashboard {shlex.quote(search.place)}",
    }


def _row(trial: FrozenTrial, metrics: Sequence[str], search: Search) -> dict[str, Any]:
    values = trial.values if trial.state == TrialState.COMPLETE else None
    steps = trial.intermediate_values
    return {
        "number": trial.number,
        "state": _STATES[trial.state],
        "values": dict(zip(metrics, values, strict=True)) if values else {},
        "last_report": {"validation": max(steps), "value": steps[max(steps)]} if steps else None,
        "params": dict(trial.params),
        "folder": str(search.folder / f"trial-{trial.number:04d}"),
        "minutes": round(trial.duration.total_seconds() / 60, 3) if trial.duration else None,
        "error": trial.user_attrs.get(ERROR),
    }


def importances(search: Search, complete: Sequence[FrozenTrial]) -> dict[str, dict[str, float]] | None:
    """Metric → parameter → share in what separates good trials from the rest; None: too few.

    PED-ANOVA (Watanabe 2023), which needs no further package.
    """
    if len(complete) < ENOUGH:
        return None
    found = {}
    best_share = max(0.1, 5 / len(complete))  # Optuna's tenth, but at least the five trials that it asks for
    for index, objective in enumerate(search.objectives):

        def value(trial: FrozenTrial, index: int = index) -> float:
            # The evaluator takes small for good where it is given a target.
            sign = -1.0 if search.objectives[index].direction == "maximize" else 1.0
            return sign * float(trial.values[index])

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # that it takes small for good, which `value` sees to
            shares = optuna.importance.get_param_importances(
                search.study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best_share),
                target=value,
            )
        found[objective.metric] = {name: round(float(share), 4) for name, share in shares.items()}
    return found


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Replace results.json and results.csv (one row per trial) in the sweep's folder."""
    atomic_write_json(folder / "results.json", results)
    metrics = [objective["metric"] for objective in results["objectives"]]
    names = list(results["space"])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["number", "state", *metrics, *names, "minutes", "folder", "error"])
    for row in results["trials"]:
        table.writerow(
            [
                row["number"],
                row["state"],
                *(row["values"].get(metric, "") for metric in metrics),
                *(row["params"].get(name, "") for name in names),
                row["minutes"],
                row["folder"],
                row["error"] or "",
            ]
        )
    atomic_write_text(folder / "results.csv", text.getvalue())


def show(results: Mapping[str, Any], folder: Path) -> None:
    """Print the table and what follows from it."""
    from rich.console import Console
    from rich.table import Table

    metrics = [objective["metric"] for objective in results["objectives"]]
    several = len(metrics) > 1
    table = Table(title=f"{results['study']}: {_counted(results)}", title_justify="left")
    for name in ("trial", "state", *metrics, *results["space"], "folder"):
        table.add_column(name, overflow="fold", justify="right" if name in metrics else "left")
    for row in results["trials"]:
        table.add_row(
            str(row["number"]),
            row["state"],
            *(_figure(row["values"].get(metric)) for metric in metrics),
            *(_figure(row["params"].get(name)) for name in results["space"]),
            row["folder"],
            style="bold" if row["number"] in results["best"] else "",
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if results["exhausted"]:
        print("The space is exhausted: the sampler proposes only points that were tried, so fewer were run.")
    by_number = {row["number"]: row for row in results["trials"]}
    if results["best"]:
        print("Pareto set: no trial is better in every objective." if several else "Best:")
        for number in results["best"]:
            row = by_number[number]
            values = ", ".join(f"{metric} {_figure(value)}" for metric, value in row["values"].items())
            params = ", ".join(f"{name}={_figure(value)}" for name, value in row["params"].items())
            print(f"  trial {number}: {values}; {params}")
    else:
        print("No trial is complete yet, so there is no best one.")
    if results["importances"] is None:
        complete = results["counts"]["complete"]
        print(f"Which parameters matter: {complete} complete trials are too few to say, {ENOUGH} are needed.")
    else:
        for metric, shares in results["importances"].items():
            told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            print(f"Which parameters matter for {metric} (PED-ANOVA): {told}")
    failed = [row for row in results["trials"] if row["error"]]
    if failed:
        print(f"Failed, the last one: trial {failed[-1]['number']}: {failed[-1]['error']}")
    print(f"Results: {folder / 'results.csv'}, {folder / 'results.json'}")
    if results["command"]:
        print(f"The best one with other seeds:\n  {results['command']}")
    print(f"To look at it: {results['dashboard']}")


def _counted(results: Mapping[str, Any]) -> str:
    counts = results["counts"]
    finished = counts["complete"] + counts["pruned"]
    text = f"{finished} of {results['wanted']} trials finished ({counts['pruned']} pruned)"
    text += f", {counts['failed']} failed" if counts["failed"] else ""
    text += f", {counts['running']} still running elsewhere" if counts["running"] else ""
    repeated = results["withdrawn"]
    return text + (f"; {repeated} proposals repeated others and were not run" if repeated else "")


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _again(search: Search, params: Mapping[str, Any]) -> str:
    """A loop over seeds, because with --multirun the same files would search again."""
    program = getattr(sys.modules["__main__"].__spec__, "name", None)
    call = f"python -m {program}" if program else f"python {sys.argv[0]}"
    searched = set(search.space.dimensions)
    kept = [
        text
        for text in search.space.fixed
        if text.split("=")[0] not in ("name", "seed") and text not in searched
    ]
    words = [*kept, *search.space.overrides(params), f"name={search.name}-best"]
    return f"for seed in 1 2 3; do {call} {' '.join(shlex.quote(word) for word in words)} seed=$seed; done"


def finished(search: Search) -> int:
    """How many trials of the study are complete or pruned."""
    return len(search.study.get_trials(deepcopy=False, states=FINISHED))
