"""Owns the order of an evaluation: offline scores, baselines, closed loop, probes, videos, one report.

In: a run folder, its policy and its data module (set up). Out: <run>/report.json, <run>/rollouts/ and the report as a
dictionary. What is measured is said in conf/evaluation/*.yaml; how, in the modules beside this one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, atomic_write_text
from src.data.datamodule import EpisodeDataModule
from src.deploy.predictor import BatchedPredictor
from src.evaluation import checks, offline, probes, report, video
from src.evaluation.baselines import Baseline, check_names, fit_baselines
from src.evaluation.closed_loop import (
    Controller,
    ExpertController,
    PolicyController,
    Rollout,
    Suite,
    drive,
    successes,
    summarise,
)
from src.evaluation.fleet import ProcessFleet, cores
from src.evaluation.probes import KINDS, Thresholds, Verdict
from src.evaluation.statistics import paired
from src.model.policy import Policy

Figures = dict[str, Any]


class Evaluation:
    """Measures a policy. Every argument is a key of conf/evaluation/*.yaml and is explained there."""

    def __init__(
        self,
        offline_split: str | None,
        suites: Sequence[str],
        episodes: int,
        probes: Sequence[str],
        probe_episodes: int,
        baseline_episodes: int,
        baselines: Sequence[str],
        expert: bool,
        videos: bool,
        video_size: int,
        contact_sheet: int,
        language: str,
        execute: int,
        temporal_ensemble: float | None,
        tolerance: float,
        thresholds: Thresholds,
        batch_size: int,
        workers: int | None,
        seed: int,
    ) -> None:
        if offline_split not in (None, "val", "test"):
            raise ProjectError(f"evaluation.offline_split is '{offline_split}'; choose val, test or null")
        unknown = sorted(set(probes) - set(KINDS))
        if unknown:
            raise ProjectError(
                f"evaluation.probes: there is no probe '{unknown[0]}'; choose from {', '.join(KINDS)}"
            )
        check_names(baselines)
        self.offline_split = offline_split
        self.suites = [Suite.parse(name, episodes) for name in suites]
        self.probes = list(probes)
        self.probe_episodes = min(probe_episodes, episodes)
        self.baseline_episodes = min(baseline_episodes, episodes)
        self.baselines = list(baselines)
        self.expert = expert
        self.videos, self.video_size, self.contact_sheet = videos, video_size, contact_sheet
        self.language = language
        self.execute, self.temporal_ensemble = execute, temporal_ensemble
        self.tolerance, self.thresholds = tolerance, thresholds
        self.batch_size, self.seed = batch_size, seed
        self.workers = min(8, cores()) if workers is None else workers
        if multiprocessing.current_process().daemon:
            self.workers = 1  # such a process may not have children
        self._fleet: ProcessFleet | None = None

    def check(self, policy_horizon: int, datamodule: EpisodeDataModule) -> None:
        """Refuse what could not be measured, or would be unfair; asked before a training, it costs nothing.

        `policy_horizon`: H, actions the policy predicts; `datamodule` is set up.

        Raises:
            ProjectError: settings that do not fit the policy or the data, or test tasks among the training data.
        """
        space = datamodule.action_space
        if self.suites:
            checks.check_planning(self.execute, self.temporal_ensemble, policy_horizon)
        checks.check_axes(self.suites, space)
        checks.check_baselines(self.baselines, space)
        checks.check_split(self.offline_split, datamodule)
        checks.check_unseen(self.suites, datamodule)

    def run(self, run: Path, policy: Policy, datamodule: EpisodeDataModule) -> Figures:
        """Measure, write report.json and rollouts/ into the run folder, return the report (plain values)."""
        self._seconds: dict[str, float] = {}
        started = time.perf_counter()
        self.check(policy.horizon, datamodule)
        policy.eval()
        space = datamodule.action_space
        baselines: list[Baseline] = []
        if self.baselines:
            actions = [episode.actions for episode in datamodule.episodes("train")]
            baselines = fit_baselines(self.baselines, actions, space)
        out: Figures = {"schema_version": report.SCHEMA_VERSION, "verdict": {}, "settings": self._settings()}
        out["offline"] = self._offline(policy, datamodule, baselines) if self.offline_split else None
        rollouts: dict[str, dict[str, list[Rollout]]] = {}
        out["closed_loop"] = out["probes"] = None
        if self.suites:
            with self._simulators(datamodule.image_size):
                rollouts = self._closed_loop(policy, datamodule.image_size, baselines)
                out["closed_loop"] = self._compare(rollouts)
                if self.probes:
                    out["probes"] = self._probe(policy, datamodule.image_size, rollouts)
        out["verdict"] = self._verdict(out, rollouts)
        out["files"] = self._save(run, rollouts, datamodule)
        out["metrics"] = report.metrics({key: out[key] or {} for key in ("offline", "closed_loop", "probes")})
        self._seconds["total"] = time.perf_counter() - started
        out["timings"] = {key: round(value, 2) for key, value in self._seconds.items()}
        report.write(run, out)
        plain: Figures = report.plain(out)
        return plain

    # ---- offline ------------------------------------------------------------------------------------------------

    def _offline(
        self, policy: Policy, datamodule: EpisodeDataModule, baselines: Sequence[Baseline]
    ) -> Figures:
        split = str(self.offline_split)
        loader = datamodule.val_dataloader() if split == "val" else datamodule.test_dataloader()
        episodes = datamodule.episodes(split)
        labels = {e.id: offline.Labels(e.scenario, e.group) for e in episodes}
        space = datamodule.action_space
        with self._timed("offline"):
            truth, predicted = offline.collect(policy, loader, labels, seed=self.seed)
            errors = offline.by_group(offline.frame_error(predicted, truth, space), truth.group)
            out: Figures = {
                "split": split,
                "split_role": report.SPLIT_ROLES[split],
                "tolerance": self.tolerance,
                "policy": offline.score(predicted, truth, space, self.tolerance, self.seed),
                "baselines": {},
                "advantage": {},
                "probes": {},
            }
            for baseline in baselines:
                guess = baseline.predict(truth)
                out["baselines"][baseline.name] = offline.score(
                    guess, truth, space, self.tolerance, self.seed, per_scenario=False
                )
                theirs = offline.by_group(offline.frame_error(guess, truth, space), truth.group)
                out["advantage"][baseline.name] = paired(
                    theirs, errors, self.seed
                )  # > 0: the policy errs less
            out["not_beaten"] = report.not_beaten(out["advantage"])
        with self._timed("offline_probes"):
            spoken = {e.id: e.instructions for e in episodes}
            changes = {
                "no_image": offline.without_image(offline.mean_frame(loader)),
                "other_instruction": probes.other_instruction(spoken, policy.tokenize),
                "no_instruction": probes.other_instruction(spoken, policy.tokenize, blank=True),
            }
            for name, change in changes.items():
                if change is not None:
                    _, altered = offline.collect(policy, loader, labels, change, self.seed)
                    out["probes"][name] = probes.action_figures(predicted, altered, truth, space, self.seed)
        return out

    # ---- closed loop --------------------------------------------------------------------------------------------

    def _closed_loop(
        self, policy: Policy, image_size: int, baselines: Sequence[Baseline]
    ) -> dict[str, dict[str, list[Rollout]]]:
        """suite name → controller name → rollouts, all on the same tasks, or the first of them."""
        controllers: list[Controller] = [self._driver(policy, image_size)]
        controllers += [ExpertController()] if self.expert else []
        controllers += baselines
        out: dict[str, dict[str, list[Rollout]]] = {}
        for suite in self.suites:
            tasks = suite.tasks(self.language)
            out[suite.name] = {}
            for controller in controllers:
                with self._timed(f"{suite.name}: {controller.name}"):
                    some = tasks if controller.looks else tasks[: self.baseline_episodes]
                    out[suite.name][controller.name] = self._drive(controller, some, image_size)
        return out

    @contextmanager
    def _simulators(self, image_size: int) -> Iterator[None]:
        """Processes that draw, for as long as something is driven; with one worker this process is as fast."""
        if self.workers < 2:
            yield
            return
        with ProcessFleet(image_size, self.workers) as self._fleet:
            yield
        self._fleet = None

    def _driver(self, policy: Policy, image_size: int) -> PolicyController:
        return PolicyController(BatchedPredictor(policy, image_size, self.execute, self.temporal_ensemble))

    def _drive(self, controller: Controller, tasks: Sequence[Any], image_size: int) -> list[Rollout]:
        return drive(controller, tasks, image_size, self.batch_size, self._fleet, self.seed)

    def _compare(self, rollouts: dict[str, dict[str, list[Rollout]]]) -> Figures:
        out: Figures = {}
        for suite, arms in rollouts.items():
            advantage = {
                name: paired(successes(arms["policy"][: len(arm)]), successes(arm), self.seed)
                for name, arm in arms.items()
                if name not in ("policy", "expert")
            }
            out[suite] = {
                **{name: summarise(arm, self.seed) for name, arm in arms.items()},
                "advantage": advantage,
                "not_beaten": report.not_beaten(advantage),
            }
        return out

    def _probe(
        self, policy: Policy, image_size: int, rollouts: dict[str, dict[str, list[Rollout]]]
    ) -> Figures:
        """Drive the primary suite again under changed words; adds the rollouts to `rollouts`."""
        suite = self.suites[0].name
        original = rollouts[suite]["policy"][: self.probe_episodes]
        tasks = [rollout.task for rollout in original]
        out: Figures = {"suite": suite}
        for kind in self.probes:
            with self._timed(f"probe: {kind}"):
                changed = probes.probe_tasks(kind, tasks, self.seed)
                driven = self._drive(self._driver(policy, image_size), changed, image_size)
            rollouts[suite][f"policy, {kind} instruction"] = driven
            measure = {"swapped": probes.swapped_figures, "retargeted": probes.retargeted_figures}
            out[kind] = measure.get(kind, probes.success_figures)(original, driven)
        out["named_object"] = probes.object_figures(original)[0]
        return out

    # ---- verdict and files --------------------------------------------------------------------------------------

    def _verdict(self, out: Figures, rollouts: dict[str, dict[str, list[Rollout]]]) -> Figures:
        unknown = Verdict("not measured", "not measured by this evaluation")
        offline_probes = (out["offline"] or {}).get("probes", {})
        verdict: Figures = {
            "line": "",
            "success": None,
            "listens": unknown,
            "looks": unknown,
            "objects": unknown,
            "not_beaten": [],
        }
        if "no_image" in offline_probes:
            verdict["looks"] = probes.by_action(
                "hiding the image", offline_probes["no_image"], self.thresholds
            )
        if offline_probes and "other_instruction" not in offline_probes:
            said = "all recorded episodes share one sentence, so no other words can be tried"
            verdict["listens"] = Verdict("not measured", said)
        if "other_instruction" in offline_probes:
            verdict["listens"] = probes.by_action(
                "another instruction", offline_probes["other_instruction"], self.thresholds
            )
        if rollouts:
            suite = self.suites[0].name
            driven = rollouts[suite]["policy"]
            verdict["success"] = (
                f"success {probes.percent(out['closed_loop'][suite]['policy']['success'])} on {suite}"
            )
            verdict["objects"] = probes.tells_objects_apart(driven)
            if self.probes:
                verdict["listens"] = probes.listens(
                    driven[: self.probe_episodes], out["probes"], self.thresholds
                )
            verdict["not_beaten"] = out["closed_loop"][suite]["not_beaten"]
        elif out["offline"]:
            verdict["not_beaten"] = out["offline"]["not_beaten"]
        verdict = {
            key: value.to_dict() if isinstance(value, Verdict) else value for key, value in verdict.items()
        }
        verdict["line"] = report.verdict_line(verdict)
        return verdict

    def _save(
        self, run: Path, rollouts: dict[str, dict[str, list[Rollout]]], datamodule: EpisodeDataModule
    ) -> Figures:
        """Write what was driven; returns the paths relative to the run folder."""
        files: Figures = {"report": report.FILE, "rollouts": [], "videos": [], "contact_sheet": None}
        folder = run / "rollouts"
        for suite, arms in rollouts.items():
            name = suite.replace("/", "-")
            rows = [
                {
                    "controller": arm,
                    "index": r.index,
                    "instruction": r.task.instruction,
                    **_flat(asdict(r.outcome)),
                }
                for arm, driven in arms.items()
                for r in driven
            ]
            atomic_write_text(folder / f"{name}.csv", report.table(rows))
            atomic_write_json(folder / f"{name}.json", [r.to_dict() for r in arms["policy"]])
            files["rollouts"] += [f"rollouts/{name}.csv", f"rollouts/{name}.json"]
        if rollouts:
            driven = rollouts[self.suites[0].name]["policy"]
            size, limits = datamodule.image_size, datamodule.action_space.scale
            with self._timed("videos"):
                if self.videos:
                    period = datamodule.action_space.control_period
                    paths = video.write_videos(folder, driven, size, self.video_size, limits, period)
                    files["videos"] = [str(path.relative_to(run)) for path in paths]
                if self.contact_sheet:
                    path = folder / "contact_sheet.png"
                    video.write_contact_sheet(path, driven, size, self.contact_sheet, limits)
                    files["contact_sheet"] = str(path.relative_to(run))
        return files

    def _settings(self) -> Figures:
        """What determines the figures, for the reader of a report."""
        return {
            "offline_split": self.offline_split,
            "suites": [asdict(suite) for suite in self.suites],
            "probes": self.probes,
            "probe_episodes": self.probe_episodes,
            "baseline_episodes": self.baseline_episodes,
            "language": self.language,
            "execute": self.execute,
            "temporal_ensemble": self.temporal_ensemble,
            "batch_size": self.batch_size,
            "thresholds": asdict(self.thresholds),
            "seed": self.seed,
        }

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[what] = self._seconds.get(what, 0.0) + time.perf_counter() - started


def _flat(outcome: dict[str, Any]) -> dict[str, Any]:
    return {
        key: "/".join(str(side) for side in value) if isinstance(value, (list, tuple)) else value
        for key, value in outcome.items()
    }
