"""Owns the question whether the policy beats opponents that know next to nothing, or that only look things up.

In: a bench. Out: the section `baselines`: scores of every opponent on the same frames and the first tasks of every
suite, what the policy is better by, and the names of those it does not beat; <folder>/rollouts/<suite>-baselines.csv.
A policy beats an opponent if the paired test over the same groups (recorded frames) or tasks (driven) says so after
Holm's correction over all opponents of that table: with eight of them, one chance hit at p < 0.05 is no surprise.
Where there are so few groups or tasks that no outcome at all could say so (eight of them, for eight opponents), the
opponent is listed under `too_few` instead of `not_beaten`: that is a lack of data and not of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation.base import Figures, Part
from src.evaluation.baselines.features import FrozenFeatures
from src.evaluation.baselines.nearest import Memory, Nearest, encode
from src.evaluation.baselines.opponents import BASELINES, Baseline, fit_baselines
from src.evaluation.bench import Bench
from src.evaluation.driving.closed_loop import Controller, Suite, successes, summarise
from src.evaluation.driving.tables import write_rollouts
from src.evaluation.offline.scores import by_group, frame_error, score
from src.evaluation.statistics import CONFIDENCE, PairedTest, holm, paired, smallest_p

REPLAYING = ("nearest", "nearest_words")
NAMES = (*BASELINES, *REPLAYING)


class Baselines(Part):
    """Opponents on the same frames and tasks as the policy."""

    def __init__(self, names: Sequence[str], episodes: int, tolerance: float) -> None:
        """
        Args:
            names: of `opponents.py`, or `nearest`, `nearest_words`; in the order of the table.
            episodes: first tasks of each suite that they drive.
            tolerance: an axis is within if its error is below this share of half its range.

        Raises:
            ProjectError: an unknown name, one that is given twice, or no episode.
        """
        super().__init__()
        for name in names:
            if name not in NAMES:
                raise ProjectError(
                    f"evaluation.parts.baselines.names: no baseline is called '{name}', expected some "
                    f"of {', '.join(NAMES)}; correct it."
                )
        if len(set(names)) != len(names):
            raise ProjectError(
                f"evaluation.parts.baselines.names: found a name twice in {list(names)}, expected each once; drop it."
            )
        if episodes < 1:
            raise ProjectError(
                f"evaluation.parts.baselines.episodes: found {episodes}, expected at least 1; set "
                "evaluation.parts.baselines=null to "
                "leave the baselines out."
            )
        self.names, self.episodes, self.tolerance = list(names), episodes, tolerance

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:
        classes = datamodule.action_space.classes
        for name, needed in (("straight", "forward"), ("majority", None)):
            if name in self.names and (not classes or needed not in (None, *classes)):
                raise ProjectError(
                    f"evaluation.parts.baselines.names: '{name}' needs "
                    f"{f'a class named {needed!r}' if needed else 'classes'} in the "
                    f"action space, found {', '.join(classes) or 'none'}; add to data.action.classes, or drop '{name}' "
                    "from evaluation.parts.baselines.names."
                )

    def measure(self, bench: Bench) -> Figures:
        plain, replaying = self._fitted(bench)
        out: Figures = {
            "offline": {},
            "closed_loop": {},
            "advantage": {"offline": {}, "closed_loop": {}},
            "not_beaten": {"offline": [], "closed_loop": {}},
            "too_few": {"offline": [], "closed_loop": {}},
            "p_values": f"corrected for {len(self.names)} comparisons (Holm)",
        }
        if replaying:
            features = replaying[0].memory.features
            out["features"] = {
                "of": "the backbone as this run trained it" if features.trained else "the frozen backbone",
                "latents": features.latents,
                "pooled": features.pooled,
                "frames": len(replaying[0].memory.row),
            }
        if bench.split is not None:
            self._score(bench, plain, replaying, out)
        files = [path for suite in bench.suites for path in self._drive(bench, suite, plain, replaying, out)]
        if files:
            out["files"] = {"baseline_rollouts": files}
        return out

    def verdict(self, figures: Figures, bench: Bench) -> Mapping[str, Any]:
        """`not_beaten` and `too_few` on the first suite, else on recorded frames."""
        kinds = ("not_beaten", "too_few")
        if bench.suites:
            return {kind: figures[kind]["closed_loop"][bench.suites[0].name] for kind in kinds}
        return {kind: figures[kind]["offline"] for kind in kinds} if bench.split is not None else {}

    # ---- fitting

    def _fitted(self, bench: Bench) -> tuple[list[Baseline], list[Nearest]]:
        episodes = bench.datamodule.episodes("train")
        names = [name for name in self.names if name in BASELINES]
        plain = fit_baselines(names, [episode.actions for episode in episodes], bench.space)
        wanted = [name for name in REPLAYING if name in self.names]
        if not wanted:
            return plain, []
        with bench.timed("evaluation.parts.baselines: features of the training frames"):
            # The training batches serve each frame once. Their augmentation is still pending, so the pictures are the
            # recorded ones; words and actions, which may be mirrored, are taken from the episodes instead.
            memory = Memory(FrozenFeatures(bench.policy), episodes, bench.datamodule.train_dataloader())
        return plain, [Nearest(memory, words=name == "nearest_words") for name in wanted]

    # ---- recorded frames

    def _score(
        self, bench: Bench, plain: Sequence[Baseline], replaying: Sequence[Nearest], out: Figures
    ) -> None:
        truth, space = bench.truth, bench.space
        guesses = {baseline.name: baseline.predict(truth) for baseline in plain}
        if replaying:
            spoken = {episode.id: episode.instructions[0] for episode in bench.episodes}
            with bench.timed("evaluation.parts.baselines: nearest recorded frames"):
                seen = encode(replaying[0].memory.features, bench.loader())
                guesses |= {one.name: one.predict(truth, seen, spoken) for one in replaying}
            out["features"]["known_words"] = replaying[0].known_words(spoken)
        ours = by_group(frame_error(bench.predicted, truth, space), truth.group)
        tests = {}
        for name in self.names:
            out["offline"][name] = score(
                guesses[name], truth, space, self.tolerance, bench.seed, per_scenario=False
            )
            theirs = by_group(frame_error(guesses[name], truth, space), truth.group)
            tests[name] = paired(theirs, ours, bench.seed, measured=True)  # above 0: the policy errs less
        out["advantage"]["offline"] = corrected(tests)
        out["not_beaten"]["offline"] = not_beaten(out["advantage"]["offline"])
        out["too_few"]["offline"] = too_few(tests)

    # ---- simulated tasks

    def _drive(
        self,
        bench: Bench,
        suite: Suite,
        plain: Sequence[Baseline],
        replaying: Sequence[Nearest],
        out: Figures,
    ) -> list[str]:
        tasks = bench.tasks(suite)[: self.episodes]
        ours = successes(bench.policy_rollouts(suite)[: self.episodes])
        drivers: list[Controller] = [*plain, *replaying]
        by_name = {driver.name: driver for driver in drivers}
        arms = {name: bench.driven(suite, by_name[name], tasks) for name in self.names}
        tests = {name: paired(ours, successes(arm), bench.seed) for name, arm in arms.items()}
        out["closed_loop"][suite.name] = {name: summarise(arm, bench.seed) for name, arm in arms.items()}
        out["advantage"]["closed_loop"][suite.name] = corrected(tests)
        out["not_beaten"]["closed_loop"][suite.name] = not_beaten(corrected(tests))
        out["too_few"]["closed_loop"][suite.name] = too_few(tests)
        return write_rollouts(bench.folder, f"{suite.name}-baselines", arms) if arms else []


def corrected(tests: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
    """The same comparisons with p-values corrected for how many there are (Holm 1979)."""
    asked = {name: test.p_value for name, test in tests.items() if test.p_value is not None}
    adjusted = dict(zip(asked, holm(list(asked.values())), strict=True))
    return {name: replace(test, p_value=adjusted.get(name)) for name, test in tests.items()}


def not_beaten(tests: Mapping[str, PairedTest]) -> list[str]:
    """Opponents over which the policy has no advantage beyond the noise, though the data could have shown one."""
    unknown = too_few(tests)
    return [name for name, test in tests.items() if not test.better and name not in unknown]


def too_few(tests: Mapping[str, PairedTest]) -> list[str]:
    """Opponents that nobody could beat here: with so few units and so many tests no p-value falls below 0.05."""
    asked = sum(test.p_value is not None for test in tests.values())
    least = {name: smallest_p(test.difference.n, max(1, asked)) for name, test in tests.items()}
    return [name for name, p in least.items() if p >= 1 - CONFIDENCE]
