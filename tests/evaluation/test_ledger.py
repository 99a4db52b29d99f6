"""The book about the test split: one choice of weights per run, every reading noted before it happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.core.errors import ProjectError
from src.evaluation.ledger import FILE, Reading, read


def weights(run: Path, name: str, content: bytes) -> Path:
    path = run / name
    path.write_bytes(content)
    return path


def test_a_reading_is_noted_before_it_happens_and_closed_after(tmp_path: Path) -> None:
    best = weights(tmp_path, "best.safetensors", b"a")
    reading = Reading.open(tmp_path, best, tmp_path, False)
    (entry,) = read(tmp_path)
    assert entry["state"] == "begun" and entry["checkpoint"] == best.name and entry["report"] == "."
    reading.close({})
    assert read(tmp_path)[0]["state"] == "done"
    again = Reading.open(tmp_path, best, tmp_path / "evaluations" / "x", False)
    again.close({"probes": "broke"})
    assert [entry["state"] for entry in read(tmp_path)] == ["done", "failed in part"]
    assert [fact["at"] for fact in again.facts()] == [entry["at"] for entry in read(tmp_path)]


def test_other_weights_may_not_be_chosen_by_the_test_split(tmp_path: Path) -> None:
    Reading.open(tmp_path, weights(tmp_path, "best.safetensors", b"a"), tmp_path, False)
    last = weights(tmp_path, "last.ckpt", b"b")
    with pytest.raises(ProjectError, match=r"best\.safetensors.*allow_second_test=true"):
        Reading.open(tmp_path, last, tmp_path, False)
    assert len(read(tmp_path)) == 1
    assert len(Reading.open(tmp_path, last, tmp_path, True).facts()) == 2


def test_the_same_file_name_with_other_weights_is_another_choice(tmp_path: Path) -> None:
    best = weights(tmp_path, "best.safetensors", b"a")
    Reading.open(tmp_path, best, tmp_path, False)
    best.write_bytes(b"trained on")
    with pytest.raises(ProjectError, match="other weights"):
        Reading.open(tmp_path, best, tmp_path, False)


def test_a_damaged_book_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[")
    with pytest.raises(ProjectError, match=FILE):
        read(tmp_path)
    (tmp_path / FILE).write_text(json.dumps([]))
    assert read(tmp_path) == []
