"""report.html in a real browser: light, dark and phone; the verdict in the first screen, no wider than the screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.evaluation.report import page
from tests.evaluation.report import sample
from tests.evaluation.report.browser import MISSING, Browser, browser, installed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(installed() is None, reason=MISSING)]

FACTS = """(() => {
    const box = document.getElementById('verdict').getBoundingClientRect();
    const answers = document.querySelector('.answers').getBoundingClientRect();
    const wide = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')
        && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
    return {top: box.top, bottom: answers.bottom, left: box.left, words: document.getElementById('verdict').innerText,
        wide: wide.map(e => e.outerHTML.slice(0, 120)),
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
        films: [...document.querySelectorAll('video')].filter(v => v.error).length,
        small: Math.min(...[...document.querySelectorAll('main td, main p, main li')].filter(e => e.offsetParent)
            .map(e => parseFloat(getComputedStyle(e).fontSize))),
        ground: getComputedStyle(document.body).backgroundColor};
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = installed()
    assert path is not None
    with browser(path, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module", params=["full", "bad", "nothing"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    made = getattr(sample, request.param)()
    if request.param != "nothing":
        sample.write_files(folder, made)
    return page.write(folder, made, folder if request.param != "nothing" else None)


@pytest.mark.parametrize(
    ("width", "height", "dark"),
    [(1280, 800, False), (1280, 800, True), (360, 740, False), (360, 740, True)],
    ids=["desktop-light", "desktop-dark", "phone-light", "phone-dark"],
)
def test_it_is_readable(chromium: Browser, report: Path, width: int, height: int, dark: bool) -> None:
    seen = chromium.look(report, width, height, dark, FACTS)
    facts = seen.facts
    assert 0 <= facts["top"] < facts["bottom"] <= height, "headline and answers stand in the first screen"
    assert facts["words"].startswith(("Success", "Not driven"))
    assert seen.scroll_width <= width and facts["wide"] == []
    assert seen.complaints == [] and seen.requests == []
    assert facts["broken"] == 0 and facts["films"] == 0
    assert facts["small"] >= 11.5
    picture = np.asarray(Image.open(io.BytesIO(seen.first_screen)).convert("L"))
    assert picture.shape == (height, width) and picture.std() > 3, "something is drawn"
    assert (np.median(picture) < 80) == dark


def test_the_guard_of_the_page_refuses_the_network(chromium: Browser, tmp_path: Path) -> None:
    """The test above cannot pass for want of an ear: a request and a script are heard and refused."""
    path = page.write(tmp_path, sample.nothing())
    html = path.read_text(encoding="utf-8")
    asked = "<img src='http://127.0.0.1:9/x.png'><script>1</script></main>"
    path.write_text(html.replace("</main>", asked), encoding="utf-8")
    seen = chromium.look(path, 800, 600)
    assert any("Content Security Policy" in one for one in seen.complaints)
    path.write_text(html.replace("Content-Security-Policy", "X").replace("</main>", asked), encoding="utf-8")
    assert chromium.look(path, 800, 600).requests == ["http://127.0.0.1:9/x.png"]
