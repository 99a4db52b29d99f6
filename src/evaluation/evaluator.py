"""Owns the order of an evaluation: check, measure every part, verdict, one report; a part that fails loses no other.

In: a policy, its data module (set up), a folder. Out: report.json, report.html and what the parts write beside them;
the report as plain values. What is measured is said in conf/evaluation/*.yaml; how, in the rooms below this folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation import checks
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.driving.closed_loop import Suite
from src.evaluation.driving.fleet import cores
from src.evaluation.ledger import Reading
from src.evaluation.probes.verdicts import Verdict
from src.evaluation.report import page, record
from src.model.policy import Policy
from src.sim import SUITE_VERSION
from src.sim.instructions import LANGUAGES

log = logging.getLogger(__name__)
UNKNOWN = Verdict("not measured", "not measured by this evaluation")
FAILED = "evaluations/failed"
"""Where a report with failed parts goes if the folder has a whole one already."""
_NOT_COMPARED = ("latency",)  # sections whose figures are times of this machine, so no two are alike


class Evaluation:
    """Measures a policy. Every argument is a key of conf/evaluation/*.yaml and is explained there."""

    def __init__(
        self,
        split: str | None,
        suites: Sequence[str],
        episodes: int,
        language: str,
        execute: int,
        temporal_ensemble: float | None,
        batch_size: int,
        workers: int | None,
        seed: int,
        allow_second_test: bool,
        parts: Mapping[str, Part | None],
    ) -> None:
        if split not in (None, "val", "test"):
            raise ProjectError(f"evaluation.split is '{split}'; choose val, test or null")
        for key, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("workers", workers, 1)):
            if value is not None and value < least:
                raise ProjectError(f"evaluation.{key} is {value}, expected {least} or more; correct it.")
        if temporal_ensemble is not None and temporal_ensemble < 0:
            raise ProjectError(
                f"evaluation.temporal_ensemble is {temporal_ensemble}, expected 0 (all chunks weigh the same) or more, "
                "or null; correct it."
            )
        if language not in LANGUAGES:
            raise ProjectError(
                f"evaluation.language is {language!r}, expected one of {', '.join(LANGUAGES)}."
            )
        if len(set(suites)) < len(suites):
            raise ProjectError(
                f"evaluation.suites is {list(suites)}, expected each suite once; drop the second."
            )
        clash = sorted(set(parts) & set(record.RESERVED))
        if clash:
            raise ProjectError(
                f"evaluation.parts.{clash[0]}: the report has another section of this name; rename the part."
            )
        self.split = split
        self.suites = [Suite.parse(name, episodes) for name in suites]
        self.language = language
        self.execute, self.temporal_ensemble = execute, temporal_ensemble
        self.batch_size, self.seed = batch_size, seed
        self.workers = min(8, cores()) if workers is None else workers
        if multiprocessing.current_process().daemon:
            self.workers = 1  # such a process may not have children
        self.allow_second_test = allow_second_test
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:
        """Refuse what could not be measured, or would be unfair; asked before a training, it costs nothing.

        `horizon`: H, actions the policy predicts; `datamodule` is set up.

        Raises:
            ProjectError: settings that do not fit the policy or the data, or test tasks among the training data.
        """
        checks.check_planning(self.execute, self.temporal_ensemble, horizon)
        checks.check_axes(self.suites, datamodule.action_space)
        checks.check_split(self.split, datamodule)
        checks.check_unseen(self.suites, datamodule)
        for part in self.parts.values():
            part.check(horizon, datamodule)

    def bench(
        self,
        policy: Policy,
        datamodule: EpisodeDataModule,
        folder: Path,
        run: Path | None,
        light: bool = False,
    ) -> Bench:
        """What the parts share; the light one of a training knows the validation split and this process alone."""
        return Bench(
            policy=policy,
            datamodule=datamodule,
            folder=folder,
            run=run,
            split="val" if light else self.split,
            suites=[] if light else self.suites,
            language=self.language,
            execute=self.execute,
            temporal_ensemble=self.temporal_ensemble,
            batch_size=self.batch_size,
            workers=1 if light else self.workers,
            seed=self.seed,
        )

    def run(
        self,
        folder: Path,
        policy: Policy,
        datamodule: EpisodeDataModule,
        provenance: Mapping[str, Any] | None = None,
        run: Path | None = None,
        checkpoint: Path | None = None,
    ) -> Figures:
        """Measure, write the report and what belongs to it into `folder`, return the report (plain values).

        `provenance`: facts about the run for the reader of the report. `run`: its folder, where the curves and the
        ledger of test readings lie. `checkpoint`: the file whose weights `policy` has.

        A part that breaks is named under `failed`, and the others are measured nevertheless.

        Raises:
            ProjectError: before anything is measured, see `check`; or the test split was read for another checkpoint.
        """
        self.check(policy.horizon, datamodule)
        reading = None
        if self.split == "test" and run is not None and checkpoint is not None:
            reading = Reading.open(run, checkpoint, folder, self.allow_second_test)
        started = time.perf_counter()
        bench = self.bench(policy, datamodule, folder, run)
        sections: Figures = {}
        files: Figures = {"report": record.FILE, "page": page.FILE}
        failed: dict[str, str] = {}
        verdict: Figures = {"line": "", "success": None, "not_beaten": [], "too_few": []}
        verdict |= dict.fromkeys(record.VERDICTS, UNKNOWN)
        with bench.simulators():
            for name, part in self.parts.items():
                try:
                    with bench.timed(name):
                        section = part.measure(bench)
                    said = dict(part.verdict(section, bench))
                    for names in ("not_beaten", "too_few"):
                        said[names] = sorted({*verdict[names], *said.get(names, [])})
                    files |= section.pop("files", {})
                    sections[name], verdict = section, verdict | said
                except Exception as error:
                    sections[name] = None
                    failed[name] = _reason(error)
                    log.exception("evaluation: the part %s failed", name)
        if sections.get("offline") and (caution := _seen_before(provenance or {})):
            sections["offline"]["split_role"] += f", {caution}"
        verdict = {
            key: value.to_dict() if isinstance(value, Verdict) else value for key, value in verdict.items()
        }
        verdict["failed"] = sorted(failed)
        verdict["line"] = record.verdict_line(verdict, sections.get("baselines"))
        report: Figures = {
            "schema_version": record.SCHEMA_VERSION,
            "verdict": verdict,
            "settings": self.settings(),
            "provenance": {**(provenance or {}), "test_reads": reading.facts() if reading else []},
            **sections,
            "failed": failed,
            "metrics": record.metrics({k: v or {} for k, v in sections.items() if k not in _NOT_COMPARED}),
            "files": files,
        }
        bench.seconds["total"] = time.perf_counter() - started
        report["timings"] = {key: round(value, 2) for key, value in bench.seconds.items()}
        if failed and _has_whole(folder):  # a report without holes is not given up for one with holes
            folder = folder / FAILED
        record.write(folder, report)
        try:
            page.write(folder, record.plain(report), run)
        except Exception as error:  # the figures are safe; a page that cannot be drawn must not hide them
            failed["page"] = _reason(error)
            log.exception("evaluation: the page could not be drawn")
            record.write(folder, report)
        if reading:
            reading.close(failed)
        plain: Figures = record.plain(report)
        return plain

    def settings(self) -> Figures:
        """What determines the figures, for the reader of a report."""
        return {
            "split": self.split,
            "suites": [asdict(suite) for suite in self.suites],
            "suite_version": SUITE_VERSION,
            "language": self.language,
            "execute": self.execute,
            "temporal_ensemble": self.temporal_ensemble,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "allow_second_test": self.allow_second_test,
            "parts": list(self.parts),
        }


def _has_whole(folder: Path) -> bool:
    try:
        return not record.read(folder)["failed"]
    except ProjectError:
        return False


def _seen_before(provenance: Mapping[str, Any]) -> str:
    """A warning where the run started from weights that may have been trained on the frames to be scored."""
    start = (provenance.get("model") or {}).get("init_from")
    data = provenance.get("data") or {}
    if not start or all(start.get(key) == data.get(key) for key in ("data_hash", "split_hash")):
        return ""
    return "but it started from weights (init_from) trained on another split, which may hold these frames"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ProjectError) else f"{type(error).__name__}: {error}"


def require_whole(report: Mapping[str, Any], run: Path) -> None:
    """A report with failed parts is no success: the run is marked so, and keeps its checkpoint.

    Raises:
        ProjectError: a part failed.
    """
    if report["failed"]:
        name, reason = next(iter(report["failed"].items()))
        others = f" (and {len(report['failed']) - 1} more)" if len(report["failed"]) > 1 else ""
        raise ProjectError(
            f"evaluation.parts.{name}{others} failed: {reason}; the checkpoint is kept, what was measured stands in "
            f"{record.FILE} (in {FAILED}/, if there was a whole one); mend it, then python -m src.evaluate run={run}."
        )
