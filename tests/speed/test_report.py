"""Tables: complete, in both languages, and written where they belong, again and again the same."""

from pathlib import Path
from typing import Any

import pytest

from src.core.errors import ProjectError
from src.speed import report
from src.speed.stopwatch import PHASES


def spread(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value, "rounds": 3}


@pytest.fixture
def result() -> dict[str, Any]:
    way = {
        "windows_per_s": spread(100), "frames_per_s": spread(110), "mfu": spread(0.25), "peak_memory_gb": 1.5,
        "split": dict.fromkeys(PHASES, 1 / 6), "peak": {"tflops_per_s": 0.1, "source": "measured matmul peak"},
    }  # fmt: skip
    return {
        "command": "python -m src.benchmark", "date": "2026-01-02T03:04:05", "threads": 2,
        "machine": {"cpu": "A CPU", "cores": 2, "gpus": []}, "packages": {"torch": "2.13.0"},
        "training": {"rounds": 3, "steps": 2, "ways": {"sliding": way, "encode_once": way},
                     "ratios": {"encode_once": {**spread(7.5), "against": "sliding"}},
                     "failed": {"cached": "out of memory on this device"}},
        "memory": [{"way": "encode_once", "episodes_per_batch": 2, "distinct_frames": 36, "peak_memory_gb": 2.0}],
        "inference": {**{key: {"value": 5.0} for key in ("p50_ms", "p95_ms", "p99_ms")}, "floor_ms": 0.3},
        "pipeline": {"frames_per_s": spread(9000)},
        "start_up": {**{key: {"wall_s": spread(0.5), "cpu_s": spread(0.4)} for key in ("help", "config_error")},
                     "first_step": {"wall_s": 9.0}},
        "sweep": {"trials_per_min": 12.0},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_written_twice_is_written_once(result: dict[str, Any], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.write(path, result)
    once = path.read_text(encoding="utf-8")
    report.write(path, result)
    assert path.read_text(encoding="utf-8") == once
    assert once.startswith(f"before\n{report.BEGIN}\n") and once.endswith(f"{report.END}\nafter\n")
    assert "old" not in once and "| sliding | 100 (90–110) |" in once
    assert "7.5 (6.75–8.25) × sliding" in once and "A CPU" in once and "measured matmul peak" in once
    assert ("윈도/초" in once) == (name == "README.ko.md")


def test_both_languages_hold_the_same_figures(result: dict[str, Any]) -> None:
    english, korean = (report.tables(result, language) for language in ("en", "ko"))
    assert len(english) == len(korean) == 4
    for (header, rows), (other, others) in zip(english, korean, strict=True):
        assert len(header) == len(other) and len(rows) == len(others)
        assert all(len(row) == len(header) for row in [*rows, *others])
        assert [row[1:] for row in rows] == [row[1:] for row in others] or header[0] == "measured"


@pytest.mark.parametrize(
    "text", ["", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN}{report.END}" * 2]
)
def test_a_file_without_its_place_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match="benchmark:begin"):
        report.require_markers(path)
