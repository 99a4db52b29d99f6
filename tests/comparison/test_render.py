"""The text forms of a table: the same figures in Markdown, CSV and JSON, names shown as they are, files whole."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from src.comparison.render import data, markdown, tidy, words, write_all
from src.comparison.table import Cell, Table
from src.core.errors import ProjectError
from tests.comparison import render_sample as sample

NAMES = [
    "table.md", "table.tex", "table_document.tex", "table.csv", "table.json", "figure.pdf", "figure.svg",
    "figure.png", "index.html",
]  # fmt: skip


def read(markdown_text: str) -> list[list[str]]:
    """The first table of a Markdown text as an independent parser sees it: cells without markup."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown_text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "table_close":
            break
        elif token.type == "inline" and rows:
            rows[-1].append("".join(child.content for child in token.children or [] if child.type == "text"))
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text", "strong_open", "strong_close"}, kinds
    return rows


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(93.04, 1, "93.0"), (-0.04, 1, "0.0"), (-0.06, 1, "−0.1"), (0.0, 0, "0"), (-3.0, 2, "−3.00")],
)
def test_numbers(value: float, digits: int, shown: str) -> None:
    assert words.number(value, digits) == shown


def test_signs_and_bold_come_from_the_verdicts_alone() -> None:
    table = sample.rich()
    said = {row.arm: words.shown(table, row, sample.SUCCESS) for row in table.rows}
    assert {arm: (one.sign, one.bold) for arm, one in said.items()} == {
        "head_only": ("−", False), "queries": ("−", False), "vision": ("", False), "text": ("", False),
        "everywhere": ("+", True), "projector": ("", False),
    }  # fmt: skip
    assert said["everywhere"].interval == "[95.0, 100.0]", "an interval cut at 100 % is no ±"
    assert said["projector"].seeds == "n=1" and said["vision"].seeds == ""
    assert words.shown(table, table.rows[-1], sample.SWAPPED) == words.Shown("–", "", "", "", False)


def test_the_legend_speaks_of_what_occurs() -> None:
    assert "run's own episodes" in words.legend(sample.rich())
    crossed = words.legend(sample.crossed())
    assert "mean over seeds." in crossed and "significantly" not in crossed
    assert "Brackets" not in words.legend(sample.empty()) and "no run has" in words.legend(sample.empty())


def test_the_verdict_names_every_arm_once() -> None:
    said = words.verdict(sample.rich())
    assert said == (
        "In success full1 (%), significantly better than text: everywhere; significantly worse than text: head_only, "
        "queries; not shown to differ from text: vision; not tested: projector."
    )
    assert words.verdict(replace(sample.rich(), columns=())) == ""


def test_the_question_is_not_said_twice() -> None:
    table = sample.rich()
    assert words.caption(replace(table, caption=f"{table.question} Then more.")) == "Then more."


def test_a_seed_that_is_not_known_is_said() -> None:
    assert words.seed_name(3) == "seed 3" and words.seed_name(-1) == "seed unknown"


# ---------------------------------------------------------------- Markdown


def test_markdown_shows_the_table() -> None:
    text = markdown.render(sample.rich())
    rows = read(text)
    assert rows[0][:2] == ["arm", "success full1 (%) ↑"] and rows[0][-1] == "listens"
    assert [row[0] for row in rows[1:]] == [
        "head_only", "queries", "vision", "text (reference)", "everywhere", "projector",
    ]  # fmt: skip
    assert rows[5][1] == "99.0 [95.0, 100.0] +" and "**99.0**" in text
    assert rows[6][1:4] == ["80.0 [72.2, 87.8] (n=1)", "18.0 (n=1)", "–"]
    assert text.count("**99.0**") == 1 and "**89.0**" not in text
    for part in (
        "- **Warning:** 2 machines", "imported: config and code unknown", "seeds without a finished run: 1, 2",
        "`model/lora=all`", "seed 1 `multirun/lora_placement/vision,seed=1`", "```sh\ngit checkout 9595926\n",
        "`model.lora.dropout`", "16 runs in full",
    ):  # fmt: skip
        assert part in text, part


@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=3))
@example(list(sample.NASTY))
@example(["\\|", "`", "+", "_a_", "a_b", "&amp;", "<!--", "==="])
@settings(deadline=None, max_examples=25)
def test_markdown_shows_any_name_as_it_is(names: list[str]) -> None:
    # CommonMark replaces NUL by U+FFFD (§2.3); everything else must come through.
    table = sample.named(*names)
    rows = read(markdown.render(table))
    assert len(rows) == 1 + len(names) and {len(row) for row in rows} == {len(table.columns) + 2}
    for name, row in zip(names, rows[1:], strict=True):
        expected = words.one_line(name).replace("\0", "\ufffd")
        assert row[0].removesuffix(" (reference)") == expected and row[-1] == expected


@given(st.text(alphabet="`ab ", min_size=1, max_size=12).filter(str.strip))
@settings(deadline=None)
def test_code_holds_any_backticks(text: str) -> None:
    inline = MarkdownIt("commonmark").parse(f"x {markdown.code(text)}")[1]
    found = [child.content for child in inline.children or [] if child.type == "code_inline"]
    assert found == [words.one_line(text)]


# ---------------------------------------------------------------- CSV and JSON


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(min_size=1, max_size=8).filter(
        lambda t: not {"\0", "\r"} & {*t}
    ),  # no arm's name in a YAML holds them
)
@example(0.1 + 0.2, 'a,"b\n')
@settings(deadline=None, max_examples=30)
def test_csv_gives_the_same_numbers_back(value: float, name: str) -> None:
    table = sample.rich()
    cell = Cell(value, value, value, (0, -1), (value, -value), ("a", "b"), value, value, "open", "seeds")
    table = replace(table, rows=(replace(table.rows[0], arm=name, cells={sample.SUCCESS.key: cell}),))
    lines = list(csv.DictReader(io.StringIO(tidy.render(table), newline="")))
    assert tuple(lines[0]) == tidy.HEAD
    assert {line["arm"] for line in lines} == {name}
    mean, first, second = lines[:3]
    assert [float(mean[key]) for key in ("value", "low", "high", "difference", "p")] == [value] * 5
    assert (mean["seed"], mean["n"], mean["basis"], mean["verdict"], mean["unit"]) == (
        "",
        "2",
        "seeds",
        "open",
        "%",
    )
    assert (first["seed"], float(first["value"]), first["run"]) == ("0", value, "a")
    assert (second["seed"], float(second["value"]), second["run"]) == ("unknown", -value, "b")


def test_csv_has_a_line_for_every_seed_and_every_mean() -> None:
    table = sample.rich()
    lines = list(csv.DictReader(tidy.render(table).splitlines()))
    means = [line for line in lines if line["run"] == ""]
    seeds = sum(len(cell.seeds) for row in table.rows for cell in row.cells.values())
    assert len(means) == len(table.rows) * len(table.columns) and len(lines) - len(means) == seeds
    missing = [line for line in means if line["n"] == "0"]
    assert [(line["arm"], line["column"], line["value"]) for line in missing] == [
        ("projector", sample.SWAPPED.key, "")
    ]


def test_json_holds_every_field() -> None:
    table = sample.rich()
    content = json.loads(json.dumps(data.render(table)))
    assert content["format"] == data.FORMAT
    assert set(content) == {"format", *Table.__dataclass_fields__}
    cell = content["rows"][4]["cells"][sample.SUCCESS.key]
    assert set(cell) == set(Cell.__dataclass_fields__)
    assert cell["bold"] is True and cell["values"] == [99.0, 98.0, 100.0] and cell["verdict"] == "better"
    assert content["rows"][5]["missing"] == [1, 2] and content["runs"] == dict(table.runs)


# ---------------------------------------------------------------- all of them


def test_all_files_are_written_again_and_the_same(tmp_path: Path) -> None:
    paths = write_all(sample.empty(), tmp_path / "table")
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == sorted(NAMES), "no leftovers"
    before = {path: path.read_bytes() for path in paths}
    assert all(before.values())
    write_all(sample.empty(), tmp_path / "table")
    assert {path: path.read_bytes() for path in paths} == before, "the same table gives the same bytes"


def test_nothing_is_written_where_one_form_fails(tmp_path: Path) -> None:
    table = sample.rich()
    cells = dict(table.rows[0].cells)
    cells[sample.SUCCESS.key] = replace(cells[sample.SUCCESS.key], runs=())  # fewer runs than seeds
    with pytest.raises(ValueError, match="shorter"):
        write_all(replace(table, rows=(replace(table.rows[0], cells=cells),)), tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="cannot be written"):
        write_all(sample.empty(), tmp_path / "file")
