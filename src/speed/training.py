"""Owns the timing of training: real `trainer.fit`s of a few steps, way by way, round by round.

In: the config of a run and the names of ways. Out: per way windows and frames per second, MFU, peak memory and the
split of a step; between ways the ratios of each round.

Every fit is the one of src/train.py: its policy, batches, optimizer, clipping, callbacks, logger and Lightning loop;
only validation is left out. All ways see the same batches (`shuffled`: drawn otherwise). A first fit of each
way is not counted: it allocates memory, compiles, fills the feature cache.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.core.memory import forget_earlier_runs
from src.core.peak import Peak, arithmetic, peak, settle
from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.sampler import Sampler
from src.experiment import quiet, stages
from src.experiment.checkpoint import build_policy
from src.experiment.provenance import peak_memory, reset_peak_memory
from src.experiment.run_record import RunRecord
from src.experiment.signals import StopRequest
from src.model.features.cache import FeatureCache
from src.model.flops import count_flops
from src.model.policy import Policy
from src.speed.compose import composed
from src.speed.stopwatch import PHASES, PhaseProfiler, Spread, StepTimer, ratios, rotated, watch
from src.speed.ways import Way, applied, chosen, references

FEATURES_GB = 20.0
"""What the feature cache of a benchmark may take on disk; it goes with the folder of the benchmark."""


@dataclass
class Arm:
    """One way, ready to be fitted."""

    name: str
    way: Way
    cfg: DictConfig
    policy: Policy
    datamodule: EpisodeDataModule
    sampler: Sampler
    features: FeatureCache | None
    record: RunRecord
    about_features: str | None = None


@dataclass(frozen=True)
class Work:
    """What the timed steps of a fit do: windows, distinct frames, operations (see src/model/flops.py).

    The operations are those that the windows need: frames encoded again, or computed again, count once.
    """

    windows: int
    frames: int
    flops: float


@dataclass
class Timing:
    """One fit: seconds of its timed steps, their phases where it was split, highest memory in GB."""

    seconds: float
    phases: dict[str, float] | None
    peak_gb: float


class Workshop(ExitStack):
    """Builds what the ways need; equal policies and equal data are built once and shared.

    A context manager: at its end the records of the runs are closed.
    """

    def __init__(self, train: Sequence[str], folder: Path) -> None:
        """
        Args:
            train: overrides of conf/train.yaml: the run that is measured.
            folder: for what the fits write; thrown away by the caller.
        """
        super().__init__()
        self.train, self.folder = list(train), folder
        self._policies: dict[str, tuple[Policy, RunRecord]] = {}
        self._datamodules: dict[str, EpisodeDataModule] = {}

    def config(self, way: Way, name: str, more: Sequence[str] = ()) -> DictConfig:
        """What `python -m src.train` would compose for this way."""
        cfg = composed("train", [*self.train, *way.overrides, *more], self.folder / name)
        cfg.evaluation = None
        cfg.callbacks.progress = None  # its lines would stand between ours
        return cfg

    def arm(self, name: str, way: Way) -> Arm:
        """The way with its policy, data and cache."""
        cfg = self.config(way, name)
        datamodule = self.datamodule(cfg)
        policy, record = self._policy(cfg, datamodule)
        datamodule.bind(policy.tokenize)  # forgets the batches' store of frames, which is then shared by all
        features = FeatureCache(str(self.folder / "features"), FEATURES_GB) if way.features else None
        return Arm(name, way, cfg, policy, datamodule, build(cfg.data.sampler), features, record)

    def datamodule(self, cfg: DictConfig) -> EpisodeDataModule:
        """The data of `cfg`, set up; whatever its sampler."""
        settings: dict[str, Any] = OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[assignment]
        settings.pop("sampler")
        key = json.dumps(settings, sort_keys=True)
        if key not in self._datamodules:
            datamodule: EpisodeDataModule = build(cfg.data)
            datamodule.prepare_data()
            datamodule.setup("fit")
            self._datamodules[key] = datamodule
        return self._datamodules[key]

    def _policy(self, cfg: DictConfig, datamodule: EpisodeDataModule) -> tuple[Policy, RunRecord]:
        key = json.dumps(OmegaConf.to_container(cfg.model, resolve=True), sort_keys=True)
        if key not in self._policies:
            policy = build_policy(cfg, datamodule.action_space, datamodule.normalizer)
            policy.backbone.require_image_size(datamodule.image_size)
            policy.fit_actions(datamodule.training_actions())
            self._policies[key] = policy, self.enter_context(RunRecord(Path(cfg.run_folder), cfg))
        return self._policies[key]


def fit(arm: Arm, warmup: int, steps: int, split: bool = False) -> Timing:
    """Train for `warmup` + `steps` batches of the first epoch; times the last `steps` of them.

    Raises:
        ProjectError: the data have fewer batches.
        torch.OutOfMemoryError: the device's memory does not do.
    """
    arm.datamodule.sampler = arm.sampler
    cfg = arm.cfg.copy()
    cfg.trainer.max_epochs = 1
    cfg.trainer.limit_train_batches = warmup + steps
    cfg.trainer.limit_val_batches = 0
    device = device_of(cfg)
    quiet.silence()
    forget_earlier_runs()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    reset_peak_memory()

    def wait() -> None:
        settle(device)

    profiler = PhaseProfiler(wait) if split else None
    timer = StepTimer(warmup, steps, wait, profiler)
    with StopRequest() as stop, applied(arm.way, arm.policy, arm.datamodule):
        trainer = stages.build_trainer(cfg, arm.record, stop)
        trainer.callbacks.append(timer)  # type: ignore[attr-defined]  # last: what the others cost is in
        undo = (lambda: None) if profiler is None else watch(arm.policy, profiler)
        if profiler is not None:
            trainer.profiler = profiler  # type: ignore[attr-defined]
        try:
            arm.policy.train()
            with _kept(arm, trainer):
                trainer.fit(arm.policy, datamodule=arm.datamodule)
        finally:
            undo()
    if timer.seconds is None:
        raise ProjectError(
            f"benchmark.steps: found {steps} after a warm-up of {warmup}, but an epoch of {arm.name} has fewer "
            "batches; lower it, or take more data."
        )
    return Timing(timer.seconds, timer.phases, _peak_gb(device))


def work(arm: Arm, warmup: int, steps: int) -> Work:
    """What the timed steps of `fit` do; the batches are a function of the seed, so these are the same ones."""
    batches = _batches(arm, warmup, steps)
    words = sum(float(b.instruction_mask.sum(dim=1).float().mean()) for b in batches) / len(batches)
    windows, frames = sum(b.size for b in batches), sum(len(b.frames) for b in batches)
    per = count_flops(arm.policy, round(words))
    return Work(windows, frames, per.step(frames, windows, 0 if arm.way.features else frames))


def measure(shop: Workshop, names: list[str], rounds: int, warmup: int, steps: int) -> dict[str, Any]:
    """Section `training` of the result: every way once per round, in an order that is rotated from round to round.

    Raises:
        ProjectError: an unknown way, no round or no step.
    """
    for key, value in (("rounds", rounds), ("warmup", warmup), ("steps", steps)):
        if value < 1:
            raise ProjectError(f"benchmark.{key}: found {value}, expected at least 1; correct it.")
    arms = {name: shop.arm(name, way) for name, way in chosen(names).items()}
    splits: dict[str, Timing] = {}
    failed: dict[str, str] = {}
    for name, arm in arms.items():  # not counted, see the head of this file
        print(f"warm-up  {name}: {arm.way.about}", flush=True)
        try:
            with told_when_full():
                fit(arm, warmup, steps)
                splits[name] = fit(arm, warmup, steps, split=True)
        except MemoryError as error:
            failed[name] = str(error)
            print(f"         {error}", flush=True)
    able = [name for name in names if name not in failed]
    if not able:
        raise ProjectError(
            "benchmark.ways: none of them fits into the memory of this device; lower "
            "data.sampler.episodes_per_batch in benchmark.train."
        )
    works = {name: work(arms[name], warmup, steps) for name in able}
    timings: dict[str, list[Timing]] = {name: [] for name in able}
    for number in range(rounds):
        for name in rotated(able, number):
            timings[name].append(fit(arms[name], warmup, steps))
        told = "  ".join(f"{name} {works[name].windows / timings[name][-1].seconds:.0f}" for name in able)
        print(f"round {number + 1}/{rounds}  windows/s: {told}", flush=True)
    rates = {name: [works[name].windows / one.seconds for one in timings[name]] for name in able}
    against = references(able)
    compared = ratios(rates, against)
    return {
        "rounds": rounds,
        "warmup": warmup,
        "steps": steps,
        "interleaved": True,
        "ways": {name: _row(arms[name], works[name], steps, timings[name], splits[name]) for name in able},
        "failed": failed,
        "ratios": {name: {"against": against[name], **asdict(one)} for name, one in compared.items()},
    }


def _row(arm: Arm, done: Work, steps: int, timings: Sequence[Timing], split: Timing) -> dict[str, Any]:
    device = device_of(arm.cfg)
    weights = str(next(arm.policy.backbone.network.parameters()).dtype).removeprefix("torch.")
    top: Peak = peak(device, arithmetic(str(arm.cfg.trainer.precision), weights))
    seconds = [one.seconds for one in timings]
    assert split.phases is not None
    return {
        "about": arm.way.about,
        "windows": done.windows,
        "distinct_frames": done.frames,
        "windows_per_s": asdict(Spread.of([done.windows / one for one in seconds])),
        "frames_per_s": asdict(Spread.of([done.frames / one for one in seconds])),
        "step_ms": asdict(Spread.of([1000 * one / steps for one in seconds])),
        "mfu": asdict(Spread.of([done.flops / one / (top.tflops * 1e12) for one in seconds])),
        "peak": {"tflops_per_s": top.tflops, "source": top.source},
        "features": arm.about_features,
        "peak_memory_gb": max(one.peak_gb for one in timings),
        "split": {phase: split.phases[phase] / split.seconds for phase in PHASES},
    }


@contextmanager
def told_when_full() -> Iterator[None]:
    """A device without room for a batch, as a MemoryError that says so; a benchmark goes on without that way."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError("out of memory on this device") from error


def device_of(cfg: DictConfig) -> torch.device:
    """Where the trainer of `cfg` puts the policy."""
    wanted = str(cfg.trainer.accelerator)
    return torch.device("cuda" if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu")


@contextmanager
def _kept(arm: Arm, trainer: Any) -> Iterator[None]:
    """The feature cache of the way, if it has one; its line on the screen would come with every fit."""
    with ExitStack() as stack:
        if arm.features is not None:
            with redirect_stdout(io.StringIO()):
                facts = stack.enter_context(arm.features.attached(arm.policy, arm.datamodule, trainer))
            if facts["kept"] is None:
                raise ProjectError(
                    f"benchmark.ways: found {arm.name}, but {facts['why']}; leave this way out, or change "
                    "benchmark.train."
                )
            arm.about_features = f"{facts['kept']}, {facts['row_bytes'] / 1e3:.1f} kB a frame"
        yield


def _batches(arm: Arm, warmup: int, steps: int) -> list[Batch]:
    """The batches that `fit` times."""
    arm.datamodule.sampler = arm.sampler
    arm.datamodule.trainer = None
    return list(islice(arm.datamodule.train_dataloader(), warmup, warmup + steps))


def _peak_gb(device: torch.device) -> float:
    """Highest memory since `reset_peak_memory`: allocated on a GPU; on a CPU that of the process, everything in it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return peak_memory()["process_gb"]
