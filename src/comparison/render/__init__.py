"""Owns the files that a finished comparison leaves: one table in every form that a paper, a page or a program needs.

In: a `Table`. Out: its files in one folder, each written atomically. Every form is made from the same values, and all
of them are made before the first one is written, so that a failure leaves the old set whole.
"""

from __future__ import annotations

from pathlib import Path

from src.comparison.table import Table
from src.core.files import atomic_write_bytes, atomic_write_json, atomic_write_text


def write_all(table: Table, folder: Path) -> list[Path]:
    """Write table.{md,tex,csv,json}, table_document.tex, figure.{pdf,svg,png} and index.html into `folder`.

    Returns:
        The paths, in the order above.

    Raises:
        ProjectError: a file cannot be written.
    """
    from src.comparison.render import data, figure, latex, markdown, page, tidy

    texts = {
        "table.md": markdown.render(table),
        "table.tex": latex.render(table),
        "table_document.tex": latex.document(table),
        "table.csv": tidy.render(table),
    }
    plain = data.render(table)
    drawings = figure.render(table)
    html = page.render(table, drawings["figure.svg"], folder)
    for name, text in texts.items():
        atomic_write_text(folder / name, text)
    atomic_write_json(folder / "table.json", plain)
    for name, content in drawings.items():
        atomic_write_bytes(folder / name, content)
    atomic_write_text(folder / "index.html", html)
    return [folder / name for name in (*texts, "table.json", *drawings, "index.html")]
