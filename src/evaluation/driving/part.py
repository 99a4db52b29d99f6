"""Owns the question how the policy drives: every task of every suite, beside the demonstrator, and how that looks.

In: a bench with suites. Out: the section `closed_loop` (per suite the figures of the policy and of the expert, and
which version and tasks of the suite they are of), and below <folder>/rollouts/ a CSV and a JSON per suite, films of
the first suite and a sheet of pictures. During training: success on a few validation tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation import checks
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.driving import video
from src.evaluation.driving.closed_loop import ExpertController, Suite, summarise
from src.evaluation.driving.path_error import path_error
from src.evaluation.driving.tables import FOLDER, write_rollouts
from src.evaluation.probes.verdicts import percent
from src.sim import SUITE_VERSION


class ClosedLoop(Part):
    """Drives the policy through its predictor, as a robot would."""

    def __init__(
        self,
        expert: bool,
        videos: bool,
        video_size: int,
        contact_sheet: int,
        glance_suite: str,
        glance_episodes: int,
        every_n_epochs: int | None,
    ) -> None:
        """
        Args:
            expert: drive the demonstrator too; without it there is no `path_error` either.
            videos: films of the best, the median and the worst episode of the first suite.
            video_size: height of the camera picture in them, px.
            contact_sheet: episodes on the sheet of pictures; 0: no sheet.
            glance_suite: `<suite>/val`, driven during training.
            glance_episodes: first tasks of it.
            every_n_epochs: how often that is done; None: never.

        Raises:
            ProjectError: a value that makes no sense, or a glance at other tasks than validation ones.
        """
        super().__init__(every_n_epochs)
        if video_size < 32 or contact_sheet < 0:
            raise ProjectError(
                f"evaluation.parts.closed_loop: found video_size {video_size} and contact_sheet "
                f"{contact_sheet}, expected at least "
                "32 px and 0 episodes; correct them."
            )
        self.expert, self.videos = expert, videos
        self.video_size, self.contact_sheet = video_size, contact_sheet
        self.glanced = Suite.parse(glance_suite, glance_episodes)
        if self.glanced.split != "val":
            raise ProjectError(
                f"evaluation.parts.closed_loop.glance_suite: found {glance_suite}, expected "
                "<suite>/val, because a look during training "
                f"may not touch test tasks; set {self.glanced.suite}/val."
            )

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:
        if self.every_n_epochs is not None:
            checks.check_axes([self.glanced], datamodule.action_space)
            checks.check_unseen([self.glanced], datamodule)

    def measure(self, bench: Bench) -> Figures:
        out: Figures = {}
        files: Figures = {"rollouts": [], "videos": [], "contact_sheet": None}
        for suite in bench.suites:
            arms = {"policy": bench.policy_rollouts(suite)}
            figures = {"policy": summarise(arms["policy"], bench.seed)}
            if self.expert:
                arms["expert"] = bench.driven(suite, ExpertController())
                figures["expert"] = summarise(arms["expert"], bench.seed)
                figures["policy"]["path_error"] = path_error(arms["policy"], arms["expert"], bench.seed)
            out[suite.name] = {**figures, "version": SUITE_VERSION, "tasks": f"0–{suite.episodes - 1}"}
            files["rollouts"] += write_rollouts(bench.folder, suite.name, arms, paths_of="policy")
        if bench.suites:
            with bench.timed("videos"):
                self._pictures(bench, files)
            out["files"] = files
        return out

    def verdict(self, figures: Figures, bench: Bench) -> Mapping[str, Any]:
        if not bench.suites:
            return {}
        suite = bench.suites[0].name
        return {"success": f"success {percent(figures[suite]['policy']['success'])} on {suite}"}

    def glance(self, bench: Bench) -> dict[str, float]:
        driven = bench.drive(bench.driver(), self.glanced.tasks(bench.language))
        figures = summarise(driven, bench.seed)
        shown = {name: figures[name].value for name in ("success", "collision", "right_object", "right_side")}
        return {name: value for name, value in shown.items() if value is not None}

    def _pictures(self, bench: Bench, files: Figures) -> None:
        driven = bench.policy_rollouts(bench.suites[0])
        folder, size = bench.folder / FOLDER, bench.datamodule.image_size
        limits, period = bench.space.scale, bench.space.control_period
        if self.videos:
            paths = video.write_videos(folder, driven, size, self.video_size, limits, period)
            files["videos"] = [str(path.relative_to(bench.folder)) for path in paths]
        if self.contact_sheet:
            path = folder / "contact_sheet.png"
            video.write_contact_sheet(path, driven, size, self.contact_sheet, limits)
            files["contact_sheet"] = str(path.relative_to(bench.folder))
