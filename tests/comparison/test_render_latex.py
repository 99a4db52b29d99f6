"""table.tex: sound by structure whatever the names, and really typeset where LaTeX is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.comparison.render import latex, words
from src.comparison.table import Table
from tests.comparison import render_sample as sample

COMMANDS = {
    "textbackslash", "textasciicircum", "textasciitilde", "textasciigrave", "textless", "textgreater", "textbar",
    "ldots", "ss", "o", "O", "ae", "pm", "times", "cdot", "leq", "geq", "approx", "neq", "rightarrow", "leftarrow",
    "uparrow", "downarrow", "circ", "orlatin", "ifdefined", "Umathchardef", "else", "fi", "providecommand",
    "begin", "end", "centering", "caption", "label", "par", "medskip", "small", "setlength", "tabcolsep", "toprule",
    "midrule", "addlinespace", "bottomrule", "scriptsize", "rlap", "textbf", "smallskip", "footnotesize", "raggedright",
    "c", "v",
} | set(latex._GREEK)  # fmt: skip
TABLES = {
    "rich": sample.rich(), "crossed": sample.crossed(), "empty": sample.empty(), "nasty": sample.named(*sample.NASTY),
}  # fmt: skip


def tokens(text: str) -> list[str]:
    """What TeX sees: comments gone, commands and escaped signs as one piece each."""
    seen = re.findall(r"%[^\n]*|\\[A-Za-z]+|\\.|.", text, flags=re.S)
    return [token for token in seen if not (token.startswith("%"))]


def check(text: str) -> None:
    """Balanced braces and dollars, known commands, no special sign by itself outside math and `&` outside rows."""
    depth, math = 0, False
    for token in tokens(text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        math ^= token == "$"
        assert depth >= 0, "a brace closes what was not opened"
        assert not (token in "^_" and not math), f"{token} outside math"
        if re.fullmatch(r"\\[A-Za-z]+", token):
            assert token[1:] in COMMANDS, token
    assert depth == 0 and not math


def rows(text: str) -> list[int]:
    """Columns of every line of the tabular."""
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    counts, columns = [], 1
    for token in tokens(body):
        if token == "&":
            columns += 1
        elif token == r"\\":
            counts.append(columns)
            columns = 1
    return counts


def unescape(text: str) -> str:
    """The letters that LaTeX prints: an independent way back, with xelatex's branch of letters."""
    text = re.sub(r"\\orlatin\{([^{}]*)\}\{[^{}]*\}", r"\1", text)
    back = {value: key for key, value in latex._SPECIAL.items() if key not in '”"’‘\u00a0\u2011µ“'}
    pattern = "|".join(map(re.escape, sorted(back, key=len, reverse=True)))
    return re.sub(rf"({pattern})|(?<=[-'])\{{\}}", lambda found: back.get(found[0], ""), text)


@pytest.mark.parametrize("name", TABLES)
def test_structure(name: str) -> None:
    table = TABLES[name]
    text = latex.render(table)
    check(text)
    counts = rows(text)
    assert set(counts) == {1 + len(table.columns) + words.has_answers(table)}, counts
    declared = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", text)
    assert declared is not None and len(declared[1]) == counts[0]
    assert r"\label{tab:" in text and text.index(r"\caption") < text.index(r"\label")


@given(st.lists(st.text(min_size=1, max_size=10).filter(str.strip), min_size=1, max_size=3))
@example([r"\\", "{", "%", "a&b"])
@example(["한", "e\u0301", "\x7f", "\\[2pt]", "*"])
@settings(deadline=None, max_examples=25)
def test_structure_holds_for_any_name(names: list[str]) -> None:
    table = sample.named(*names)
    text = latex.render(table)
    check(text)
    assert len(set(rows(text))) == 1
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert not any(re.match(r"\s*[\[*]", line) for line in lines), "read as an option of the line before"


@given(st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters='"\x7f'), max_size=30))
@example("50% of_a & #1 $x$ ~^ \\frac{1}{2} <a|b> [c]* `d' ''' ----")
@settings(deadline=None)
def test_every_printable_sign_comes_back(text: str) -> None:
    assert unescape(latex.escape(text)) == words.one_line(text)


def test_letters() -> None:
    assert latex.escape("é ç š α – − ± \u00a0") == r"\'{e} \c{c} \v{s} $\alpha$ -- $-$ $\pm$"
    assert latex.escape("a_한글") == r"a\_\orlatin{한글}{han-geul}"
    assert latex.escape("\x07") == "U+0007"
    assert r"\providecommand{\orlatin}" not in latex.render(sample.rich())
    korean = sample.named("한국어")
    assert r"\providecommand{\orlatin}" in latex.render(korean) and "fontspec" in latex.document(korean)


def test_bold_signs_and_trace() -> None:
    text = latex.render(sample.rich())
    assert re.findall(r"\\textbf\{([^}]*)\}", text) == ["99.0", "14.5"]
    assert r"\textbf{99.0}\rlap{$^{+}$}" in text and r"2.0\rlap{$^{-}$}" in text
    assert "\n% vision | all columns | seed 0: multirun/lora_placement/vision,seed=0, seed 1:" in text
    assert "\n% git checkout 9595926\n" in text
    assert latex.document(sample.rich()).count(r"\usepackage") == 2, (
        "booktabs and geometry; the table needs booktabs"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed; apt-get install texlive-latex-base texlive-latex-recommended",
)
@pytest.mark.parametrize("name", TABLES)
def test_it_is_typeset(name: str, tmp_path: Path) -> None:
    table: Table = TABLES[name]
    (tmp_path / "table.tex").write_text(latex.render(table), encoding="utf-8")
    (tmp_path / "table_document.tex").write_text(latex.document(table), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table_document.tex"],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "table_document.log").read_text(encoding="utf-8", errors="replace")
    assert "Missing character" not in log and "undefined" not in log.lower()
    assert name == "nasty" or "Overfull" not in log, "the table is wider than the page"
    assert (tmp_path / "table_document.pdf").stat().st_size > 5_000
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "-layout", "table_document.pdf", "-"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for row in table.rows:
            arm = words.one_line(row.arm)
            assert not re.fullmatch(r"[A-Za-z0-9]+", arm) or arm in text
