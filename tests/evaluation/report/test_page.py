"""report.html as text: what it says, that it stands alone, that it escapes, that its colours can be read."""

from __future__ import annotations

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from src.core.page import STYLE
from src.evaluation.report import media, page, record
from tests.evaluation.report import sample

VOID = {"meta", "img", "br", "line", "circle", "path", "polygon", "rect"}


class Outline(HTMLParser):
    """Checks that tags close in order; collects headings, text, and every address the page refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.missing_alt, self.words, self.ids = 0, "", list[str]()
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.missing_alt += tag == "img" and not given.get("alt")
        self.ids += [given["id"]] if given.get("id") else []  # type: ignore[list-item]
        self.links += [(tag, given[key] or "") for key in ("src", "href", "poster") if key in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words += data + " "


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Outline]:
    folder = tmp_path_factory.mktemp("run")
    report = sample.full()
    sample.write_files(folder, report)
    html = page.write(folder, report, folder).read_text(encoding="utf-8")
    return folder, html, Outline(html)


def test_the_first_words_are_the_verdict(written: tuple[Path, str, Outline]) -> None:
    words = " ".join(written[2].words.replace("\xa0", " ").split())
    start = words.index("Success 77 % (n=200")
    for answer in ("listens: yes", "looks: yes", "uses its history: no", "no better than: nearest_words"):
        assert start < words.index(answer) < words.index("Scores beside simple drivers"), answer


def test_every_chapter_is_there_in_order(written: tuple[Path, str, Outline]) -> None:
    assert written[2].ids == [
        "verdict", "scores-beside-simple-drivers", "driving-in-the-simulator", "does-it-listen-look-and-remember",
        "on-recorded-frames", "training-curves", "cost", "where-the-figures-come-from",
    ]  # fmt: skip
    words = written[2].words.replace("\xa0", " ")
    for said in (
        "6.9 %", "✕ not beaten", "nearest", "구석 <with> & marks", "turning", "Error over the horizon", "rotate left",
        "final position", "still improving: yes", "train longer", "left and right exchanged", "flips", "best.mp4",
        "distance to the expert's path (m)", "1.62 million", "165 windows/s", "python -m src.train", "ed54c7e80e5fb38e",
        "ea7cfb6e1549d9e7", "with uncommitted changes", "torch 2.13.0", "not by this evaluation", "AMD EPYC",
        "best.ckpt",
        "corrected for 8 comparisons (Holm)", "333 ms", "Kosmos2Backbone", "window 8",
    ):  # fmt: skip
        assert said in words, said
    assert "27 %" in words and words.count("left ") >= 2, "the strip of words"


def test_it_stands_alone(written: tuple[Path, str, Outline]) -> None:
    folder, html, outline = written
    assert "<script" not in html and "@import" not in html and "url(" not in html
    assert len(html.encode()) < 3_000_000
    assert outline.missing_alt == 0
    beside = {url for _, url in outline.links if not url.startswith("data:")}
    assert beside == {f"rollouts/{name}.mp4" for name in ("best", "median", "worst")}, (
        "links alone, nothing loaded"
    )
    assert {tag for tag, url in outline.links if not url.startswith("data:")} == {"a"}
    pictures = [url for tag, url in outline.links if tag in ("img", "video") and url.startswith("data:image")]
    assert len(pictures) == 3 + 1 + 3  # overlays, contact sheet, stills of the films
    for url in pictures:
        assert len(base64.b64decode(url.partition(",")[2])) > 300


def test_the_same_report_gives_the_same_page(written: tuple[Path, str, Outline]) -> None:
    folder, html, _ = written
    assert page.page(folder, sample.full(), folder) == html


def test_films_beyond_the_budget_are_linked_and_still_seen(
    written: tuple[Path, str, Outline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = written
    sizes = [path.stat().st_size for path in media.videos(sample.full(), folder)]
    monkeypatch.setattr(media, "EMBED", sizes[0] + sizes[1] - 1)
    outline = Outline(page.page(folder, sample.full(), folder))
    films = [url for tag, url in outline.links if tag == "video" and not url.startswith("data:image")]
    assert [url.startswith("data:video/mp4") for url in films] == [True, False, sizes[2] < sizes[1]]
    assert "beside this page" in outline.words
    shutil.copytree(folder, tmp_path / "copy")
    assert (tmp_path / "copy" / films[1]).is_file()


def test_files_that_are_gone_leave_the_map_as_a_drawing(tmp_path: Path) -> None:
    html = page.page(tmp_path, sample.full(), None)
    assert html.count("class=heat") == 3 and "data:image" not in html
    Outline(html)


@pytest.mark.parametrize("make", [sample.bad, sample.nothing], ids=["bad", "nothing"])
def test_broken_and_empty_reports_have_a_page(make: Any, tmp_path: Path) -> None:
    report = make()
    words = Outline(page.write(tmp_path, report).read_text(encoding="utf-8")).words.replace("\xa0", " ")
    if report["failed"]:
        assert "failed to measure: latency" in words and "steps is 0, expected 1 or more" in words
        assert "✕ listens: no" in words and "? looks: not decided" in words
    else:
        assert "Not driven in a simulator" in words and "Scores" not in words


def test_too_few_pairs_are_said_apart_from_a_lost_comparison(tmp_path: Path) -> None:
    html = page.page(tmp_path, sample.few())
    words = " ".join(Outline(html).words.replace("\xa0", " ").split())
    assert f"? too few to tell: {', '.join(sample.DRIVERS)} (4 episodes)" in words
    places = "success, full1/layout; success, route1/layout; recorded: error"
    assert (
        f"Too few to tell whether the policy is better than {', '.join(sample.DRIVERS)} ({places})" in words
    )
    assert "no better than" not in words
    assert "not beaten" not in words and "better than every baseline" not in words
    assert html.count('<span class="tag open">? too few</span>') == 3 * len(sample.DRIVERS)
    assert (
        "n=113/6" in words
        and "n=113/6: 113 counted in 6 independent groups, which set the interval." in words
    )


def test_what_every_part_may_leave_out_leaves_no_hole(tmp_path: Path) -> None:
    """Any single section, or none of its optional keys, still makes a page."""
    whole = sample.full()
    for part in record.sections(whole):
        only = {**whole, **{other: None for other in record.sections(whole) if other != part}}
        Outline(page.page(tmp_path, only))
    bare = {
        **whole,
        "offline": {"split": "test", "n": 4, "groups": 2, "curves": {"not_measured": "no run folder"}},
    }
    bare["offline"] |= {
        "confusion": {"not_measured": "no classes"},
        "trajectory": {"not_measured": "no axes"},
    }
    words = Outline(page.page(tmp_path, bare)).words
    assert "Not judged: no run folder." in words and "No confusion: no classes." in words
    assert "test, which took no part in training" in words


def test_an_unknown_part_is_shown_as_a_table_of_its_figures(tmp_path: Path) -> None:
    report = sample.full()
    report["babyai"] = {
        "version": "minigrid 3",
        "GoToObj": {"policy": {"success": report["offline"]["error"]}},
        "seeds": [1, 2],
    }
    outline = Outline(page.page(tmp_path, report))
    assert (
        "babyai" in outline.ids
        and "GoToObj/policy/success" in outline.words
        and "minigrid 3" in outline.words
    )


def test_names_from_data_cannot_become_markup(tmp_path: Path) -> None:
    report = sample.full()
    evil = "<script>alert('x')</script>\"&"
    report["offline"]["scenarios"][evil] = report["offline"]["scenarios"].pop("straight to it")
    report["probes"]["words"][0]["words"][0]["word"] = evil
    report["probes"]["occlusion"]["frames"][0]["episode"] = evil
    report["offline"]["confusion"]["classes"][0] = evil
    report["provenance"]["command"] = evil
    report["failed"] = {"probes": evil}
    report["offline"]["trajectory"]["paths"][0]["episode"] = evil
    html = page.page(tmp_path, report)
    assert "<script" not in html
    assert Outline(html).words.count(evil) >= 6


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_colour_has_the_contrast_of_wcag_aa(mode: str) -> None:
    """4.5 : 1 against the page and against its cards (WCAG 2.2, 1.4.3); lines of charts 3 : 1 (1.4.11)."""
    light, dark = (
        dict(re.findall(r"--(\w+):(#\w+)", part)) for part in STYLE.split("@media(prefers-color-scheme:dark)")
    )
    colours = light if mode == "light" else {**light, **dark}

    def contrast(a: str, b: str) -> float:
        high, low = sorted((_luminance(colours[a]), _luminance(colours[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("bg", "card"):
        for ink in ("ink", "soft", "good", "bad", "open", "blue"):
            assert contrast(ink, ground) >= 4.5, (ink, ground, contrast(ink, ground))
        for line in (f"s{i}" for i in range(6)):
            assert contrast(line, ground) >= 3, (line, ground)


@pytest.mark.parametrize("mode", [0, 1])
def test_text_upon_the_strongest_colour_can_be_read(mode: int) -> None:
    part = STYLE.split("@media(prefers-color-scheme:dark)")[mode]
    base = dict(re.findall(r"--(\w+):(#\w+)", part))
    for hue in ("heat", "warm"):
        found = re.search(rf"--{hue}:(\d+),(\d+),(\d+)", part)
        assert found
        ground = [int(base["bg"][i : i + 2], 16) for i in (1, 3, 5)]
        mixed = [round(0.62 * int(c) + 0.38 * g) for c, g in zip(found.groups(), ground, strict=True)]
        a, b = sorted((_luminance(base["ink"]), _luminance("#" + "".join(f"{c:02x}" for c in mixed))))
        assert (b + 0.05) / (a + 0.05) >= 4.5, hue
