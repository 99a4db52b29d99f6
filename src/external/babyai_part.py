"""Owns the part of an evaluation that drives the policy through BabyAI's rooms, a benchmark not made by us.

In: a policy trained on data=babyai. Out: the section `babyai` of the report: per level the success of the policy, of
the bot and of opponents that know nothing, whether another object named in the same room is another object reached,
and which rooms were passed over; babyai.json with every drive.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile
from src.deploy.predictor import BatchedPredictor
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.evaluation.probes.verdicts import FEWEST_PAIRS, Verdict, decide, percent, share
from src.evaluation.statistics import paired, wilson
from src.external.driving import (
    OPPONENTS,
    Blindfolded,
    Drive,
    Driver,
    PolicyDriver,
    RoomTask,
    drive,
    held_out_tasks,
    retargeted,
    success,
    successes,
    summarise,
)
from src.external.levels import (
    TEST_SEEDS,
    VALIDATION_SEEDS,
    VIEW,
    Room,
    check_levels,
    check_space,
    require_minigrid,
)

FILE = "babyai.json"


class BabyAI(Part):
    """Closed loop on BabyAI's `GoTo` levels.

    Args:
        levels: names of `LEVELS`, driven in this order.
        episodes: rooms per level.
        first_seed: rooms from this seed on, 1,000,000 or later: none of them can have been recorded.
        baselines: of majority, clock, random.
        baseline_episodes: first rooms of each level for each of them.
        probe_episodes: first rooms of each level in which another object is named; 0: none.
        word_effect: listens: naming another object must cost more than this share of the successes on the first one.
        batch_size: rooms side by side; changes speed only.
        glance_level: level of the light version.
        glance_episodes: rooms of the light version, of seeds that are neither recorded nor driven at the end.
        every_n_epochs: how often the light version runs during training; None: never.

    Raises:
        ProjectError: minigrid is not installed, or a value that makes no sense.
    """

    def __init__(
        self,
        levels: Sequence[str],
        episodes: int,
        first_seed: int,
        baselines: Sequence[str],
        baseline_episodes: int,
        probe_episodes: int,
        word_effect: float,
        batch_size: int,
        glance_level: str,
        glance_episodes: int,
        every_n_epochs: int | None,
    ) -> None:
        super().__init__(every_n_epochs)
        self.version = require_minigrid("evaluation.parts.babyai")
        check_levels("evaluation.parts.babyai.levels", list(levels))
        check_levels("evaluation.parts.babyai.glance_level", [glance_level])
        unknown = sorted(set(baselines) - set(OPPONENTS))
        if unknown:
            raise ProjectError(
                f"evaluation.parts.babyai.baselines: found '{unknown[0]}', expected some of {', '.join(OPPONENTS)}; "
                "correct it."
            )
        for key, value, least in (
            ("episodes", episodes, 1),
            ("first_seed", first_seed, TEST_SEEDS),
            ("baseline_episodes", baseline_episodes, 1),
            ("probe_episodes", probe_episodes, 0),
            ("batch_size", batch_size, 1),
            ("glance_episodes", glance_episodes, 1),
        ):
            if value < least:
                raise ProjectError(
                    f"evaluation.parts.babyai.{key}: found {value}, expected {least} or more; correct it."
                )
        if not 0 <= word_effect < 1:
            raise ProjectError(
                f"evaluation.parts.babyai.word_effect: found {word_effect}, expected a share from 0 to 1; correct it."
            )
        self.levels, self.episodes, self.first_seed = list(levels), episodes, first_seed
        self.baselines, self.baseline_episodes = list(baselines), min(baseline_episodes, episodes)
        self.probe_episodes, self.word_effect = min(probe_episodes, episodes), word_effect
        self.batch_size = batch_size
        self.glance_level, self.glance_episodes = glance_level, glance_episodes

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:
        """The commands are those of a level, the data are BabyAI's, and no recorded room is driven.

        Raises:
            ProjectError: another action space, other data, or recorded seeds in the range of the evaluation.
        """
        check_space(datamodule.action_space)
        for episode in self._recorded(datamodule):
            self._seed_of(episode)
        self._tile(datamodule)

    def measure(self, bench: Bench) -> Figures:
        seen = {str(episode.attributes["layout"]) for episode in self._recorded(bench.datamodule)}
        opponents = self._opponents(bench)
        out: Figures = {
            "minigrid": self.version,
            "gymnasium": importlib.metadata.version("gymnasium"),
            "first_seed": self.first_seed,
            "levels": {},
        }
        everything: dict[str, dict[str, list[Any]]] = {}
        for level in self.levels:
            with bench.timed(f"babyai: {level}"):
                tasks, passed_over = held_out_tasks(level, self.episodes, self.first_seed, seen)
                drives = {"policy": self._drive(bench, self._policy(bench), tasks)}
                for opponent in opponents:
                    drives[opponent.name] = self._drive(bench, opponent, tasks[: self.baseline_episodes])
                figures = self._compare(drives, tasks, passed_over, bench.seed)
                figures["retargeted"], more = self._probe(bench, drives["policy"])
                out["levels"][level] = figures
                everything[level] = {
                    name: [d.to_dict() for d in arm] for name, arm in (drives | more).items()
                }
        atomic_write_json(bench.folder / FILE, everything)
        out["files"] = {"babyai": FILE}
        return out

    def verdict(self, figures: Figures, bench: Bench) -> Mapping[str, Any]:
        """Success per level; `listens` by the level with the strongest language, the last one that could be asked."""
        levels = figures["levels"]
        said: dict[str, Any] = {
            "success": "success "
            + ", ".join(f"{percent(f['policy']['success'])} on {level}" for level, f in levels.items()),
            "not_beaten": sorted({name for f in levels.values() for name in f["not_beaten"]}),
        }
        asked = [(level, f["retargeted"]) for level, f in levels.items() if f["retargeted"] is not None]
        if asked:
            level, probe = asked[-1]
            said["listens"] = self.listens(level, probe)
        return said

    def listens(self, level: str, probe: Figures) -> Verdict:
        """Yes: with another object named, the first one is reached clearly less often, and the named one more often
        than a stranger would be. No: the words cost the first object no more than `word_effect` (whole interval)."""
        words = (
            f"{level}: with another object of the room named, the first one is reached in {share(probe['first'])} "
            f"instead of {share(probe['original'])}, the named one in {percent(probe['named'])}"
        )
        if probe["original"].n < FEWEST_PAIRS or not probe["original"].value:
            return Verdict("not decided", words)
        answer = decide(probe["drop"].difference, self.word_effect)
        # A policy that merely breaks down under other words reaches neither the one nor the other.
        if answer == "yes" and not (probe["drop"].better and probe["obeys"].better):
            answer = "not decided"
        return Verdict(answer, words)

    def glance(self, bench: Bench) -> dict[str, float]:
        """Success on a few rooms of the validation seeds."""
        seen = {str(episode.attributes["layout"]) for episode in self._recorded(bench.datamodule)}
        tasks, _ = held_out_tasks(self.glance_level, self.glance_episodes, VALIDATION_SEEDS, seen)
        drives = self._drive(bench, self._policy(bench), tasks)
        return {f"{self.glance_level}/success": float(successes(drives).mean())}

    # ---- what is compared

    def _compare(
        self, drives: Mapping[str, list[Drive]], tasks: list[RoomTask], passed_over: dict[str, int], seed: int
    ) -> Figures:
        """Figures per driver, and the policy's advantage over each opponent on the same rooms."""
        policy = successes(drives["policy"])
        failed = sum(count for reason, count in passed_over.items() if reason.startswith("the bot"))
        others = [name for name in drives if name != "policy"]
        advantage = {
            name: paired(policy[: len(drives[name])], successes(drives[name]), seed) for name in others
        }
        return {
            "policy": summarise(drives["policy"], seed),
            "bot": {"success": wilson(len(tasks), len(tasks) + failed)},
            "baselines": {name: summarise(drives[name], seed) for name in others},
            "advantage": advantage,
            "not_beaten": [name for name, test in advantage.items() if not test.better],
            "passed_over": passed_over,
            "missions": len({task.target for task in tasks}),
        }

    def _probe(self, bench: Bench, original: list[Drive]) -> tuple[Figures | None, dict[str, list[Drive]]]:
        """The same rooms with another object named. None where a level always demands the same thing, or holds nothing
        else: there no words were ever needed.

        `original`: the first object reached under its own words; `first`: the same under the other words; `named`: the
        named object reached; `drop`, `obeys`: original - first, and named - first, paired by room.
        """
        asked = [d for d in original[: self.probe_episodes] if d.task.others]
        if len({d.task.own for d in asked}) < 2:
            return None, {}
        room = Room(asked[0].task.level)
        named = [retargeted(d.task, room) for d in asked]
        kept = [RoomTask(t.level, t.seed, t.instruction, t.own, t.own, t.others, t.bot_steps) for t in named]
        to_named = self._drive(bench, self._policy(bench, "named"), named)
        to_first = self._drive(bench, self._policy(bench, "first"), kept)
        return probe_figures(asked, to_first, to_named, bench.seed), {"named": to_named, "first": to_first}

    # ---- who drives, and on what

    def _drive(self, bench: Bench, driver: Driver, tasks: Sequence[RoomTask]) -> list[Drive]:
        data = bench.datamodule
        return drive(driver, tasks, data.action_space, self._tile(data), self.batch_size, bench.seed)

    def _policy(self, bench: Bench, name: str = "policy") -> PolicyDriver:
        size = bench.datamodule.image_size
        return PolicyDriver(
            BatchedPredictor(bench.policy, size, bench.execute, bench.temporal_ensemble), name
        )

    def _opponents(self, bench: Bench) -> list[Blindfolded]:
        actions = [episode.actions for episode in bench.datamodule.episodes("train")]
        return [
            Blindfolded(name, actions, bench.datamodule.action_space, bench.seed) for name in self.baselines
        ]

    def _recorded(self, datamodule: EpisodeDataModule) -> list[EpisodeFile]:
        """Everything that taught the policy or chose its checkpoint."""
        return [*datamodule.episodes("train"), *datamodule.episodes("val")]

    def _seed_of(self, episode: EpisodeFile) -> int:
        facts = episode.attributes
        if not {"babyai_level", "seed", "layout", "minigrid"} <= facts.keys():
            raise ProjectError(
                f"{episode.path}: found no BabyAI room in its attributes, expected one recorded by data=babyai, "
                "because otherwise nobody can tell which rooms the policy knows; train on data=babyai, or set "
                "evaluation.parts.babyai=null."
            )
        if facts["minigrid"] != self.version:
            raise ProjectError(
                f"{episode.path}: recorded with minigrid {facts['minigrid']}, found {self.version} installed, expected "
                "the same, because versions draw other rooms; install that one or record anew."
            )
        seed = int(facts["seed"])
        if seed >= VALIDATION_SEEDS:
            raise ProjectError(
                f"{episode.path}: found a room of seed {seed} among the training or validation data, expected seeds "
                f"below {VALIDATION_SEEDS}, because later ones are driven; record others (data.source.first_seed)."
            )
        return seed

    def _tile(self, datamodule: EpisodeDataModule) -> int:
        """px per cell: rooms are drawn as large as they were recorded."""
        side = datamodule.episodes("train")[0].frame_shape[0]
        if side % VIEW:
            raise ProjectError(
                f"data.root={datamodule.root}: found frames of {side} px, expected a multiple of {VIEW}; record them "
                "with data=babyai."
            )
        return side // VIEW


def probe_figures(
    original: list[Drive], to_first: list[Drive], to_named: list[Drive], seed: int = 0
) -> Figures:
    """The figures of `BabyAI._probe` from drives of the same rooms in the same order."""
    before, first, named = (successes(arm) for arm in (original, to_first, to_named))
    return {
        "original": success(original),
        "first": success(to_first),
        "named": success(to_named),
        "drop": paired(before, first, seed),
        "obeys": paired(named, first, seed),
    }
