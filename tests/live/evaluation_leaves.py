"""What is seen of the keys of `evaluation`: figures of a very small report, files beside it, glances, verdicts."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from src.core.config import build
from src.deploy import predictor
from src.evaluation.evaluator import Evaluation
from src.evaluation.glance import Glance
from src.evaluation.statistics import Estimate, PairedTest
from src.experiment import stages
from src.experiment.checkpoint import build_policy
from src.experiment.run_record import RunRecord
from src.experiment.signals import StopRequest
from src.model.policy import Policy
from tests.live.scene import Case, Observer, View, files_below

PARTS = ("offline", "baselines", "closed_loop", "probes", "latency")

# ---------------------------------------------------------------- one small evaluation


def _scene(view: View) -> tuple[Evaluation, Policy, Any]:
    """The evaluation of the config, a fresh policy, and its data."""
    cfg = view.cfg
    module = build(cfg.data)
    module.setup("fit")
    policy = build_policy(cfg, module.action_space, module.normalizer).eval()
    policy.fit_actions(module.training_actions())
    module.bind(policy.tokenize)
    return build(cfg.evaluation), policy, module


def _report(view: View, checkpoint: Path | None = None) -> dict[str, Any]:
    evaluation, policy, module = _scene(view)
    run = view.folder / "run"
    run.mkdir(exist_ok=True)
    report = evaluation.run(view.folder / "out", policy, module, run=run, checkpoint=checkpoint)
    assert report["failed"] == {}
    return report


def _section(name: str, *keys: str) -> Observer:
    """Keys of the section `name`; those that only repeat a setting are not asked for."""

    def see(view: View) -> Any:
        section = _report(view)[name]
        return {key: section[key] for key in keys}

    see.__name__ = f"{name}_{'_'.join(keys)}"
    return see


within = _section("offline", "within_tolerance")
phases = _section("offline", "phases")
errors = _section("offline", "error")
opponents = _section("baselines", "offline")
driven_opponents = _section("baselines", "closed_loop")
drives = _section("closed_loop", "reach/layout")
driven_probes = _section("probes", "driven")
changed_frames = _section("probes", "recorded")
word_strips = _section("probes", "words")
occlusion = _section("probes", "occlusion")


def suites_driven(view: View) -> list[str]:
    """Which suites have a table of drives."""
    return sorted(path.name for path in (view.folder / _folder(view)).rglob("*.csv"))


def _folder(view: View) -> str:
    _report(view)
    return "out"


def sentences(view: View) -> list[str]:
    """What is said in the tasks; the tiny tokeniser knows no Korean, so nobody drives them."""
    evaluation, policy, module = _scene(view)
    bench = evaluation.bench(policy, module, view.folder, None)
    return [task.instruction for suite in bench.suites for task in bench.tasks(suite)]


def rollouts(view: View) -> list[Any]:
    """What was said and done in every drive."""
    _report(view)
    return [json.loads(path.read_text()) for path in sorted((view.folder / "out").rglob("rollouts/*.json"))]


def files(view: View) -> list[str]:
    """The files of a report."""
    _report(view)
    return files_below(view.folder / "out")


def film_size(view: View) -> list[tuple[int, int]]:
    """Width and height of the films, px."""
    import av

    _report(view)
    sizes = []
    for path in sorted((view.folder / "out").rglob("*.mp4")):
        with av.open(str(path)) as film:
            sizes.append((film.streams.video[0].width, film.streams.video[0].height))
    return sizes


def sheet_size(view: View) -> int:
    """Bytes of the sheet of pictures."""
    _report(view)
    return sum(path.stat().st_size for path in (view.folder / "out").rglob("contact_sheet.png"))


def engines(view: View) -> list[str]:
    """How each predictor was asked to run its steps; that it can is tested with it, and takes it long."""
    asked: list[str] = []
    original = predictor.make_engine

    def note(policy: Policy, accelerate: str) -> Any:
        asked.append(accelerate)
        return original(policy, "none")

    with patch.object(predictor, "make_engine", note):
        _report(view)
    return asked


def encoded(view: View) -> list[int]:
    """How many frames the policy is shown at once, call by call."""
    seen: list[int] = []
    original = Policy.encode_frames

    def note(self: Policy, frames: torch.Tensor, *rest: Any) -> Any:
        seen.append(len(frames))
        return original(self, frames, *rest)

    with patch.object(Policy, "encode_frames", note):
        _report(view)
    return seen


class _Asked(Exception):
    """Stops an evaluation at the moment it asks for processes."""


def simulating_processes(view: View) -> int:
    """How many processes the drives ask for; none where they run in this one."""

    def fleet(_: int, workers: int) -> Any:
        raise _Asked(workers)

    with patch("src.evaluation.bench.ProcessFleet", fleet):
        try:
            _report(view)
        except _Asked as asked:
            return int(asked.args[0])
    return 0


def second_test(view: View) -> str:
    """Read the test split for one checkpoint, then for another one of the same run."""
    first, second = view.folder / "first", view.folder / "second"
    first.write_text("1")
    second.write_text("2")
    _report(view, first)
    return str(_report(view, second)["metrics"])


def recorded_split(view: View) -> list[str]:
    """Which recorded frames the opponents are scored on."""
    return sorted(_report(view)["baselines"]["offline"])


# ---------------------------------------------------------------- looks during training


def glances(view: View) -> list[str]:
    """The columns that the parts' light versions add to a training of one batch."""
    evaluation, policy, module = _scene(view)
    view.cfg.trainer.max_epochs, view.cfg.trainer.limit_train_batches = 1, 1
    view.cfg.logger.wandb = None
    record = RunRecord(view.folder / "run", view.cfg)
    with warnings.catch_warnings(), StopRequest() as stop, record:
        warnings.simplefilter("ignore")
        watch = Glance(evaluation, module, record.folder)
        trainer = stages.build_trainer(view.cfg, record, stop, [watch])
        stages.fit(trainer, policy, module, None)
    with (record.folder / "metrics.csv").open(newline="") as file:
        return sorted(next(csv.reader(file)))


def glance_drives(view: View) -> list[str]:
    """What is said in the drives of a look during training."""
    evaluation, policy, module = _scene(view)
    bench = evaluation.bench(policy, module, view.folder, None, light=True)
    said: list[str] = []
    original = bench.drive

    def note(controller: Any, tasks: Any) -> Any:
        said.extend(task.instruction for task in tasks)
        return original(controller, tasks)

    bench.drive = note  # type: ignore[method-assign]
    evaluation.parts["closed_loop"].glance(bench)
    return said


# ---------------------------------------------------------------- verdicts


def _curves(validation: list[float], training: list[float]) -> Observer:
    """The answers of the rules about two made curves; the columns of a second pair say something else."""

    def see(view: View) -> dict[str, str]:
        rows = zip(validation, training, strict=True)
        lines = ["step,epoch,train/loss,val/loss,train/other,val/other"]
        lines += [f"{i},{i},{t},{v},{2 - 0.1 * i},{2 - 0.1 * i}" for i, (v, t) in enumerate(rows)]
        (view.folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        section = build(view.cfg.evaluation.parts.offline.curves).section(view.folder)
        return {key: verdict["answer"] for key, verdict in section["verdicts"].items()}

    return see


_FALL = [1.0, 0.8, 0.6, 0.5, 0.45, 0.42, 0.4, 0.39, 0.385]
rising_validation = _curves([1.0, 0.8, 0.6, 0.5, 0.5, 0.52, 0.54, 0.56, 0.58], _FALL)
rising_training = _curves(_FALL, [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.4, 0.5, 0.6])
diverging = _curves(_FALL, [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.5, 0.7, 0.9])
late_fall = _curves([1.0, 0.8, 0.6, 0.5, 0.45, 0.42, 0.4, 0.38, 0.36], _FALL)
noisy_rise = _curves([1.0, 0.8, 0.62, 0.5, 0.53, 0.50, 0.56, 0.53, 0.58], _FALL)


def _share(value: float, n: int = 40, spread: float = 0.05) -> Estimate:
    return Estimate(value, value - spread, value + spread, n, "made", n)


def _probes(section: Callable[[], dict[str, Any]]) -> Observer:
    """What the part answers to made figures."""

    def see(view: View) -> dict[str, str]:
        part = build(view.cfg.evaluation).parts["probes"]
        return {name: verdict.answer for name, verdict in part.verdict(section(), None).items()}

    see.__name__ = section.__name__
    return see


@_probes
def swapped_sides() -> dict[str, Any]:
    pairs = {
        "passed": _share(0.9),
        "changed": _share(0.7),
        "obeyed_swapped": _share(0.7),
        "same_commands": _share(0.1),
    }
    return {"driven": {"swapped": pairs, "chance": {"sides": 0.5, "objects": 0.5}}, "recorded": {}}


@_probes
def strangers_words() -> dict[str, Any]:
    drop = PairedTest(_share(0.5), 0.001)
    shuffled = {"success": _share(0.4), "drop": drop}
    return {"driven": {"original": {"success": _share(0.9)}, "shuffled": shuffled}, "recorded": {}}


@_probes
def exchanged_sides() -> dict[str, Any]:
    return {"driven": None, "recorded": {"mirrored": {"flip": _share(0.7)}}}


@_probes
def hidden_image() -> dict[str, Any]:
    hidden = {"change": _share(0.04, spread=0.01), "error_rise": PairedTest(_share(0.04, spread=0.01), 0.001)}
    return {"driven": None, "recorded": {"no_image": hidden}}


# ---------------------------------------------------------------- the cases


def _only(*parts: str, **more: Any) -> dict[str, Any]:
    """Only these parts; without suites unless `more` names some."""
    rest: dict[str, Any] = {f"evaluation.parts.{name}": None for name in PARTS if name not in parts}
    return {**rest, "evaluation.suites": [], **{key.replace("__", "."): value for key, value in more.items()}}


_DRIVE = {"evaluation.suites": ["reach/layout"], "evaluation.episodes": 2}
_PLAIN = {
    "evaluation.parts.closed_loop.videos": False, "evaluation.parts.closed_loop.contact_sheet": 0,
    "evaluation.parts.closed_loop.expert": False,
}  # fmt: skip
_FEW = {
    "evaluation.parts.probes.driven": [], "evaluation.parts.probes.recorded": ["no_instruction"],
    "evaluation.parts.probes.word_episodes": 0, "evaluation.parts.probes.occlusion_frames": 0,
}  # fmt: skip
_TEST = {"data.split.train": 0.6, "data.split.test": 0.2}
_OFFLINE, _LATENCY = _only("offline"), _only("latency")
_BASELINES = {**_only("baselines"), "evaluation.parts.baselines.names": ["mean", "clock"]}
_CLOSED = {**_only("closed_loop"), **_DRIVE, **_PLAIN}
_FILMED = {**_CLOSED, "evaluation.episodes": 1}
_PROBES = {**_only("probes"), **_FEW}
_DRIVEN = {**_PROBES, **_DRIVE, "evaluation.parts.probes.driven": ["blank"], "evaluation.split": None}
_GLANCE = {
    **_only("offline", "closed_loop", "probes"), "evaluation.parts.closed_loop.glance_suite": "reach/val",
    "evaluation.parts.closed_loop.glance_episodes": 1,
}  # fmt: skip


def _less(given: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != key}


_E = "evaluation."
_P = "evaluation.parts."

CASES: dict[str, Case] = {
    _E + "split": Case(None, recorded_split, _BASELINES),
    _E + "suites": Case(["route1/layout"], suites_driven, _less(_CLOSED, _E + "suites")),
    _E + "episodes": Case(1, rollouts, _less(_CLOSED, _E + "episodes")),
    _E + "language": Case("ko", sentences, _CLOSED),
    _E + "execute": Case(2, rollouts, _CLOSED),
    _E + "temporal_ensemble": Case(0.01, rollouts, _CLOSED),
    _E + "batch_size": Case(1, encoded, _CLOSED),
    _E + "workers": Case(3, simulating_processes, _CLOSED),
    _E + "seed": Case(1, errors, {**_OFFLINE, "data.split.train": 0.2, "data.split.val": 0.8}),
    _E + "allow_second_test": Case(
        True, second_test, {**_LATENCY, **_TEST, _E + "split": "test"}, refused="before"
    ),
    _P + "offline.tolerance": Case(1.0, within, _OFFLINE),
    _P + "offline.steering": Case(0.9, phases, _OFFLINE),
    _P + "offline.every_n_epochs": Case(1, glances, _GLANCE),
    _P + "offline.curves.metric": Case("val/other", rising_validation),
    _P + "offline.curves.train_metric": Case("train/other", diverging),
    _P + "offline.curves.overfit": Case(0.3, rising_validation),
    _P + "offline.curves.diverge": Case(0.1, rising_training),
    _P + "offline.curves.improving": Case(0.5, late_fall),
    _P + "offline.curves.noise": Case(0.1, noisy_rise),
    _P + "baselines.names": Case(["mean"], opponents, _only("baselines")),
    _P + "baselines.episodes": Case(1, driven_opponents, {**_BASELINES, **_DRIVE, _E + "split": None}),
    _P + "baselines.tolerance": Case(0.5, opponents, _BASELINES),
    _P + "closed_loop.expert": Case(False, drives, _less(_CLOSED, _P + "closed_loop.expert")),
    _P + "closed_loop.videos": Case(True, files, _FILMED),
    _P + "closed_loop.video_size": Case(64, film_size, {**_FILMED, _P + "closed_loop.videos": True}),
    _P + "closed_loop.contact_sheet": Case(1, sheet_size, _less(_CLOSED, _P + "closed_loop.contact_sheet")),
    _P + "closed_loop.glance_suite": Case(
        "reach/val", glance_drives, {_P + "closed_loop.glance_episodes": 1}
    ),
    _P + "closed_loop.glance_episodes": Case(
        1, glance_drives, {_P + "closed_loop.glance_suite": "reach/val"}
    ),
    _P + "closed_loop.every_n_epochs": Case(None, glances, _GLANCE),
    _P + "probes.driven": Case(["shuffled"], driven_probes, _less(_DRIVEN, _P + "probes.driven")),
    _P + "probes.suite": Case(1, driven_probes, {**_DRIVEN, _E + "suites": ["reach/layout", "reach/val"]}),
    _P + "probes.episodes": Case(1, driven_probes, _DRIVEN),
    _P + "probes.recorded": Case(["no_image"], changed_frames, _less(_PROBES, _P + "probes.recorded")),
    _P + "probes.recorded_episodes": Case(1, changed_frames, _PROBES),
    _P + "probes.word_episodes": Case(1, word_strips, _less(_PROBES, _P + "probes.word_episodes")),
    _P + "probes.occlusion_frames": Case(1, occlusion, _less(_PROBES, _P + "probes.occlusion_frames")),
    _P + "probes.occlusion_grid": Case(2, occlusion, {**_PROBES, _P + "probes.occlusion_frames": 1}),
    _P + "probes.every_n_epochs": Case(None, glances, _GLANCE),
    _P + "probes.thresholds.outcome_change": Case(0.9, swapped_sides),
    _P + "probes.thresholds.success_share": Case(0.1, strangers_words),
    _P + "probes.thresholds.flip": Case(0.9, exchanged_sides),
    _P + "probes.thresholds.action_change": Case(0.2, hidden_image),
    _P + "latency.steps": Case(4, encoded, _LATENCY),
    _P + "latency.warmup": Case(1, encoded, _LATENCY),
    _P + "latency.accelerate": Case("compile", engines, _LATENCY),
}

SLOW: set[Observer] = {
    encoded, rollouts, suites_driven, files, film_size, sheet_size, drives, glances, glance_drives, second_test,
    driven_probes, driven_opponents, opponents, word_strips, occlusion, changed_frames, within, phases, errors,
    recorded_split,
}  # fmt: skip
