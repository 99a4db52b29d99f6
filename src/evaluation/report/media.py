"""Owns the pictures and films of a report: which there are, and how they come into a page that may travel alone.

In: report.json and the folder it lies in. Out: embedded pictures (large ones as smaller JPEG), films embedded while
they fit the budget and linked beyond it, each with a still picture; and for W&B a list of everything in plain values.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from src.core.page import embedded, picture, text
from src.evaluation.report import tables, words

EMBED = 900_000  # bytes of films inside the page; base64 adds a third, and the page should stay below 3 MB
WIDEST = 1280  # px; a wider picture shows no more on a screen
_MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".webm": "video/webm"}


@dataclass
class Media:
    """Everything of a report that is more than a number, under the names that W&B shows.

    Attributes:
        figures: the flat `metrics` of the report, and the answers of its verdict as text.
        tables: name → (column titles, rows of plain values).
        pictures, films: name → [(file, caption)].
        page: report.html, where it was written.
    """

    figures: dict[str, float | str]
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    pictures: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    films: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    page: Path | None = None


def gather(report: Mapping[str, Any], folder: Path) -> Media:
    """What a tracker shows of the report in `folder`; files that are named but not there are left out."""
    verdict = report["verdict"]
    answers = {f"verdict/{key}": item["answer"] for key, item in verdict.items() if isinstance(item, Mapping)}
    out = Media({**report["metrics"], **answers, "verdict/line": verdict["line"]})
    for table in tables.tables(report):
        out.tables[table.name] = _flat(table)
    found = tables.confusion(report)
    if found:
        out.tables["offline/confusion"] = (
            ["recorded", *found[0]],
            [[c, *n] for c, n in zip(*found, strict=True)],
        )
    sheet, films = contact_sheet(report, folder), videos(report, folder)
    if sheet:
        out.pictures["closed_loop/contact_sheet"] = [(sheet, "start, middle and end of driven episodes")]
    maps = occlusion(report, folder)
    if maps:
        out.pictures["probes/occlusion"] = maps
    for path in films:
        out.films[f"closed_loop/{path.stem}"] = [(path, f"{path.stem} episode")]
    page = folder / str(report["files"].get("page", ""))
    out.page = page if page.is_file() else None
    return out


def contact_sheet(report: Mapping[str, Any], folder: Path) -> Path | None:
    """The sheet of driven episodes, where there is one."""
    name = report["files"].get("contact_sheet")
    return folder / name if name and (folder / name).is_file() else None


def videos(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """The films of driven episodes that lie in the folder."""
    return [folder / name for name in report["files"].get("videos") or [] if (folder / name).is_file()]


def occlusion(report: Mapping[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """The overlays of the occlusion probe that lie in the folder, each with its caption."""
    frames = ((report.get("probes") or {}).get("occlusion") or {}).get("frames") or []
    shown = [(folder / str(f["image"]), f"{f['episode']}, step {f['t']}") for f in frames if f.get("image")]
    return [(path, words) for path, words in shown if path.is_file()]


def embed(path: Path, words: str, widest: int = WIDEST) -> str:
    """A picture file inside the page: as it is while small, else as JPEG of at most `widest` px."""
    data = path.read_bytes()
    if len(data) < 60_000 and path.suffix in (".png", ".jpg"):
        return picture(data, "image/png" if path.suffix == ".png" else "image/jpeg", words)
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
    return picture(_jpeg(image), "image/jpeg", words)


def film(path: Path, folder: Path, words: str, room: int) -> tuple[str, int]:
    """A film as HTML and how many of the `room` bytes it took: embedded where it fits, else a link beside a still."""
    mime = _MIME[path.suffix]
    size = path.stat().st_size
    fits = size <= room
    source = embedded(path.read_bytes(), mime) if fits else text(path.relative_to(folder).as_posix())
    still = embedded(_jpeg(_still(path)), "image/jpeg")
    link = f'<a href="{text(path.relative_to(folder).as_posix())}">{text(path.name)}</a>'
    caption = f"<figcaption>{text(words)} ({link}{'' if fits else ', beside this page'})</figcaption>"
    if mime == "image/gif":
        shown = f'<img alt="{text(words)}" src="{source if fits else still}">'
    else:
        shown = (
            f'<video controls muted playsinline preload="metadata" poster="{still}" aria-label="{text(words)}" '
            f'src="{source}"></video>'
        )
    return f"<figure>{shown}{caption}</figure>", size if fits else 0


def _still(path: Path) -> Image.Image:
    """The picture in the middle of a film."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    image: Image.Image = frames[len(frames) // 2].convert("RGB")
    return image


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82, optimize=True)
    return stream.getvalue()


def _flat(table: tables.Table) -> tuple[list[str], list[list[Any]]]:
    """Plain columns: a figure becomes four, value, low, high and n."""
    spread = [any(words.is_figure(row[c]) for row in table.rows) for c in range(len(table.columns))]
    titles: list[str] = []
    for column, wide in zip(table.columns, spread, strict=True):
        titles += (
            [column.title, *(f"{column.title} {part}" for part in ("low", "high", "n"))]
            if wide
            else [column.title]
        )
    rows = []
    for row in table.rows:
        cells: list[Any] = []
        for cell, wide in zip(row, spread, strict=True):
            if not wide:
                cells.append(cell)
            elif words.is_figure(cell):
                cells += [cell["value"], cell["low"], cell["high"], cell["n"]]
            else:
                cells += [cell, None, None, None]
        rows.append(cells)
    return titles, rows
