"""Owns how figures of a benchmark are shown: tables on the screen, and between markers in Markdown files.

In: the result of a benchmark, as its JSON has it. Out: text. Writing the same result twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from src.core.errors import ProjectError
from src.core.files import atomic_write_text
from src.speed.stopwatch import PHASES

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"

_WORDS = {
    "en": {
        "training": ["way", "windows/s", "frames/s", "ratio in one round (low–high)", "MFU", "peak memory"],
        "split": ["way", *PHASES],
        "other": ["measured", "figure"],
        "data": "data pipeline alone",
        "latency": "control step p50 / p95 / p99",
        "floor": "bound by reading the weights",
        "help": "`--help`",
        "config_error": "sentence about a misspelt key",
        "first_step": "first optimizer step",
        "sweep": "head-only trials per minute",
        "by": "Measured by `{command}` on {machine}, {threads} threads, torch {torch}, {date}. {rounds}Spread: lowest "
        "to highest round. Peak memory: {memory}. MFU of {peak}.",
        "rounds": "{rounds} rounds of {steps} steps in one run, ways in turn. ",
        "gpu": "allocated on the GPU",
        "cpu": "resident in the process, in which all ways live",
    },
    "ko": {
        "training": [
            "방식",
            "윈도/초",
            "프레임/초",
            "같은 라운드 안의 비율 (최저–최고)",
            "MFU",
            "최대 메모리",
        ],
        "split": ["방식", "데이터", "인코딩", "헤드", "역전파", "옵티마이저", "로깅"],
        "other": ["측정", "값"],
        "data": "데이터 파이프라인만",
        "latency": "제어 스텝 p50 / p95 / p99",
        "floor": "가중치를 읽는 시간(하한)",
        "help": "`--help`",
        "config_error": "잘못 쓴 키에 대한 오류 문장",
        "first_step": "첫 옵티마이저 스텝",
        "sweep": "헤드만 학습하는 시도, 분당",
        "by": "`{command}`로 측정: {machine}, 스레드 {threads}개, torch {torch}, {date}. {rounds}"
        "범위는 최저–최고 라운드. 최대 메모리: {memory}. MFU 기준: {peak}.",
        "rounds": "한 번의 실행에서 방식을 번갈아 {steps} 스텝씩 {rounds} 라운드. ",
        "gpu": "GPU에 할당된 양",
        "cpu": "모든 방식이 함께 있는 프로세스의 상주 메모리",
    },
}


def show(result: Mapping[str, Any]) -> None:
    """Print the tables."""
    console = Console(highlight=False, markup=False)  # a command holds brackets
    for header, rows in tables(result, "en"):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_caption(result, "en"), soft_wrap=True)


def markdown(result: Mapping[str, Any], language: str) -> str:
    """The tables as Markdown, in `en` or `ko`."""
    parts = []
    for header, rows in tables(result, language):
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join([*parts, _caption(result, language)])


def require_markers(path: Path) -> None:
    """Refuse a file without exactly one place for the tables, before minutes of measuring.

    Raises:
        ProjectError: no such file, or not one marker of each kind in order.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ProjectError(
            f"benchmark.write: found {path} without one {BEGIN} and one {END} behind it, expected both; add them where "
            "the tables belong."
        )


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Replace what stands between the markers of `path`; a name that ends in `.ko.md` gets Korean words."""
    require_markers(path)
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = markdown(result, "ko" if path.name.endswith(".ko.md") else "en")
    atomic_write_text(path, f"{before}{BEGIN}\n{body}\n{END}{after}")


def tables(result: Mapping[str, Any], language: str) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of every table that the result has figures for."""
    words: Any = _WORDS[language]
    found = []
    training = result.get("training")
    if training is not None:
        ways = training["ways"]
        rows = [_way(name, way, training["ratios"].get(name)) for name, way in ways.items()]
        rows += [[name, why, "", "", "", ""] for name, why in training["failed"].items()]
        found.append((words["training"], rows))
        shares = [
            [name, *(f"{100 * way['split'][phase]:.1f} %" for phase in PHASES)] for name, way in ways.items()
        ]
        found.append((words["split"], shares))
    if result.get("memory"):
        header = [words["training"][0], "episodes", "frames", words["training"][-1]]
        found.append((header, [_size(row) for row in result["memory"]]))
    others = _others(result, words)
    if others:
        found.append((words["other"], others))
    return found


def _way(name: str, way: Mapping[str, Any], ratio: Mapping[str, Any] | None) -> list[str]:
    return [
        name,
        spread(way["windows_per_s"]),
        f"{way['frames_per_s']['median']:.3g}",
        "" if ratio is None else f"{spread(ratio)} × {ratio['against']}",
        f"{100 * way['mfu']['median']:.1f} %",
        f"{way['peak_memory_gb']:.2f} GB",
    ]


def _size(row: Mapping[str, Any]) -> list[str]:
    peak = row["peak_memory_gb"]
    return [
        row["way"], str(row["episodes_per_batch"]), str(row["distinct_frames"]),
        row["failed"] if peak is None else f"{peak:.2f} GB",
    ]  # fmt: skip


def _others(result: Mapping[str, Any], words: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    if "pipeline" in result:
        rows.append([words["data"], f"{spread(result['pipeline']['frames_per_s'])} frames/s"])
    if "inference" in result:
        one = result["inference"]
        quantiles = " / ".join(f"{one[key]['value']:.3g}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        rows.append([words["latency"], f"{quantiles} ms"])
        rows.append([words["floor"], f"{one['floor_ms']:.3g} ms"])
    for key in ("help", "config_error"):
        if "start_up" in result:
            took = result["start_up"][key]
            rows.append([words[key], f"{spread(took['wall_s'])} s (CPU {took['cpu_s']['median']:.2f} s)"])
    if "start_up" in result:
        rows.append([words["first_step"], f"{result['start_up']['first_step']['wall_s']:.1f} s"])
    if "sweep" in result:
        rows.append([words["sweep"], f"{result['sweep']['trials_per_min']:.1f}"])
    return rows


def spread(values: Mapping[str, Any]) -> str:
    """`7.2 (6.9–7.6)`."""
    return f"{values['median']:.3g} ({values['low']:.3g}–{values['high']:.3g})"


def _caption(result: Mapping[str, Any], language: str) -> str:
    words: Any = _WORDS[language]
    machine, training = result["machine"], result.get("training")
    gpus: Sequence[str] = machine["gpus"]
    rounds, peak = "", "–"
    if training is not None:
        rounds = words["rounds"].format(rounds=training["rounds"], steps=training["steps"])
        tops = {
            f"{way['peak']['tflops_per_s']:.3g} TFLOP/s ({way['peak']['source']})"
            for way in training["ways"].values()
        }
        peak = ", ".join(sorted(tops))
    return str(words["by"]).format(
        command=result["command"],
        machine=", ".join(gpus) if gpus else f"{machine['cpu']} ({machine['cores']} cores)",
        threads=result["threads"],
        torch=result["packages"].get("torch", "?"),
        date=result["date"][:10],
        rounds=rounds,
        memory=words["gpu" if gpus else "cpu"],
        peak=peak,
    )
