"""The check as a whole: the page, the card, the JSON, the table, and the command line as a real process."""

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from src.core.errors import ProjectError
from src.data.check.finding import SEVERITIES
from src.data.check.outcome import Outcome
from src.data.check.runner import ALL, SCHEMA, check
from src.data.check.screen import show
from src.data.episode import write_episode
from src.data.instruction import FromFile
from src.data.split import SplitRule
from tests.data.builders import SPACE
from tests.data.check.folders import drive, sound

ROOT = Path(__file__).resolve().parents[3]
VOID = {"meta", "img", "line", "polyline", "circle", "br"}


def _data(root: Path, **changes: Any) -> Any:
    """What the check asks of a data module, without importing Lightning's."""
    fields = {
        "root": root, "action_space": SPACE, "lab": None, "instruction": FromFile(), "split_rule": SplitRule(),
        "allow_mixed_sizes": False,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A sound folder with two bad files and a name that would break a careless page."""
    root = tmp_path_factory.mktemp("check") / "my <data> | set"
    for episode in [*sound(), drive("odd", instructions=('go <b>there</b> | "now"',))]:
        write_episode(root / f"{episode.id}.h5", episode)
    (root / "bad.h5").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (root / "<i>empty.h5").write_bytes(b"")
    return check(_data(root), workers=1, progress=False)


class _Page(HTMLParser):
    """Raises on tags that do not close in order; collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network(outcome: Outcome) -> None:
    content = (outcome.out / "check.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(content)
    page.close()
    assert not page.open and {"svg", "img", "table", "article"} <= page.seen
    assert not page.seen & {"script", "link", "iframe", "object"}
    assert page.addresses and all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"(?i)https?:(?!//git-lfs)|@import|url\(|//[a-z]+\.", content)
    assert "<i>empty" not in content and "&lt;i&gt;empty.h5" in content and "<b>there" not in content
    assert 'name="viewport"' in content and "prefers-color-scheme:dark" in content


def test_one_bad_file_is_reported_and_the_others_are_counted(outcome: Outcome) -> None:
    assert outcome.failed and outcome.figures["episodes"] == 25
    assert {f.code for f in outcome.findings if f.severity == "error"} == {"lfs_pointer", "empty_file"}
    order = [SEVERITIES.index(f.severity) for f in outcome.findings]
    assert order == sorted(order)


def test_the_json_says_the_same(outcome: Outcome) -> None:
    found = json.loads((outcome.out / "check.json").read_text(encoding="utf-8"))
    assert found["schema"] == SCHEMA and found["files"] == 27
    assert found["counts"] == outcome.counts()
    assert [f["code"] for f in found["findings"]] == [f.code for f in outcome.findings]
    pointer = next(f for f in found["findings"] if f["code"] == "lfs_pointer")
    assert pointer["files"] == ["bad.h5"] and pointer["file_count"] == 1 and pointer["advice"]
    assert len(found["asked"]) == len(ALL) == len({row["question"] for row in found["asked"]})
    assert all(row["question"].endswith(("?", ")?")) for row in found["asked"])


def test_the_card_is_a_table_that_holds(outcome: Outcome) -> None:
    card = (outcome.out / "dataset_card.md").read_text(encoding="utf-8")
    assert "| episodes | 25 (2 further files unusable) |" in card and "`lfs_pointer`" in card
    assert "# Data set: my <data> \\| set" in card and "To be filled in" in card


def test_the_screen_names_code_remedy_and_file(outcome: Outcome) -> None:
    stream = io.StringIO()
    show(outcome, Console(file=stream, width=110))
    said = stream.getvalue()
    for words in (
        "lfs_pointer",
        "git lfs pull",
        "bad.h5",
        "27 files: 25 episodes",
        "2 errors",
        "a clock",
        "check.html",
    ):
        assert words in said


def test_nothing_but_the_three_files_is_written(outcome: Outcome) -> None:
    assert sorted(p.name for p in outcome.out.iterdir()) == ["check.html", "check.json", "dataset_card.md"]
    assert not list(outcome.facts.root.glob("split*")) and not (outcome.facts.root / ".frames").exists()


def test_a_folder_of_bad_files_alone_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    found = check(_data(tmp_path), workers=1, progress=False)
    assert [f.code for f in found.findings] == ["empty_file"] and (tmp_path / "check" / "check.html").exists()


def test_a_sentence_that_the_config_cannot_give_is_a_fault_of_that_file(tmp_path: Path) -> None:
    class Picky(FromFile):
        def wordings(self, episode: Any) -> tuple[str, ...]:
            if episode.id == "e001":
                raise ProjectError(f"{episode.path}: nothing to say.")
            return super().wordings(episode)

    for episode in sound(3):
        write_episode(tmp_path / f"{episode.id}.h5", episode)
    found = check(_data(tmp_path, instruction=Picky()), workers=1, progress=False)
    assert [f.path.name for f in found.facts.faults] == ["e001.h5"] and len(found.facts.episodes) == 2


def test_wrong_options_and_folders_say_so(tmp_path: Path) -> None:
    for key, value in (("frames", 0), ("workers", -1)):
        with pytest.raises(ProjectError, match=f"{key} is {value}"):
            check(_data(tmp_path), **{key: value})
    with pytest.raises(ProjectError, match="holds no episode"):
        check(_data(tmp_path))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "src.check_data", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    for episode in sound(24):
        write_episode(tmp_path / "data" / f"{episode.id}.h5", episode)
    words = ["data=mobile_vla", f"data.root={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]
    fine = _run(*words)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "24 files: 24 episodes" in fine.stdout and "\x1b" not in fine.stdout
    assert sorted(p.suffix for p in (tmp_path / "data").iterdir()) == [".h5"] * 24
    (tmp_path / "data" / "e003.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50)
    bad = _run(*words)
    assert bad.returncode == 1 and "truncated" in bad.stdout and "23 episodes" in bad.stdout
    report = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    assert report["counts"]["error"] == 1
    wrong = _run("data.root=nowhere_at_all")
    assert wrong.returncode == 2 and "nowhere_at_all does not exist" in wrong.stderr
    typo = _run("frame=3")
    assert typo.returncode == 2 and "frames" in typo.stderr
