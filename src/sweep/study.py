"""Owns a study: which trials run next, taking up those of dead processes, what is told, when it is enough.

In: the space, the settings of the sweep, and figures of runs. Out: an Optuna study with `n_trials` finished trials
(complete or pruned), shared by any number of processes, that always says what it searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from src.core.errors import ProjectError
from src.sweep.objective import Objective, values_of
from src.sweep.samplers import Asked
from src.sweep.space import Space
from src.sweep.storage import file_of, guard, open_storage
from src.sweep.workers import Worker

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WITHDRAWN, ERROR = "withdrawn", "error"
_REPEATS = 50
"""Proposals in a row that repeat earlier points before the search is given up as exhausted."""

MakeSampler = Callable[[Asked], optuna.samplers.BaseSampler]


@dataclass(frozen=True)
class Job:
    """One trial to run: its number, its point, its folder's name, and whether a dead process began it."""

    number: int
    trial_id: int
    params: dict[str, Any]
    again: bool

    @property
    def subfolder(self) -> str:
        return f"trial-{self.number:04d}"


@dataclass
class Search:
    """A study as one process sees it.

    Attributes:
        name: of the study.
        place: path of a journal or URL of a database, see storage.py.
        folder: of the sweep; trials lie below it.
        space: what is searched.
        objectives: what for.
        n_trials: finished trials that the study shall have.
        make_sampler: builds the sampler of one proposal.
        pruner: of the study; samplers that look at unfinished trials ask it.
        definition: everything else that makes trials comparable: the base config and the metric that is reported.
    """

    name: str
    place: str
    folder: Path
    space: Space
    objectives: Sequence[Objective]
    n_trials: int
    make_sampler: MakeSampler
    pruner: optuna.pruners.BasePruner
    definition: Mapping[str, Any] = field(default_factory=dict)
    exhausted: bool = False

    def __post_init__(self) -> None:
        self.storage = open_storage(self.place)
        self.study = self._create()
        self._failed_here: list[dict[str, Any]] = []

    # ---- the study and what it says of itself

    def _create(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(),  # replaced at every proposal
            pruner=self.pruner,
            directions=self._directions,
            load_if_exists=True,
        )

    @property
    def _directions(self) -> list[StudyDirection]:
        return [StudyDirection[objective.direction.upper()] for objective in self.objectives]

    def open(self, worker: Worker, enqueue: Sequence[Mapping[str, Any]]) -> None:
        """Write down what is searched, or check that it is the same; queue the points to try first, each once.

        Raises:
            ProjectError: the study searched something else.
        """
        wanted = {
            "space": {name: dimension.text for name, dimension in self.space.dimensions.items()},
            "objectives": {objective.metric: objective.direction for objective in self.objectives},
            **self.definition,
        }
        points = [self.space.point(point) for point in enqueue]
        with guard(self.place, self.folder):
            known = self.study.user_attrs.get("definition")
            # A study keeps the directions it was created with, whatever a later process asks for.
            if (known is not None and known != wanted) or self.study.directions != self._directions:
                self._define_anew(worker, known or {}, wanted)
                known = None
            if known is None:
                self.study.set_user_attr("definition", wanted)
            queued = list(self.study.user_attrs.get("enqueued", []))
            for point in points:
                if point not in queued:
                    queued.append(point)
                    self.study.set_user_attr("enqueued", queued)
                    self.study.enqueue_trial(point)

    def _define_anew(self, worker: Worker, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """A study in which nothing has finished may be changed: a wrong metric shows after the first run."""
        trials = self.study.get_trials(deepcopy=False)
        busy = False
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                busy = busy or self._still_runs(trial) or not self._dead(worker, trial)
                worker.end(trial._trial_id)
        if busy or any(trial.state in FINISHED for trial in trials):
            raise ProjectError(
                f"{self.folder}: the study {self.name} was begun with another setting ({_changes(known, wanted)}), and "
                "its trials do not compare with new ones; give this search another name=…, or move the old folder away."
            )
        optuna.delete_study(study_name=self.name, storage=self.storage)
        self.study = self._create()

    def _dead(self, worker: Worker, trial: FrozenTrial) -> bool:
        return worker.take_up(trial, file_of(self.place) is not None)

    # ---- what to run next

    def next_jobs(self, worker: Worker, most: int) -> list[Job]:
        """Up to `most` trials for this process: those that a dead process left first, then new ones.

        All processes together begin no more than `n_trials`: among the trials that have not failed, the n first ones
        by number count. Numbers are given by the storage, one by one, so this needs no lock across machines.
        """
        with guard(self.place, self.folder):
            jobs = self._left_behind(worker, most)
            repeats = 0
            while len(jobs) < most and not self.exhausted:
                trials = self.study.get_trials(deepcopy=False)
                if len([t for t in trials if _counts(t)]) >= self.n_trials:
                    break
                tried = self._tried(trials)
                size = self.space.size()
                if repeats == _REPEATS or (size is not None and _distinct(tried) >= size):
                    self.exhausted = True
                    break
                job, reason = self._ask(worker, trials, tried)
                if job is not None:
                    jobs.append(job)
                    repeats = 0
                elif reason == "full":
                    break
                else:
                    repeats += 1
        return jobs

    def _tried(self, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        """Points that need no second look; one that failed before this start is given another chance."""
        return [trial.params for trial in trials if _counts(trial)] + self._failed_here

    def _ask(
        self, worker: Worker, trials: Sequence[FrozenTrial], tried: Sequence[Mapping[str, Any]]
    ) -> tuple[Job | None, str]:
        """A new trial, or none and why: it repeats an earlier one, or other processes were faster (`full`)."""
        self.study.sampler = self.make_sampler(Asked(len(trials), self.space, tried, len(self.objectives)))
        try:
            trial = self.study.ask(self.space.distributions)
        except ValueError as error:  # a sampler refusing the space or the number of objectives
            raise ProjectError(f"hydra.sweeper.sampler: {str(error).splitlines()[0]}") from error
        worker.begin(trial._trial_id)
        now = self.study.get_trials(deepcopy=False)
        earlier = [other for other in now if other.number < trial.number and _counts(other)]
        same = [other.number for other in earlier if other.params == trial.params]
        if len(earlier) >= self.n_trials:
            self._withdraw(worker, trial.number, trial._trial_id, "other processes began enough trials")
            return None, "full"
        if same:
            self._withdraw(worker, trial.number, trial._trial_id, f"the same parameters as trial {same[0]}")
            return None, "repeated"
        return Job(trial.number, trial._trial_id, trial.params, False), ""

    def _withdraw(self, worker: Worker, number: int, trial_id: int, reason: str) -> None:
        """End a proposal that is not run. Optuna has no state for it; samplers pass failed ones over."""
        self.storage.set_trial_user_attr(trial_id, WITHDRAWN, reason)
        worker.end(trial_id)
        self.study.tell(number, state=TrialState.FAIL)

    def _left_behind(self, worker: Worker, most: int) -> list[Job]:
        jobs: list[Job] = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if len(jobs) < most and not self._still_runs(trial) and self._dead(worker, trial):
                jobs.append(Job(trial.number, trial._trial_id, self._completed(trial), True))
        return jobs

    def _completed(self, trial: FrozenTrial) -> dict[str, Any]:
        """The trial's point; a process that was killed while asking may have left it half drawn."""
        if trial.params.keys() != self.space.dimensions.keys():
            handle = optuna.trial.Trial(self.study, trial._trial_id)
            for name, distribution in self.space.distributions.items():
                handle._suggest(name, distribution)
            return handle.params
        return dict(trial.params)

    def _still_runs(self, trial: FrozenTrial) -> bool:
        """A job can outlive the sweep that started it (joblib, a cluster): its folder says so."""
        folder = self.folder / f"trial-{trial.number:04d}"
        if not (folder / "run.json").exists():
            return False
        from src.experiment.run_record import read_record  # heavy, and needed after an accident only

        return bool(read_record(folder)["state"] == "running")

    def orphans(self, worker: Worker) -> list[int]:
        """Trials whose sweep is gone and whose run still goes on; they are worth waiting for."""
        found = []
        with guard(self.place, self.folder):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self._still_runs(trial) and self._dead(worker, trial):
                    found.append(trial.number)
                    worker.end(trial._trial_id)  # claimed by looking; taken up for good once its run is over
        return found

    # ---- what came of it

    def tell(self, worker: Worker, job: Job, figures: Any) -> str:
        """Note a run's figures; return the trial's state in words.

        Raises:
            ProjectError: the run returned no such figure. The trial stays open: with the metric corrected, the same
                command takes its run up.
        """
        if isinstance(figures, Mapping) and figures.get("pruned"):
            worker.end(job.trial_id)
            self.study.tell(job.number, state=TrialState.PRUNED, skip_if_finished=True)
            return "pruned"
        values = values_of(figures, self.objectives)
        bad = [
            f"{objective.metric} is {value}"
            for objective, value in zip(self.objectives, values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:
            return self.fail(worker, job, "; ".join(bad))
        worker.end(job.trial_id)
        self.study.tell(job.number, values, skip_if_finished=True)
        return "complete"

    def fail(self, worker: Worker, job: Job, error: str) -> str:
        """Note that a run failed, and why."""
        self._failed_here.append(job.params)
        worker.end(job.trial_id)
        if not self.storage.get_trial(job.trial_id).state.is_finished():
            self.storage.set_trial_user_attr(job.trial_id, ERROR, error)
            self.study.tell(job.number, state=TrialState.FAIL, skip_if_finished=True)
        return "failed"

    @property
    def failures(self) -> int:
        """Failed trials of this start; those of earlier ones were seen and the command given again."""
        return len(self._failed_here)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in FINISHED or trial.state == TrialState.RUNNING


def _distinct(points: Sequence[Mapping[str, Any]]) -> int:
    return len({tuple(sorted((key, repr(value)) for key, value in point.items())) for point in points})


def _changes(was: Any, now: Any, key: str = "") -> str:
    """`optimizer.lr was 0.001, now 0.0001; …`: at most five."""
    lines = sorted(
        f"{name} was {was_flat.get(name, 'absent')}, now {now_flat.get(name, 'absent')}"
        for was_flat, now_flat in [(dict(_flat(was, key)), dict(_flat(now, key)))]
        for name in was_flat.keys() | now_flat.keys()
        if was_flat.get(name, "absent") != now_flat.get(name, "absent")
    )
    return "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")


def _flat(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        return [leaf for name, value in node.items() for leaf in _flat(value, f"{key} {name}".strip())]
    return [(key, node)]
