"""Owns putting a finished comparison into W&B: its table and figure as a run, and a report that shows them.

In: a `Table`, the files made of it, project and entity. Out: one run of job type `compare` per comparison (the same one
every time) with a wandb.Table and the figure, and a W&B report with question, table, charts over the runs of the group
and the run comparer; the report's address.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.comparison.table import Cell, Table
from src.comparison.wandb_source import require_login
from src.core.errors import ProjectError
from src.experiment import wandb_server

JOB = "compare"


def publish(table: Table, files: Sequence[Path], project: str, entity: str | None) -> str:
    """Send the comparison to W&B and return the address of its report.

    Args:
        table: the comparison.
        files: what was made of it; its figure and its Markdown are used, all are kept with the run.
        project: W&B project.
        entity: user or team; None: the default of the account.

    Raises:
        ProjectError: not logged in, no answer, or the package for reports is not installed.
    """
    require_login("publish")
    try:
        with warnings.catch_warnings():  # it declares its models in a way that pydantic has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise ProjectError(
            f"publish: found no package for W&B reports ({error}), expected wandb-workspaces; install it with "
            "pip install -c constraints.txt -e '.[wandb-report]'."
        ) from error
    run_id = f"compare-{hashlib.sha256(table.name.encode()).hexdigest()[:8]}"
    with wandb_server.asking("publish", "check wandb.project and wandb.entity, and try again") as api:
        owner = entity or str(api.default_entity)
        last = _log(table, files, owner, project, run_id)
        report = _report(reports, table, files, owner, project)
        report.id = last or ""
        report.save()
        # Noted in the run, so that the next time changes this report and does not make another one.
        api.run(f"{owner}/{project}/{run_id}").summary.update(
            {"report_id": report.id, "report": str(report.url)}
        )
    return str(report.url)


def _log(table: Table, files: Sequence[Path], entity: str, project: str, run_id: str) -> str | None:
    """Table, figure and files as one run; returns the id of the report of an earlier time."""
    import wandb

    columns, rows = cells(table)
    with tempfile.TemporaryDirectory() as scratch:
        settings = wandb.Settings(silent=True, console="off", mode="online", init_timeout=60, finish_timeout=300,
                                  finish_timeout_raises=True, x_disable_stats=True)  # fmt: skip
        run = wandb.init(
            project=project, entity=entity, id=run_id, name=f"comparison {table.name}", group=table.name, job_type=JOB,
            dir=scratch, resume="allow", settings=settings, reinit="create_new", tags=[JOB],
        )  # fmt: skip
        done = 1
        try:
            earlier = run.summary.get("report_id")
            run.config.update(
                {"question": table.question, "compared": list(table.compared), "caption": table.caption},
                allow_val_change=True,
            )
            row: dict[str, Any] = {
                "table": wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True),
            }
            figure = next((path for path in files if path.suffix == ".png"), None)
            if figure is not None:
                row["figure"] = wandb.Image(str(figure), caption=table.question)
            run.log(row)
            for path in files:
                run.save(str(path.resolve()), base_path=str(path.resolve().parent), policy="now")
            done = 0
        finally:
            run.finish(exit_code=done)
    return None if earlier is None else str(earlier)


def cells(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows as W&B shows them: each figure as mean, low, high, then what the test says of it."""
    columns = ["arm", "seeds", "listens"]
    for column in table.columns:
        columns += [column.name, f"{column.name} low", f"{column.name} high", f"{column.name} verdict"]
    empty = Cell(None, None, None, (), (), ())
    rows: list[list[Any]] = []
    for row in table.rows:
        shown = [row.cells.get(column.key, empty) for column in table.columns]
        seeds = sorted({seed for cell in shown for seed in cell.seeds})
        line: list[Any] = [row.arm, " ".join(map(str, seeds)), row.listens]
        for cell in shown:
            line += [cell.value, cell.low, cell.high, cell.verdict]
        rows.append(line)
    return columns, rows


def _report(reports: Any, table: Table, files: Sequence[Path], entity: str, project: str) -> Any:
    """The report: what was asked, what came out, and the runs behind it."""
    runs = reports.Runset(
        project=project, entity=entity, name=table.name, filters=f"Group == '{table.name}' and JobType != '{JOB}'",
        groupby=["config.arm"],
    )  # fmt: skip
    panels: list[Any] = []
    figures = [column for column in table.columns if column.kind == "metric"]
    costs = [column for column in table.columns if column.kind == "cost"]
    if figures:
        deciding = reports.SummaryMetric(figures[0].key)
        panels.append(reports.BarPlot(title=figures[0].name, metrics=[deciding]))
        against = reports.SummaryMetric(f"cost/{costs[0].key}") if costs else reports.Config("seed")
        panels.append(reports.ScatterPlot(title=figures[0].name, x=against, y=deciding))
    panels.append(reports.LinePlot(title="validation loss", x="trainer/global_step", y=["val/loss"]))
    panels.append(reports.RunComparer(diff_only=True))
    written = next((path for path in files if path.suffix == ".md"), None)
    text = written.read_text(encoding="utf-8") if written is not None else markdown(table)
    blocks = [
        reports.H1(text=table.question),
        reports.MarkdownBlock(text=text),
        reports.H2(text="Runs"),
        reports.PanelGrid(runsets=[runs], panels=panels),
        reports.H2(text="Again"),
        reports.CodeBlock(code="\n".join(table.commands), language="markdown"),
    ]
    return reports.Report(
        project=project, entity=entity, title=f"Comparison: {table.name}", description=table.question, blocks=blocks,
        width="fluid",
    )  # fmt: skip


def markdown(table: Table) -> str:
    """The table alone, where no Markdown file was made of it."""
    head = ["arm", *(column.name for column in table.columns)]
    lines = [head, ["---"] * len(head)]
    for row in table.rows:
        found = [(column, row.cells.get(column.key)) for column in table.columns]
        lines.append([
            row.arm, *("" if c is None or c.value is None else f"{c.value:.{column.digits}f}" for column, c in found)
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{table.caption}"
