"""A comparison in W&B: its table and figure as one run, and a report, both the same one every time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from src.comparison.publish import cells, publish
from src.comparison.table import Cell, Column, Row, Table
from src.core.errors import ProjectError
from tests.wandb.standin import Standin

QUESTION = "Where should LoRA adapters sit?"
SUCCESS = "closed_loop/full1/layout/policy/success"


def table() -> Table:
    def cell(value: float, verdict: str) -> Cell:
        return Cell(value, value - 5, value + 5, (0, 1), (value, value), ("a", "b"), verdict=verdict)  # type: ignore[arg-type]

    rows = tuple(
        Row(arm, (f"model/lora={arm}",), arm == "text", {SUCCESS: cell(value, verdict)}, "2 of 2", ())
        for arm, value, verdict in (("text", 80.0, "reference"), ("vision", 20.0, "worse"))
    )
    columns = (
        Column(SUCCESS, "success full1 (%)", "max", 100.0, 1, "metric"),
        Column("trainable_parameters", "trained (M)", None, 1e-6, 2, "cost"),
    )
    return Table(
        "placement",
        QUESTION,
        columns,
        rows,
        "n = 2.",
        ("model.lora.sites",),
        (),
        ("python -m src.train",),
        {},
    )


def test_every_cell_is_a_row_of_plain_values() -> None:
    columns, rows = cells(table())
    assert columns[3:7] == [f"success full1 (%){end}" for end in ("", " low", " high", " verdict")]
    assert rows[1] == ["vision", "0 1", "2 of 2", 20.0, 15.0, 25.0, "worse", None, None, None, "untested"]
    assert all(len(row) == len(columns) for row in rows)


@pytest.mark.slow
def test_the_report_holds_question_table_and_panels_and_is_changed_not_doubled(
    tmp_path: Path, server: Standin
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "figure.png")
    (tmp_path / "table.md").write_text("| arm | success |\n|---|---|\n| **text** | 80.0 |\n")
    files = [tmp_path / "table.md", tmp_path / "figure.png"]
    address = publish(table(), files, "lab-project", None)
    assert address.startswith("http") and "lab-project/reports" in address
    run = server.run()
    assert (run.job_type, run.group, run.state) == ("compare", "placement", "finished")
    assert {"table.md", "figure.png"} <= set(run.files) and run.summary["report"] == address
    sent = next(content for name, content in run.files.items() if name.startswith("media/table"))
    assert json.loads(sent)["data"][1][:4] == ["vision", "0 1", "2 of 2", 20.0]
    (report,) = server.reports
    blocks = json.loads(report["spec"])["blocks"]
    text = json.dumps(blocks)
    assert QUESTION in text and "| **text** | 80.0 |" in text and "python -m src.train" in text
    grid = next(block for block in blocks if block["type"] == "panel-grid")["metadata"]
    (runset,) = grid["runSets"]
    assert runset["project"]["name"] == "lab-project" and "placement" in json.dumps(runset["filters"])
    panels = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert sorted(panels) == ["Bar Chart", "Run Comparer", "Run History Line Plot", "Scatter Plot"]
    assert SUCCESS in json.dumps(grid)
    assert publish(table(), files, "lab-project", None) == address
    assert len(server.reports) == len(server.runs()) == 1, "the same run and report again"


def test_what_is_missing_is_a_sentence(server: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hidden:
        hidden.setitem(sys.modules, "wandb_workspaces", None)
        hidden.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
        with pytest.raises(
            ProjectError, match=r"expected wandb-workspaces; install it with .*\[wandb-report\]"
        ):
            publish(table(), [], "p", None)
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ProjectError, match="publish: nobody is logged in"):
        publish(table(), [], "p", None)
    assert server.operations == []
