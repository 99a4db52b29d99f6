"""A study says what it searched, runs n trials and not one more, repeats nothing, loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from src.core.errors import ProjectError
from src.sweep import results, samplers
from src.sweep.objective import Objective, read_objectives, values_of
from src.sweep.space import read_space
from src.sweep.storage import place_of
from src.sweep.study import Search
from src.sweep.workers import Worker

Make = Callable[..., Search]


@pytest.fixture
def worker(make: Make, tmp_path: Path) -> Iterator[Worker]:
    with Worker(make().storage, tmp_path, stale_after_s=300) as worker:
        yield worker


def run(
    search: Search, worker: Worker, most: int = 1, loss: Callable[[dict[str, Any]], Any] | None = None
) -> int:
    """Run a search to its end; how many trials were run."""
    count = 0
    while jobs := search.next_jobs(worker, most):
        for job in jobs:
            search.tell(worker, job, {"loss": (loss or (lambda p: p["k"] + p["x"]))(job.params)})
            count += 1
    return count


def states(search: Search) -> list[str]:
    return [trial.state.name for trial in search.study.get_trials()]


def test_the_same_search_again_runs_what_is_missing(make: Make, worker: Worker) -> None:
    assert run(make(4), worker) == 4
    assert run(make(4), worker) == 0
    assert run(make(7), worker, most=2) == 3
    assert states(make()) == ["COMPLETE"] * 7


def test_a_search_in_two_parts_proposes_what_an_uninterrupted_one_does(
    make: Make, worker: Worker, tmp_path: Path
) -> None:
    keys = {"n_startup_trials": 3, "multivariate": True}
    run(make(4, sampler=samplers.tpe, **keys), worker)
    run(make(8, sampler=samplers.tpe, **keys), worker)
    apart = [trial.params for trial in make().study.get_trials()]
    (tmp_path / "study.journal").unlink()
    whole = make(8, sampler=samplers.tpe, **keys)
    with Worker(whole.storage, tmp_path, 300) as other:
        run(whole, other)
    assert [trial.params for trial in whole.study.get_trials()] == apart


def test_two_processes_together_begin_no_more_than_n(make: Make, worker: Worker) -> None:
    """The second one asked before it could see the first one's trials; both hold a proposal, one is withdrawn."""
    first, second = make(2), make(2)
    assert len(first.next_jobs(worker, 1)) == 1
    trials = second.study.get_trials(deepcopy=False)
    assert len(first.next_jobs(worker, 1)) == 1
    job, reason = second._ask(worker, trials, [])
    assert job is None and reason == "full"
    assert states(first) == ["RUNNING", "RUNNING", "FAIL"]
    assert results.gather(first)["counts"]["failed"] == 0


def test_a_proposal_that_repeats_a_trial_is_not_run(make: Make, worker: Worker) -> None:
    search = make(6, space=("k=range(0,6)",))
    seen = []
    run(search, worker, loss=lambda p: seen.append(p["k"]) or float(p["k"]))
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]
    assert results.gather(search)["withdrawn"] > 0, (
        "random draws without a repetition: the test shows nothing"
    )


def test_an_exhausted_space_ends_the_search(make: Make, worker: Worker) -> None:
    search = make(10, space=("k=choice(1,2)", "b=true,false"), sampler=samplers.grid)
    assert run(search, worker, loss=lambda p: float(p["k"])) == 4
    assert search.exhausted and results.gather(search)["withdrawn"] == 0
    assert run(make(10, space=("k=choice(1,2)", "b=true,false"), sampler=samplers.grid), worker) == 0


def test_a_grid_gives_a_failed_point_another_chance_in_the_next_start(make: Make, worker: Worker) -> None:
    search = make(3, space=("k=choice(1,2,3)",), sampler=samplers.grid)
    while jobs := search.next_jobs(worker, 1):
        if jobs[0].params["k"] == 2:
            search.fail(worker, jobs[0], "no luck")
        else:
            search.tell(worker, jobs[0], {"loss": 1.0})
    assert search.exhausted and search.failures == 1
    assert sorted(states(search)) == ["COMPLETE", "COMPLETE", "FAIL"]
    again = make(3, space=("k=choice(1,2,3)",), sampler=samplers.grid)
    assert [job.params for job in again.next_jobs(worker, 5)] == [{"k": 2}]


def test_points_to_try_first_are_queued_once(make: Make, worker: Worker) -> None:
    for _ in range(2):
        search = make(3)
        search.open(worker, [{"k": 5}, {"k": 0, "x": 0.5}])
    run(search, worker)
    params = [trial.params for trial in search.study.get_trials()]
    assert len(params) == 3 and params[0]["k"] == 5 and params[1] == {"k": 0, "x": 0.5}


def test_a_study_refuses_trials_that_do_not_compare(make: Make, worker: Worker) -> None:
    search = make(1, definition={"config": {"optimizer.lr": 0.001}})
    search.open(worker, [])
    run(search, worker)
    make(2, definition={"config": {"optimizer.lr": 0.001}}).open(worker, [])
    with pytest.raises(ProjectError, match=r"config optimizer.lr was 0.001, now 0.01.*name=…"):
        make(2, definition={"config": {"optimizer.lr": 0.01}}).open(worker, [])
    with pytest.raises(ProjectError, match=r"space k was range\(0,6\), now range\(0,7\)"):
        make(2, space=("k=range(0,7)", "x=interval(0,1)")).open(worker, [])


def test_a_wrong_metric_can_be_corrected_and_the_trained_run_counts(make: Make, worker: Worker) -> None:
    wrong = make(2, objectives=(Objective("los", "minimize"),))
    wrong.open(worker, [])
    job = wrong.next_jobs(worker, 1)[0]
    with pytest.raises(ProjectError, match="nearest: loss"):
        wrong.tell(worker, job, {"loss": 1.0, "other": 2.0})
    worker.end(job.trial_id)
    right = make(2)
    right.open(worker, [])
    again = right.next_jobs(worker, 1)[0]
    assert (again.number, again.params, again.subfolder) == (job.number, job.params, "trial-0000")


def test_a_trial_that_was_killed_while_it_was_drawn_is_completed(make: Make, worker: Worker) -> None:
    search = make(2)
    half = {"k": search.space.distributions["k"]}
    k = search.study.ask(half).params["k"]
    job = search.next_jobs(worker, 1)[0]
    assert job.number == 0 and job.again and job.params["k"] == k and 0 <= job.params["x"] <= 1
    assert search.study.get_trials()[0].params == job.params


def test_a_process_of_another_machine_is_dead_when_it_has_not_been_seen(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.sweep.workers._SETTLE_S", 0.0)
    search = make(3)
    with Worker(search.storage, tmp_path, 300) as there, Worker(search.storage, tmp_path, 0.2) as here:
        there.owner = {**there.owner, "host": "elsewhere"}
        job = search.next_jobs(there, 1)[0]
        patient = Worker(search.storage, tmp_path, 300)
        trial = search.study.get_trials(deepcopy=False)[job.number]
        assert not patient.take_up(trial, True)
        search.storage.set_trial_user_attr(job.trial_id, "seen", 1.0)
        taken = search.next_jobs(here, 1)
        assert [(one.number, one.again, one.params) for one in taken] == [(job.number, True, job.params)]
        there.end(job.trial_id)


def test_signs_of_life_are_left_while_a_trial_runs(make: Make, tmp_path: Path) -> None:
    search = make(1)
    with Worker(search.storage, tmp_path, stale_after_s=0.2) as worker:
        job = search.next_jobs(worker, 1)[0]
        first = search.storage.get_trial(job.trial_id).user_attrs["seen"]
        for _ in range(100):
            worker._end.wait(0.02)
            if search.storage.get_trial(job.trial_id).user_attrs["seen"] > first:
                break
        assert search.storage.get_trial(job.trial_id).user_attrs["seen"] > first
        search.tell(worker, job, {"loss": 1.0})


def test_pruned_and_undefined_values(make: Make, worker: Worker) -> None:
    search = make(2)
    one, two = search.next_jobs(worker, 2)
    assert search.tell(worker, one, {"loss": 9.0, "pruned": 1.0}) == "pruned"
    assert search.tell(worker, two, {"loss": float("nan")}) == "failed"
    assert [trial.state for trial in search.study.get_trials()] == [TrialState.PRUNED, TrialState.FAIL]
    assert results.gather(search)["trials"][1]["error"] == "loss is nan"


def test_the_results_are_written_and_told(
    make: Make, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make(12)
    run(search, worker, loss=lambda p: 10.0 * p["k"] + 0.1 * p["x"])
    found = results.gather(search)
    results.write(found, tmp_path)
    results.show(found, tmp_path)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[0] == "number,state,loss,k,x,minutes,folder,error" and len(rows) == 13
    values = [trial.value for trial in search.study.get_trials()]
    best = values.index(min(value for value in values if value is not None))
    assert found["best"] == [best]
    assert found["importances"]["loss"]["k"] > found["importances"]["loss"]["x"]
    out = capsys.readouterr().out
    assert f"trial {best}: loss" in out and "optuna-dashboard" in out and "seed=$seed" in out
    point = search.study.trials[best].params
    assert f"k={point['k']} x={point['x']!r}" in found["command"]


def test_maximizing_importances_look_at_the_best_end(make: Make, worker: Worker) -> None:
    """k decides among the good ones, x among the bad ones; turning the direction turns what matters."""
    search = make(
        40, objectives=(Objective("loss", "maximize"),), space=("k=interval(0,1)", "x=interval(0,1)")
    )
    run(search, worker, loss=lambda p: p["k"] if p["k"] > 0.5 else -p["x"])
    shares = results.gather(search)["importances"]["loss"]
    assert shares["k"] > 0.8


def test_several_objectives_give_a_pareto_set(
    make: Make, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objectives = (Objective("success", "maximize"), Objective("bytes", "minimize"))
    search = make(3, space=("k=choice(1,2,3)",), sampler=samplers.grid, objectives=objectives)
    search.open(worker, [])  # which replaces the empty study of the fixture, whose direction was another
    figures = {
        1: {"success": 0.5, "bytes": 10},
        2: {"success": 0.9, "bytes": 20},
        3: {"success": 0.4, "bytes": 30},
    }
    while jobs := search.next_jobs(worker, 1):
        search.tell(worker, jobs[0], figures[jobs[0].params["k"]])
    found = results.gather(search)
    assert {found["trials"][number]["params"]["k"] for number in found["best"]} == {1, 2}
    results.show(found, tmp_path)
    assert "Pareto set" in capsys.readouterr().out


# ---------------------------------------------------------------- samplers, storages, objectives


NUMBERS = ("a=interval(0,1)", "b=tag(log, interval(1e-4,1))", "c=range(1,9)")
SAMPLERS: list[Any] = [
    # slow: it imports SciPy and fits with torch
    pytest.param(samplers.gp, {"n_startup_trials": 3}, (*NUMBERS, "d=x,y"), marks=pytest.mark.slow),
    (samplers.tpe, {"n_startup_trials": 2, "multivariate": True}, (*NUMBERS, "d=x,y")),
    (samplers.cmaes, {"n_startup_trials": 1}, NUMBERS),
    (samplers.qmc, {"qmc_type": "sobol", "scramble": True}, (*NUMBERS, "d=x,y")),
    (samplers.nsga2, {"population_size": 3}, (*NUMBERS, "d=x,y")),
    (samplers.random, {}, (*NUMBERS, "d=x,y")),
    (samplers.grid, {}, ("c=range(1,9)", "d=x,y")),
]


@pytest.mark.parametrize(
    ("sampler", "keys", "space"), SAMPLERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_sampler_searches(
    make: Make, worker: Worker, sampler: Callable[..., Any], keys: dict[str, Any], space: tuple[str, ...]
) -> None:
    search = make(6, space=space, sampler=sampler, **keys)
    assert run(search, worker, loss=lambda p: float(p["c"])) == 6
    points = [
        tuple(trial.params.items()) for trial in search.study.get_trials() if trial.state.name == "COMPLETE"
    ]
    assert len(set(points)) == 6


def test_what_a_sampler_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = samplers.Asked(0, read_space({}, ["d=x,y"]), [], 1)
    with pytest.raises(ProjectError, match="found the choice d"):
        samplers.cmaes(choices, 0, 1)
    with pytest.raises(ProjectError, match="2 objectives"):
        samplers.cmaes(samplers.Asked(0, read_space({}, ["a=interval(0,1)"]), [], 2), 0, 1)
    with pytest.raises(ProjectError, match="infinitely many"):
        samplers.grid(samplers.Asked(0, read_space({}, ["a=interval(0,1)"]), [], 1), 0)
    monkeypatch.setattr(samplers.importlib.util, "find_spec", lambda name: None)
    for sampler, keys in (
        (samplers.gp, (0, 1)),
        (samplers.qmc, (0, "sobol", True)),
        (samplers.cmaes, (0, 1)),
    ):
        with pytest.raises(ProjectError, match=r"\[search\]"):
            sampler(choices, *keys)


def test_where_a_study_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(None, Path("sweep")) == str(tmp_path / "sweep" / "study.journal")
    assert place_of("a.journal", Path("sweep")) == str(tmp_path / "a.journal")
    assert place_of("sqlite:///a.db", Path("sweep")) == f"sqlite:///{tmp_path / 'a.db'}"
    assert place_of("postgresql://host/db", Path("sweep")) == "postgresql+psycopg://host/db"
    for wrong, words in (("a.db", "ends in .journal"), ("postgresql://me:secret@host/db", "PGPASSWORD")):
        with pytest.raises(ProjectError, match=words) as caught:
            place_of(wrong, Path("sweep"))
        assert "secret" not in str(caught.value)


def test_values_come_in_the_order_of_the_objectives() -> None:
    objectives = read_objectives(
        [{"metric": "b", "direction": "maximize"}, {"metric": "a", "direction": "minimize"}], "key"
    )
    assert values_of({"a": 1, "b": 2.5, "c": 3}, objectives) == [2.5, 1.0]
    with pytest.raises(ProjectError, match="returned None"):
        values_of(None, objectives)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "at least one"),
        ([{"metric": "a"}], "expected {metric"),
        ([{"metric": "a", "direction": "up"}], "the direction up"),
        ([{"metric": "a", "direction": "minimize"}] * 2, "twice"),
    ],
)
def test_wrong_objectives_are_refused(nodes: list[Any], words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        read_objectives(nodes, "hydra.sweeper.objectives")
