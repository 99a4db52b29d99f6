"""Owns table.tex and table_document.tex: the table for a paper, with booktabs and nothing else beyond LaTeX itself.

In: a `Table`. Out: text. table.tex is for \\input; table_document.tex makes a page of it alone. Letters that pdflatex
has no font for (Hangul …) stand twice: xelatex and lualatex print them, pdflatex prints them romanised.

Each arm takes two lines, the value and below it, smaller, its interval: with the two side by side no table of four
figures fits a column.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from src.comparison.render import words
from src.comparison.render.letters import romanised
from src.comparison.table import Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    # In TeX's oldest font encoding these three print as other signs.
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # Joined with a neighbour they become other signs: `` '' ?` !`
    "`": r"\textasciigrave{}", '"': "''",
    # After \\ and \midrule they would be read as an option.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "–": "--", "—": "---", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "…": r"\ldots{}",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "≠": r"$\neq$", "→": r"$\rightarrow$", "←": r"$\leftarrow$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "°": r"$^{\circ}$", "²": r"$^{2}$", "³": r"$^{3}$", "‘": "`", "’": "'",
    "“": "``", "”": "''", "\u00a0": "~", "\u2011": "-", "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}",
    "µ": r"$\mu$",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u0327": "c",
    "\u030c": "v",
}
_GREEK = frozenset(
    ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "mu", "nu", "xi", "pi",
     "rho", "sigma", "tau", "phi", "chi", "psi", "omega")
)  # fmt: skip
_WIDE = 8
"""Columns from which on the table is set smaller."""
_FOREIGN = r"\orlatin"
_DEFINE = (
    "% Letters without a font in pdflatex: xelatex and lualatex print the first form, pdflatex the romanised second.\n"
    rf"\providecommand{{{_FOREIGN}}}[2]{{\ifdefined\Umathchardef#1\else#2\fi}}"
)


def escape(text: str) -> str:
    """`text` as LaTeX that prints it, on one line, in text mode."""
    text = unicodedata.normalize("NFC", words.one_line(text))
    out, foreign = [], ""
    for sign, following in zip([*text, ""], [*text[1:], "", ""][: len(text) + 1], strict=True):
        plain = _one(sign)
        if plain is None:
            foreign += sign
            continue
        if foreign:
            out.append(f"{_FOREIGN}{{{foreign}}}{{{romanised(foreign)}}}")
            foreign = ""
        joins = sign == following and sign in ("-", "'")  # -- and '' would print as one other sign
        out.append(plain + "{}" * joins)
    return "".join(out)


def render(table: Table) -> str:
    """table.tex."""
    body = "\n".join(_body(table))
    head = [
        f"% {words.one_line(table.name)}: made by src.compare from the runs listed at the end; do not edit it.",
        r"% Needs \usepackage{booktabs}.",
    ]
    if _FOREIGN in body:
        head.append(_DEFINE)
    return "\n".join([*head, body, *_trace(table)]) + "\n"


def document(table: Table) -> str:
    """table_document.tex: a page with the table alone."""
    name = words.one_line(table.name)
    lines = [f"% {name} on a page of its own: pdflatex table_document.tex", r"\documentclass{article}"]
    if _FOREIGN in render(table):
        lines += [
            "% With xelatex or lualatex, name an installed font that has the letters; a missing letter is an error.",
            r"\ifdefined\Umathchardef\usepackage{fontspec}\setmainfont{Noto Serif CJK KR}\tracinglostchars=3 \fi",
        ]
    return "\n".join(
        [
            *lines,
            r"\usepackage[margin=2cm]{geometry}",
            r"\usepackage{booktabs}",
            r"\begin{document}",
            r"\input{table.tex}",
            r"\end{document}",
            "",
        ]
    )


def _one(sign: str) -> str | None:
    """LaTeX for one character; None where pdflatex has nothing for it."""
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if sign.isascii() and (sign.isprintable() or not sign):
        return sign
    if unicodedata.category(sign) == "Cc":
        return romanised(sign)  # TeX refuses the byte itself
    base, *marks = list(unicodedata.normalize("NFD", sign))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    greek = unicodedata.name(sign, "").removeprefix("GREEK SMALL LETTER ").lower()
    return f"$\\{greek}$" if greek in _GREEK else None


def _body(table: Table) -> Iterator[str]:
    answers = words.has_answers(table)
    label = re.sub(r"[^A-Za-z0-9:.-]+", "-", table.name)
    yield r"\begin{table}[t]"
    yield r"\centering"
    yield rf"\caption{{{escape(f'{table.question} {words.caption(table)}')}}}"
    yield rf"\label{{tab:{label}}}"
    yield r"\par\medskip"
    # Eight columns of figures and the answers in \small are 9.5 pt wider than a page of 17 cm.
    wide = len(table.columns) + answers >= _WIDE
    yield (
        (r"\footnotesize" if wide else r"\small") + r"\setlength{\tabcolsep}{" + ("3pt}" if wide else "4pt}")
    )
    yield rf"\begin{{tabular}}{{@{{}}l{'r' * len(table.columns)}{'l' * answers}@{{}}}}"
    yield r"\toprule"
    for line in _headings(table):
        yield _line(line)
    yield r"\midrule"
    for place, row in enumerate(table.rows):
        if place:
            yield r"\addlinespace[2pt]"
        values, intervals = [escape(words.arm_name(row))], [""]
        for column in table.columns:
            shown = words.shown(table, row, column)
            # \rlap: the sign takes no room, so that the digits of a column stay below one another.
            sign = rf"\rlap{{$^{{{shown.sign.replace('−', '-')}}}$}}" if shown.sign else ""
            value = escape(shown.value)
            values.append((rf"\textbf{{{value}}}" if shown.bold else value) + sign)
            below = " ".join(filter(None, (escape(shown.interval), shown.seeds)))
            intervals.append(rf"\scriptsize {below}" if below else "")
        yield _line(values + [escape(row.listens)] * answers)
        if any(intervals):
            yield _line(intervals + [""] * answers)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    for words_below in filter(None, (words.legend(table), " ".join(words.notes(table)))):
        yield rf"\par\smallskip{{\footnotesize\raggedright {escape(words_below)}\par}}"
    yield r"\end{table}"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _headings(table: Table) -> list[list[str]]:
    """Headings broken into lines of about 12 signs, flush at the bottom; one list of cells per line."""
    broken = [["arm"]]
    for column in table.columns:
        lines = textwrap.wrap(column.name, 12, break_long_words=False, break_on_hyphens=False) or [""]
        broken.append([*lines[:-1], f"{lines[-1]} {words.arrow(column)}".strip()])
    broken += [["listens"]] * words.has_answers(table)
    height = max(len(lines) for lines in broken)
    padded = [[""] * (height - len(lines)) + lines for lines in broken]
    return [[escape(lines[i]) for lines in padded] for i in range(height)]


def _trace(table: Table) -> Iterator[str]:
    yield "% Runs behind the cells:"
    for arm, columns, runs in words.trace(table):
        listed = ", ".join(f"{words.seed_name(seed)}: {run}" for seed, run in runs) or "no run"
        yield f"% {words.one_line(f'{arm} | {columns} | {listed}')}"
    for run, about in table.runs.items():
        yield f"% {words.one_line(f'{run}: {about}')}"
    if table.commands:
        yield "% Make it again:"
        yield from (f"% {words.one_line(command)}" for command in table.commands)
