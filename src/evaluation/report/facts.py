"""Owns what a page says about the run behind a report: what it is, how it was trained, what it cost, its sources.

In: the report with its `provenance`, and of the run folder metrics.csv and .hydra/config.yaml where they exist. Out:
rows of text and series of numbers. What is not known is not shown; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.evaluation.report.advice import choices
from src.evaluation.report.figures import Series, columns
from src.evaluation.report.words import seconds, value_of
from src.experiment.csv_logger import FILE as CURVES
from src.experiment.csv_logger import read_metrics

Rows = list[tuple[str, str]]
Report = Mapping[str, Any]
_OF_THE_RUN = (
    "name",
    "command",
    "code",
    "machine",
    "packages",
    "checkpoint",
    "data",
    "model",
    "training",
    "memory",
)
_DATA = (
    ("root", "data"),
    ("data_hash", "data hash"),
    ("split_hash", "split hash"),
    ("split_file", "split file"),
)


def title(report: Report, run: Path | None) -> str:
    """What the run is called: its folder, else the name it gave itself."""
    if run is not None:
        return run.resolve().name
    return str((report["provenance"] or {}).get("name") or "policy without a run folder")


def in_one_line(report: Report, run: Path | None) -> str:
    """Backbone, placement, head, window and horizon, data, epochs and seed."""
    cfg = choices(run)[1] if run is not None else None
    parts = list(_model(cfg)) if cfg is not None else []
    given = _given(report)
    train = (given("data").get("splits") or {}).get("train")
    if train:
        parts.append(f"{train['episodes']} training episodes")
    if "epochs" in given("training"):
        parts.append(f"{given('training')['epochs']} epochs")
    seed = report["provenance"].get("seed")
    if seed is not None:
        parts.append(f"seed {seed}")
    return " · ".join(parts)


def _given(report: Report) -> Any:
    """A section of the provenance, empty where it is not known."""
    return lambda key: report["provenance"].get(key) or {}


def _model(cfg: DictConfig) -> Iterator[str]:
    for key in ("model.backbone", "model.lora", "model.head"):
        target = OmegaConf.select(cfg, f"{key}._target_")
        if target is not None:
            yield str(target).rpartition(".")[2]
    for key, words in (("data.window", "window"), ("data.horizon", "horizon")):
        value = OmegaConf.select(cfg, key)
        if value is not None:
            yield f"{words} {value}"


def curves(run: Path | None) -> list[dict[str, float]]:
    """The rows of metrics.csv, each with the values that were logged in it; none where there is no such file."""
    return read_metrics(run) if run is not None and (run / CURVES).is_file() else []


def loss_series(rows: Sequence[Mapping[str, float]]) -> list[Series]:
    """Loss of training and validation over the steps."""
    names = {"train/loss": "training", "val/loss": "validation"}
    return [
        Series(words, *columns(rows, "step", key))
        for key, words in names.items()
        if any(key in r for r in rows)
    ]


def mae_series(rows: Sequence[Mapping[str, float]]) -> list[Series]:
    """Validation error per axis over the steps."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("val/mae/"))
    return [Series(key.rpartition("/")[2], *columns(rows, "step", key)) for key in keys]


def cost(report: Report) -> Rows:
    """Time, memory, size and latency, as far as they were measured."""
    given = _given(report)
    training, model, memory, checkpoint = (
        given(key) for key in ("training", "model", "memory", "checkpoint")
    )
    out: Rows = []
    if "step_seconds" in training:
        out.append(("training steps took", seconds(training["step_seconds"])))
    if "steps" in training:
        out.append(("training steps", _thousands(training["steps"])))
    if "windows_per_s" in training:
        out.append(("training speed", f"{training['windows_per_s']:.0f} windows/s"))
    if "total" in report["timings"]:
        out.append(("this evaluation", seconds(report["timings"]["total"])))
    for key, words in (("parameters", "parameters"), ("trainable", "of which trained")):
        if model.get(key) is not None:
            out.append((words, _thousands(model[key])))
    for key, words in (("process_gb", "memory, process"), ("gpu_gb", "memory, GPU")):
        if key in memory:
            out.append((words, f"{memory[key]:.2f} GB"))
    if "bytes" in checkpoint:
        out.append(("checkpoint", f"{checkpoint['bytes'] / 1e6:.1f} MB"))
    latency = report.get("latency") or {}
    for key, words in (("p50_ms", "median"), ("p95_ms", "95 %"), ("p99_ms", "99 %")):
        if value_of(latency.get(key)) is not None:
            out.append((f"one step, {words}", milliseconds(latency[key])))
    if value_of(latency.get("times_floor")) is not None:
        floor, times = latency["floor_ms"], latency["times_floor"]
        out.append(("reading the weights takes", f"{floor:.3g} ms; the median is {times:.1f} times that"))
    if value_of(latency.get("control_period_ms")) is not None:
        out.append(("a robot has per step", f"{latency['control_period_ms']:.0f} ms"))
    frames = value_of(latency.get("frames_per_step"))
    if frames is not None:
        out.append(("frames encoded per step", f"{frames:g}"))
    if latency.get("device"):
        threads = f", {latency['threads']} threads" if "threads" in latency else ""
        out.append(("steps measured on", f"{latency['device']}{threads}"))
    return out


def provenance(report: Report) -> Rows:
    """Where the figures come from: command, code, data, split, seed, checkpoint, machine, test readings."""
    given = _given(report)
    code, data, machine, checkpoint = (given(key) for key in ("code", "data", "machine", "checkpoint"))
    out: Rows = []
    if report["provenance"].get("command"):
        out.append(("command", report["provenance"]["command"]))
    if code:
        state = "with uncommitted changes (changes.diff)" if code["dirty"] else "without uncommitted changes"
        out.append(("code", f"{code['sha']} ({code['branch']}), {state}"))
    out += [(words, str(data[key])) for key, words in _DATA if data.get(key)]
    for name, split in (data.get("splits") or {}).items():
        out.append(
            (f"{name} split", ", ".join(f"{_thousands(v)} {k.replace('_', ' ')}" for k, v in split.items()))
        )
    if checkpoint:
        shown = [
            _plain(checkpoint[key]) if key == "file" else f"{key} {_plain(checkpoint[key])}"
            for key in checkpoint
        ]
        out.append(("checkpoint", ", ".join(part for part in shown if not part.startswith("bytes"))))
    if machine:
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        out.append(
            ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {gpus}")
        )
        out.append(("system", f"{machine['system']}, Python {machine['python']}"))
    if given("packages"):
        out.append(
            ("packages", ", ".join(f"{name} {version}" for name, version in given("packages").items()))
        )
    rest = {
        key: item for key, item in report["provenance"].items() if key not in (*_OF_THE_RUN, "test_reads")
    }
    out += leaves(rest)
    reads = report["provenance"].get("test_reads") or []
    said = "; ".join(f"{one['at']} for {one['checkpoint']} ({one['sha256']})" for one in reads)
    out.append(("test split read", said or "not by this evaluation"))
    return out


def milliseconds(item: Any) -> str:
    """`8.4 ms (8.2–8.6)`."""
    shown = f"{value_of(item):.1f} ms"
    if isinstance(item, Mapping) and item.get("low") is not None and item.get("high") is not None:
        shown += f" ({item['low']:.1f}–{item['high']:.1f})"
    return shown


def leaves(node: Mapping[str, Any], prefix: str = "") -> Rows:
    """Nested plain values as `path/to/key` and text; what is empty is left out."""
    out: Rows = []
    for key, item in node.items():
        if isinstance(item, Mapping):
            out += leaves(item, f"{prefix}{key}/")
        elif isinstance(item, (list, tuple)):
            if item:
                out.append((f"{prefix}{key}", "; ".join(_plain(one) for one in item)))
        elif item is not None:
            out.append((f"{prefix}{key}", _plain(item)))
    return out


def _plain(item: Any) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {_plain(value)}" for key, value in item.items())
    return f"{item:.4g}" if isinstance(item, float) else str(item)


def _thousands(count: float) -> str:
    return f"{count / 1e6:.2f} million" if count >= 1e6 else f"{count:,.0f}".replace(",", " ")
