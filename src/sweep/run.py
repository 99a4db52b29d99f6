"""Owns a sweep from its settings to its results: batches of trials for the launcher until the study has enough.

In: the keys of conf/hydra/sweeper/optuna.yaml, the overrides as typed, the launcher. Out: runs in <sweep>/trial-0007/,
a study, results.csv and results.json; what is said on the screen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.core.overrides import try_out
from src.sweep import results
from src.sweep.objective import Objective, read_objectives
from src.sweep.samplers import Asked
from src.sweep.space import Space, read_space
from src.sweep.storage import close, place_of, readable
from src.sweep.study import Job, Search
from src.sweep.workers import Worker

FREE = ("resume", "run_folder", "logger", "callbacks.progress", "name", "comparison", "trial", "sweep")
"""Root keys that do not change a result: those of src.experiment.resume, which is too heavy to import for this."""
Launch = Callable[[list[list[str]], int], Sequence[JobReturn]]
"""Overrides of each job, number of the first job → what each returned."""


@dataclass(frozen=True)
class Settings:
    """The keys of conf/hydra/sweeper/optuna.yaml, as plain values; the file explains them."""

    params: Mapping[str, Any]
    objectives: Sequence[Any]
    report: Mapping[str, Any] | None
    n_trials: int
    n_jobs: int
    storage: str | None
    study_name: str | None
    sampler: DictConfig
    pruner: DictConfig
    max_failure_rate: float
    enqueue: Sequence[Mapping[str, Any]]
    stale_after_s: float

    def __post_init__(self) -> None:
        for key, value, least in (("n_trials", self.n_trials, 1), ("n_jobs", self.n_jobs, 1)):
            if value < least:
                raise ProjectError(f"hydra.sweeper.{key}: found {value}, expected at least {least}.")
        if not 0 <= self.max_failure_rate <= 1:
            raise ProjectError(
                f"hydra.sweeper.max_failure_rate: found {self.max_failure_rate}, expected 0 to 1."
            )
        for key in ("sampler", "pruner"):
            if not OmegaConf.is_dict(node := getattr(self, key)):
                raise ProjectError(
                    f"hydra.sweeper.{key}: found {node}, expected a file of conf/hydra/sweeper/{key}; choose it with "
                    f"hydra/sweeper/{key}={node}."
                )
        if not self.stale_after_s > 0:
            raise ProjectError(
                f"hydra.sweeper.stale_after_s: found {self.stale_after_s}, expected seconds above 0."
            )


def sweep(
    settings: Settings,
    config: DictConfig,
    arguments: Sequence[str],
    launch: Launch,
    config_loader: Any = None,
) -> dict[str, Any]:
    """Search; return what results.json holds.

    Args:
        settings: of the sweeper.
        config: as composed without the swept keys.
        arguments: overrides as typed.
        launch: runs a batch of jobs.
        config_loader: Hydra's: for `glob(*)` over a config group, and to compose points before the first trial.

    Raises:
        ProjectError: wrong settings or a point that is no run (nothing has been written then), too many failed trials,
            or a launcher that broke.
    """
    folder = Path(str(config.hydra.sweep.dir))
    space = read_space(settings.params, arguments, config_loader)
    objectives = read_objectives(settings.objectives, "hydra.sweeper.objectives")
    report = _reported(settings, objectives)
    for node in (settings.sampler, settings.pruner):
        check(node)
    # What the sampler refuses, it refuses before a folder or a study exists.
    build(settings.sampler, Asked(0, space, [], len(objectives)))
    if config_loader is not None:
        for point in space.samples():
            try_out(config, [*space.fixed, *space.overrides(point)], config_loader)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    place = place_of(settings.storage, folder)
    with readable(place):
        search = Search(
            name=str(settings.study_name or config.get("name") or folder.name),
            place=place,
            folder=folder,
            space=space,
            objectives=objectives,
            n_trials=settings.n_trials,
            make_sampler=lambda asked: build(settings.sampler, asked),
            pruner=build(settings.pruner),
            definition={"report": report, "config": _base(config, space)},
        )
        with Worker(search.storage, folder, settings.stale_after_s) as worker:
            search.open(worker, settings.enqueue)
            done = results.finished(search)
            print(f"Searching {', '.join(space.dimensions)}: {done} of {settings.n_trials} trials done.")
            try:
                _run(search, worker, settings, launch, report)
            finally:
                found = results.gather(search)
                results.write(found, folder)
    close(search.storage)
    results.show(found, folder)
    return found


def _run(search: Search, worker: Worker, settings: Settings, launch: Launch, report: str | None) -> None:
    waiting = False
    while True:
        jobs = search.next_jobs(worker, settings.n_jobs)
        if not jobs:
            orphans = search.orphans(worker)
            if not orphans:
                return
            if not waiting:
                print(
                    f"Waiting for the runs of trials {', '.join(map(str, orphans))}, which outlived their sweep."
                )
            waiting = True
            time.sleep(1.0)
            continue
        waiting = False
        _run_batch(search, worker, settings, jobs, launch, report)


def _run_batch(
    search: Search,
    worker: Worker,
    settings: Settings,
    jobs: Sequence[Job],
    launch: Launch,
    report: str | None,
) -> None:
    for job in jobs:
        if job.again:
            print(
                f"Trial {job.number} was left behind by a process that is gone; it goes on in {job.subfolder}."
            )
    batch = [_overrides(search, settings, job, report) for job in jobs]
    try:
        returns = launch(batch, jobs[0].number)
    except (HydraException, OmegaConfBaseException, ProjectError):
        raise  # a key that is not there: the command line explains it
    except Exception as error:
        raise ProjectError(
            f"hydra/launcher: broke while it ran trials {', '.join(str(job.number) for job in jobs)} "
            f"({type(error).__name__}: {_line(error)}); the same command again takes them up."
        ) from error
    unknown: ProjectError | None = None
    for job, returned in zip(jobs, returns, strict=True):
        if returned.status is JobStatus.COMPLETED:
            try:
                state = search.tell(worker, job, returned.return_value)
            except ProjectError as error:  # the others of the batch are told all the same
                unknown = error
                continue
        else:
            # Not through `return_value`, which prints a line of Hydra's own about a failure that was reported.
            state = search.fail(worker, job, _line(returned._return_value))
        print(f"Trial {job.number}: {state}; {results.finished(search)} of {settings.n_trials} finished.")
    if unknown is not None:
        raise unknown
    if search.failures > settings.max_failure_rate * settings.n_trials:
        raise ProjectError(
            f"hydra.sweeper.max_failure_rate: {search.failures} trials failed, more than "
            f"{settings.max_failure_rate:.0%} of {settings.n_trials} (the last: {_line(returned._return_value)}); find "
            "the reason, or allow more failures."
        )


def _overrides(search: Search, settings: Settings, job: Job, report: str | None) -> list[str]:
    """What makes a run this trial: its point, and the callback that reports to the study."""
    trial = {
        "_target_": "src.sweep.trial.TrialCallback",
        "storage": search.place,
        "study": search.name,
        "number": job.number,
        "metric": report,
        "pruner": OmegaConf.to_container(settings.pruner, resolve=True),
    }
    same = [text.lstrip("+~").split("=")[0] for text in search.space.fixed]
    return [
        *search.space.fixed,
        *search.space.overrides(job.params),
        f"++trial={_text(trial)}",
        # An error names the point alone, not what is the same in every trial.
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(_text, ['trial', *same]))}]",
        f"hydra.sweep.subdir={job.subfolder}",
    ]


def _text(value: Any) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _reported(settings: Settings, objectives: Sequence[Objective]) -> str | None:
    """The metric that trials report while they train.

    Raises:
        ProjectError: a pruner where it cannot judge: several objectives, nothing reported, or the other direction.
    """
    prunes = not str(settings.pruner.get("_target_")).endswith(".none")
    if len(objectives) > 1:
        if prunes:
            raise ProjectError(
                f"hydra/sweeper/pruner: found one with {len(objectives)} objectives, expected none, for there is no "
                "single value by which a trial could lag behind; use hydra/sweeper/pruner=none."
            )
        return None  # Optuna stores no intermediate values of several objectives
    if settings.report is None:
        if prunes:
            raise ProjectError(
                "hydra.sweeper.report: found null with a pruner, expected the metric it judges by; give one, or use "
                "hydra/sweeper/pruner=none."
            )
        return None
    report = read_objectives([settings.report], "hydra.sweeper.report")[0]
    if report.direction != objectives[0].direction:
        if prunes:
            raise ProjectError(
                f"hydra.sweeper.report: found {report.metric} to {report.direction}, but the objective is to "
                f"{objectives[0].direction}, and a pruner looks one way; report a validation figure of that direction, "
                "or use hydra/sweeper/pruner=none."
            )
        return None
    return report.metric


def _base(config: DictConfig, space: Space) -> dict[str, Any]:
    """What all trials have in common, by dotted key; a study whose trials differ elsewhere compares nothing."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    flat = dict(leaves({key: value for key, value in plain.items() if key != "hydra"}))
    # What a study's names and loggers are does not change a result; what is searched is in the space.
    free = (*FREE, *space.dimensions)
    return {
        key: value
        for key, value in flat.items()
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def _line(error: Any) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
