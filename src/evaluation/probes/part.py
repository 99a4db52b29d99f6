"""Owns the order of the probes: what is changed, how it is asked, and which verdicts follow.

In: a bench. Out: the section `probes` of the report: `driven` (changed tasks in the simulator), `recorded` (changed
batches), `words`, `occlusion`, and under `not_measured` why a probe has no figures. How each is done is said in the
modules beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from src.core.errors import ProjectError
from src.evaluation.base import Figures, Part
from src.evaluation.offline.scores import Truth, collect, mean_frame, without_image
from src.evaluation.probes import driven, occlusion, recorded, verdicts, words
from src.evaluation.probes.pieces import of_episodes, spread
from src.evaluation.probes.verdicts import Thresholds, Verdict
from src.model.senses import BLANK

if TYPE_CHECKING:
    from src.data.datamodule import EpisodeDataModule
    from src.evaluation.bench import Bench

GLANCE = ("other_instruction", "mirrored", "no_image")
GLANCE_EPISODES = 8
NOT_SPLIT = "no recorded episodes were scored (evaluation.split is null)"


class Probes(Part):
    """Changes what the policy hears and sees. Every argument is a key of conf/evaluation/part/probes.yaml."""

    def __init__(
        self,
        driven: Sequence[str],
        suite: int,
        episodes: int,
        recorded: Sequence[str],
        recorded_episodes: int,
        word_episodes: int,
        occlusion_frames: int,
        occlusion_grid: int,
        thresholds: Thresholds,
        every_n_epochs: int | None = None,
    ) -> None:
        super().__init__(every_n_epochs)
        _check_kinds("driven", driven, DRIVEN)
        _check_kinds("recorded", recorded, RECORDED)
        for key, value, least in (
            ("suite", suite, 0),
            ("episodes", episodes, 1),
            ("recorded_episodes", recorded_episodes, 1),
            ("word_episodes", word_episodes, 0),
            ("occlusion_frames", occlusion_frames, 0),
            ("occlusion_grid", occlusion_grid, 1),
        ):
            if value < least:
                raise ProjectError(
                    f"evaluation.parts.probes.{key} is {value}, expected {least} or more; correct it."
                )
        self.driven, self.suite, self.episodes = list(driven), suite, episodes
        self.recorded, self.recorded_episodes = list(recorded), recorded_episodes
        self.word_episodes = word_episodes
        self.occlusion_frames, self.occlusion_grid = occlusion_frames, occlusion_grid
        self.thresholds = thresholds

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:
        """Refuse a grid finer than the picture."""
        if self.occlusion_frames and self.occlusion_grid > datamodule.image_size:
            raise ProjectError(
                f"evaluation.parts.probes.occlusion_grid is {self.occlusion_grid}, but a picture has only "
                f"{datamodule.image_size} px (data.image_size); choose fewer cells."
            )

    def measure(self, bench: Bench) -> Figures:
        """Only what the bench has: without suites nothing is driven, without a split no frames are changed."""
        out: Figures = {
            "driven": None,
            "recorded": {},
            "words": [],
            "occlusion": {"frames": []},
            "not_measured": {},
            "files": {},
        }
        if self.driven and bench.suites:
            out["driven"] = self._drive(bench)
        if bench.split is None:
            out["not_measured"] = dict.fromkeys(self.recorded, NOT_SPLIT)
            return out
        spoken = {e.id: e.instructions for e in bench.episodes}
        if self.recorded:
            self._record(bench, spoken, out)
        with bench.timed("probes: words"):
            chosen = words.chosen(spoken, self.word_episodes)
            out["words"] = words.strips(bench.policy, bench.loader(), spoken, chosen, bench.space, bench.seed)
        with bench.timed("probes: occlusion"):
            out["occlusion"] = self._occlude(bench)
        out["files"] = {"occlusion": [frame["image"] for frame in out["occlusion"]["frames"]]}
        return out

    def verdict(self, figures: Figures, bench: Bench) -> Mapping[str, Verdict]:
        """`listens`, `looks`, `remembers`, `objects`."""
        return {
            "listens": verdicts.listens(figures, self.thresholds),
            "looks": verdicts.looks(figures, self.thresholds),
            "remembers": verdicts.remembers(figures, self.thresholds),
            "objects": verdicts.objects(figures),
        }

    def glance(self, bench: Bench) -> dict[str, float]:
        """Change of the action, as a share of the half range, on eight validation episodes: `other_instruction`,
        `mirrored`, `no_image`. Near zero while the loss falls: the policy learns something else."""
        first = next(iter(bench.loader()))
        episodes = list(dict.fromkeys(episode for episode, _ in first.keys))[:GLANCE_EPISODES]
        batches = list(of_episodes([first], episodes))
        wanted = [kind for kind in GLANCE if kind in self.recorded]
        changes, _ = self._changes(bench, wanted, episodes, mean_frame(batches))
        truth, before = collect(bench.policy, batches, bench.labels, None, bench.seed)
        out: dict[str, float] = {}
        for kind, (change, told) in changes.items():
            _, after = collect(bench.policy, batches, bench.labels, change, bench.seed)
            figures = recorded.action_figures(before, after, truth, bench.space, bench.seed, told)
            out |= recorded.flat({kind: figures})
        return out

    # ---- in the simulator

    def _drive(self, bench: Bench) -> Figures:
        """The first tasks of a suite once more under changed words."""
        if self.suite >= len(bench.suites):
            raise ProjectError(
                f"evaluation.parts.probes.suite is {self.suite}, but evaluation.suites has {len(bench.suites)} "
                f"entries; choose 0 to {len(bench.suites) - 1}."
            )
        suite = bench.suites[self.suite]
        original = bench.policy_rollouts(suite)[: self.episodes]
        tasks = [rollout.task for rollout in original]
        out: Figures = {"suite": suite.name, "chance": driven.chances(original)}
        out["original"] = {"success": driven.success_figures(original, original)["success"]}
        out["named_object"] = driven.object_figures(original)
        for kind in self.driven:
            driver = bench.driver(f"policy, {kind} instruction")
            probed = bench.driven(suite, driver, driven.probe_tasks(kind, tasks, bench.seed))
            out[kind] = driven.driven_figures(kind, original, probed)
        return out

    # ---- on recorded frames

    def _record(self, bench: Bench, spoken: Mapping[str, Sequence[str]], out: Figures) -> None:
        """Fill in `recorded` and `not_measured`: the same episodes under each change, against the unchanged ones."""
        episodes = spread(sorted(spoken), self.recorded_episodes)

        def ask(change: recorded.Change | None) -> tuple[Truth, np.ndarray]:
            batches = of_episodes(bench.loader(), set(episodes))
            return collect(bench.policy, batches, bench.labels, change, bench.seed)

        with bench.timed("probes: recorded"):
            changes, out["not_measured"] = self._changes(bench, self.recorded, episodes, bench.mean_frame)
            whole = len(episodes) == len(spoken)
            # Some episodes make other batches, and a head that samples would throw other dice for them.
            truth, before = (bench.truth, bench.predicted) if whole else ask(None)
            for kind, (change, told) in changes.items():
                _, after = ask(change)
                rows = recorded.action_figures(before, after, truth, bench.space, bench.seed, told)
                out["recorded"][kind] = figures = dict(rows)
                if told is None:
                    continue
                dead_band = self.thresholds.action_change
                flip = recorded.flip_figure(before, after, truth, bench.space, told, spoken, dead_band)
                if flip is not None and flip.n:
                    figures["flip"] = flip

    def _changes(
        self, bench: Bench, kinds: Sequence[str], episodes: Sequence[str], mean: Tensor
    ) -> tuple[dict[str, tuple[recorded.Change, recorded.Words | None]], dict[str, str]]:
        """kind → what alters a batch, and the words of those episodes that hear others; and why a kind has none."""
        spoken = {e.id: e.instructions for e in bench.episodes}
        out: dict[str, tuple[recorded.Change, recorded.Words | None]] = {}
        missing: dict[str, str] = {}
        for kind in kinds:
            told: recorded.Words | None = None
            change: recorded.Change | None = None
            if kind == "other_instruction":
                told = recorded.other_words(spoken, bench.labels)
                missing[kind] = "all recorded episodes share one sentence, so no other words can be tried"
            elif kind == "mirrored":
                told = recorded.mirrored_words(spoken)
                missing[kind] = (
                    "the recorded sentences do not say both sides, so there is nothing to exchange"
                )
            elif kind == "no_instruction":
                told = dict.fromkeys(spoken, BLANK)
            elif kind == "no_image":
                change = without_image(mean)
            elif kind == "other_image":
                change = recorded.other_image(recorded.donors(bench.loader(), bench.labels), bench.labels)
                missing[kind] = "all recordings are one group, so there is no other scene"
            elif bench.policy.window == 1:
                missing[kind] = "the policy sees one frame (data.window=1), so there is no history"
            else:
                change = (
                    recorded.last_frame if kind == "last_frame" else recorded.shuffled_history(bench.seed)
                )
            if told is not None:
                told = {episode: told[episode] for episode in episodes if episode in told}
                change = recorded.say(told, spoken, bench.policy.tokenize) if told else None
            if change is not None:
                out[kind] = (change, told)
                missing.pop(kind, None)
        return out, missing

    def _occlude(self, bench: Bench) -> Figures:
        """Maps and their pictures."""
        frames = occlusion.chosen({e.id: e.length for e in bench.episodes}, self.occlusion_frames)
        if not frames:
            return {"frames": []}
        grid, seed = self.occlusion_grid, bench.seed
        found = occlusion.occlude(
            bench.policy, bench.loader(), frames, bench.mean_frame, grid, bench.space, seed
        )
        paths = occlusion.write(bench.folder / "probes", found, self.thresholds.action_change)
        spoken = {e.id: e.instructions[0] for e in bench.episodes}
        rows = [
            {
                "episode": one.episode,
                "t": one.t,
                "instruction": spoken[one.episode],
                "grid": one.grid.round(6).tolist(),
                "image": str(path.relative_to(bench.folder)),
            }
            for one, path in zip(found, paths, strict=True)
        ]
        return {"frames": rows}


DRIVEN, RECORDED = driven.KINDS, recorded.KINDS  # the parameters of `Probes` hide the modules of these names


def _check_kinds(key: str, kinds: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise ProjectError(
            f"evaluation.parts.probes.{key}: there is no probe '{unknown[0]}'; choose from {', '.join(known)}."
        )
