"""Owns report.html: the page that a run leaves for a reader who was not there, its verdict first.

In: report.json as plain values, the folder it lies in, the run folder. Out: one file that needs no network and no other
file: pictures are inside; films beyond a budget are linked, and a still of each is inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.core.files import atomic_write_text
from src.core.page import document, tag, text
from src.evaluation.report import chapters, facts, figures
from src.evaluation.report.record import VERDICTS, too_few
from src.evaluation.report.words import sign

FILE = "report.html"

STYLE = (
    figures.STYLE
    + """
header{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem 1.1rem}
.kicker{color:var(--soft);margin:0;font-size:.9rem}
.answers{display:flex;flex-wrap:wrap;gap:.4rem;margin:.2rem 0 .6rem;padding:0;list-style:none}
header p{max-width:none}.answers .tag{font-size:.95rem;padding:.1rem .7em;border-width:2px;font-weight:600}
.answers .tag,.reasons .tag{white-space:normal}
.reasons{margin:.3rem 0 0;padding:0;list-style:none}.reasons li{margin:.25rem 0;overflow-wrap:anywhere}
.lost{font-weight:600}.plain{padding-left:1.1rem}.plain li{overflow-wrap:anywhere}
.small-multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,100%),1fr));gap:.8rem;
margin-top:.6rem}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(11rem,100%),1fr));gap:.8rem}
.sheet{min-width:44rem}
.films{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(18rem,100%),1fr));gap:.8rem}
.soft{color:var(--soft);font-size:.8em}
"""
)


def write(folder: Path, report: Mapping[str, Any], run: Path | None = None) -> Path:
    """Write <folder>/report.html in one atomic step; returns its path.

    `report`: plain values, as in report.json. `folder`: where the report and its films and pictures lie. `run`: folder
    of the training run, for curves and provenance; None where there is none.
    """
    path = folder / FILE
    atomic_write_text(path, page(folder, report, run))
    return path


def page(folder: Path, report: Mapping[str, Any], run: Path | None = None) -> str:
    """The whole page as HTML."""
    body = [
        chapters.not_measured(report),
        chapters.scores(report),
        chapters.closed_loop(report, folder),
        chapters.probes(report, folder),
        chapters.recorded(report),
        chapters.other_parts(report),
        chapters.training(report, run),
        chapters.cost(report),
        chapters.provenance(report),
    ]
    name = facts.title(report, run)
    return document(
        f"{name}: {report['verdict']['line']}", [_header(report, run, name), *filter(None, body)], STYLE
    )


def _header(report: Mapping[str, Any], run: Path | None, name: str) -> str:
    """The verdict in words: what it can do, answers with their reasons, what it does not beat, what failed."""
    verdict = report["verdict"]
    headline = verdict["success"] or "not driven in a simulator"
    answers, reasons = "", ""
    for key, words in VERDICTS.items():
        mark, kind = sign(key, verdict[key]["answer"])
        shown = tag(f"{mark} {words}: {verdict[key]['answer']}", kind)
        answers += f"<li>{shown}</li>"
        if verdict[key]["answer"] != "not measured" or "not measured" not in verdict[key]["words"]:
            reasons += f"<li><b>{text(words)}:</b> {text(verdict[key]['words'])}</li>"
    lost = ""
    if verdict["not_beaten"]:
        lost += f'<p class="bad lost">✕ no better than: {text(", ".join(verdict["not_beaten"]))}</p>'
    few = too_few(verdict, report.get("baselines"))
    if few:
        lost += f'<p class="open lost">? too few to tell: {text(few)}</p>'
    if verdict["failed"]:
        lost += f'<p class="bad lost">✕ failed to measure: {text(", ".join(verdict["failed"]))}</p>'
    about = facts.in_one_line(report, run)
    return (
        f"<header><p class=kicker>What <b>{text(name)}</b> can do</p><h1 id=verdict>{text(_capital(headline))}</h1>"
        f"<ul class=answers>{answers}</ul>{lost}<ul class='reasons small'>{reasons}</ul>"
        + (f"<p class=small>{text(about)}</p>" if about else "")
        + "</header>"
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
