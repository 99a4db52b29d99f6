"""index.html: whole, escaped, linked to the runs, and readable in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from src.comparison.render import page, words, write_all
from tests.comparison import render_sample as sample
from tests.evaluation.report.browser import MISSING, Browser, browser, installed

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><path d="M0 0h40v20z"/></svg>'


class Reader(HTMLParser):
    """Elements, links and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_says_what_the_table_says(tmp_path: Path) -> None:
    table = sample.rich()
    html = page.render(table, SVG, tmp_path)
    read = Reader(html)
    assert "script" not in read.tags and "Content-Security-Policy" in html and read.tags.count("h1") == 1
    seen = read.text.replace("\u00a0", " ")
    for part in (
        table.question, words.verdict(table), table.caption, words.legend(table), *table.warnings, *table.compared,
        *table.commands, *table.runs, *table.runs.values(), "model/lora=all", "imported: config and code unknown",
        "difference 10.0", "p = 0.02, + better", "[95.0, 100.0]", "seed 2: 87.0",
    ):  # fmt: skip
        assert part in seen, part
    assert "<b>99.0</b>" in html and "<b>89.0</b>" not in html
    assert html.count('tag good">+ better') == 2 and html.count('tag bad">− worse') == 3
    assert {"table.md", "table.tex", "table.csv", "table.json", "figure.pdf"} <= set(read.links)


def test_names_cannot_break_out(tmp_path: Path) -> None:
    nasty = ("<script>alert(1)</script>", '"><img src=x>', "&lt;b&gt;", *sample.NASTY)
    tame = [f"n{i}" for i in range(len(nasty))]
    plain, bad = (Reader(page.render(sample.named(*names), SVG, tmp_path)) for names in (tame, nasty))
    assert sorted(bad.tags) == sorted(plain.tags), "the same elements, whatever the names"
    assert "&lt;b&gt;" in bad.text


def test_a_cell_leads_to_the_report_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reported = Path("multirun/lora_placement/vision,seed=0")
    unreported = Path("multirun/lora_placement/vision,seed=1")
    for folder in (reported, unreported):
        folder.mkdir(parents=True)
    (reported / "report.html").write_text("")
    folder = Path("tables/a b")
    read = Reader(page.render(sample.rich(), SVG, folder))
    targets = {(folder.resolve() / unquote(link)).resolve() for link in read.links if link.startswith("..")}
    assert targets == {(reported / "report.html").resolve(), unreported.resolve()}
    assert "multirun/lora_placement/text,seed=0" in read.text, (
        "a run that is not here is named without a link"
    )


FACTS = """({
    wide: [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')
        && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map(e => e.outerHTML.slice(0, 120)),
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    ground: getComputedStyle(document.body).backgroundColor,
    overflow: document.querySelector('section table').scrollWidth - document.querySelector('.scroll').clientWidth,
})"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = installed()
    assert path is not None
    with browser(path, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module", params=["rich", "nasty"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = sample.rich() if request.param == "rich" else sample.named(*sample.NASTY)
    folder = tmp_path_factory.mktemp(request.param)
    write_all(table, folder)
    return folder / "index.html"


@pytest.mark.slow
@pytest.mark.skipif(installed() is None, reason=MISSING)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desktop-light", "phone-dark"])
def test_it_is_readable(chromium: Browser, written: Path, width: int, dark: bool) -> None:
    seen = chromium.look(written, width, 900, dark, FACTS)
    assert seen.facts["wide"] == [] and seen.scroll_width <= width
    assert seen.facts["broken"] == 0 and seen.complaints == [] and seen.requests == []
    brightness = sum(json.loads(seen.facts["ground"].replace("rgb(", "[").replace(")", "]"))) / 3
    assert (brightness < 80) == dark
    assert width < 600 or written.parent.name.startswith("nasty") or seen.facts["overflow"] <= 0, (
        "fits a screen"
    )
