"""Without the extra: one sentence that names it, before anything is made or trained."""

import sys
from pathlib import Path

import pytest

from src.core.config import build
from src.core.errors import ProjectError
from src.external.babyai_data import collect


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own way to make an import fail, also where the library is installed."""
    monkeypatch.setitem(sys.modules, "minigrid", None)


@pytest.mark.usefixtures("without")
def test_recording_needs_the_extra(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"data\.source needs.*pip install -e '\.\[external\]'"):
        collect(tmp_path / "data", "GoToObj", episodes=1, progress=False)
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("without")
def test_evaluating_needs_the_extra(compose) -> None:  # type: ignore[no-untyped-def]
    cfg = compose("train", "evaluation=babyai")
    with pytest.raises(
        ProjectError, match=r"evaluation\.parts\.babyai needs.*pip install -e '\.\[external\]'"
    ):
        build(cfg.evaluation)
