"""Owns what the figures of the probes mean: does the policy listen, look, remember, tell objects apart?

In: the figures of `driven` and `recorded`, thresholds from the configuration. Out: a `Verdict` in one sentence each. A
yes or a no takes a whole interval on one side; everything else is "not decided", and what was not tried "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.core.errors import ProjectError
from src.evaluation.statistics import Estimate, PairedTest

FEWEST_PAIRS = 6  # with fewer no sign-flip test can reach p < 0.05

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Thresholds:
    """What a verdict takes; it is yes or no only where the whole interval lies on one side.

    `outcome_change`: share of driven pairs (both passed the boxes) whose outcome must change when the words change.
    `success_share`: driven success with a stranger's instruction must fall below this share of the original's.
    `flip`: share of recorded episodes in which exchanged sides must move the motion towards the other side.
    `action_change`: mean change of the executed action, as a share of each axis's half range; also the shift of an
    episode's motion that counts as one, and the rise of the error that counts as none.

    False alarms, measured with these defaults on drives of the simulator's expert (the slow tests of
    tests/evaluation/probes/test_false_alarms.py). Recorded, 8 and 40 episodes, 60 runs per policy: three sound
    policies (error up to σ 0.5 m/s; heeding the words in 70 % of frames) were accused in 0 of 180 runs (95 % interval
    0–2 %), and two runs left *looks* undecided; two deaf ones, a blind one and a clock were caught in 60 of 60 each
    (94–100 %). Driven, 300 redraws per case: who heeds the words in 70 % or more of 16, 30 or 100 rooms was never
    called deaf (0 of 3600), who heeds them in 30 % or less never listening (0 of 2700). Of 16 pairs a driver that
    heeds 80 % is left undecided in 18 %, of 100 never.

    Raises:
        ProjectError: a value outside of 0 … 1.
    """

    outcome_change: float = 0.5
    success_share: float = 0.5
    flip: float = 0.5
    action_change: float = 0.02

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not 0 < value < 1:
                raise ProjectError(
                    f"evaluation.parts.probes.thresholds.{key} is {value}, expected a share between 0 and 1; "
                    "correct it."
                )


@dataclass(frozen=True)
class Verdict:
    """A yes or no, or that the data do not tell, with the figures that led to it, in one sentence."""

    answer: str  # "yes" | "no" | "not decided" | "not measured"
    words: str

    def to_dict(self) -> dict[str, str]:
        return {"answer": self.answer, "words": self.words}


# ---- the four questions


def listens(section: Section, thresholds: Thresholds) -> Verdict:
    """Whether the words decide what happens. Driving outweighs recorded frames: there the words had consequences.

    Recorded frames decide where nothing was driven, and where boxes stand but too few were passed for driving to tell.
    A no in driving against a yes on recorded frames accuses nobody: it is not decided.
    """
    figures = section.get("driven") or {}
    driven = listens_driven(figures, thresholds)
    recorded = listens_recorded(section, thresholds)
    if driven.answer == "not measured":
        return recorded
    if recorded.answer == "not measured":
        return driven
    both = f"{driven.words}; recorded frames say {recorded.answer}: {recorded.words}"
    if driven.answer == "not decided":
        return Verdict(recorded.answer if _too_few_passed(figures) else driven.answer, both)
    if (driven.answer, recorded.answer) == ("no", "yes"):
        return Verdict("not decided", f"driving says no: {both}")
    return driven


def listens_driven(figures: Section, thresholds: Thresholds) -> Verdict:
    """By the sides of the swapped pairs, or where no box stands, by the success under a stranger's words.

    The sides must change, and the swapped words must be obeyed beyond chance: around two boxes a driver that tosses
    a coin changes something in three pairs of four. Pairs in which a box was not passed say nothing: who drives into it
    may have heard every word. Unless too few are left and in most of all pairs not even one command is another.
    """
    passed: Estimate | None = figures["swapped"]["passed"] if "swapped" in figures else None
    if passed is not None and passed.n:
        changed: Estimate = figures["swapped"]["changed"]
        obeyed: Estimate = figures["swapped"]["obeyed_swapped"]
        if _too_few_passed(figures):
            same: Estimate = figures["swapped"]["same_commands"]
            if decide(same, 0.5) == "yes":
                return Verdict(
                    "no", f"swapping left and right changes not one command in {percent(same)} of pairs"
                )
            return Verdict(
                "not decided",
                f"swapping left and right cannot be judged by driving: both drives passed the boxes in {changed.n} "
                f"of {passed.n} pairs, {FEWEST_PAIRS} are needed",
            )
        chance: float = figures["chance"]["sides"]
        by_change = decide(changed, thresholds.outcome_change)
        answer = _all_of(by_change, beyond_chance(obeyed, chance))
        words = f"swapping left and right changes the outcome in {percent(changed)}"
        words += (
            f" of those pairs that passed the boxes, {changed.n} of {passed.n}"
            if changed.n < passed.n
            else ""
        )
        if answer != by_change or chance < 0.5:
            words += f"; the swapped words are obeyed in {percent(obeyed)}, chance {100 * chance:.0f} %"
        return Verdict(answer, words)
    shuffled = figures.get("shuffled", {}).get("success")
    if isinstance(shuffled, Estimate) and shuffled.n:
        before: Estimate = figures["original"]["success"]
        drop: PairedTest = figures["shuffled"]["drop"]
        words = f"with another task's instruction success goes from {share(before)} to {percent(shuffled)}"
        if not before.value or shuffled.n < FEWEST_PAIRS:
            return Verdict("not decided", words)
        answer = decide(drop.difference, (1 - thresholds.success_share) * before.value)
        return Verdict("not decided" if answer == "yes" and not drop.better else answer, words)
    return Verdict("not measured", "no instruction probe was driven")


def _too_few_passed(figures: Section) -> bool:
    """Boxes stand there, and were passed by both drives of fewer pairs than can tell."""
    if "swapped" not in figures:
        return False
    passed, changed = figures["swapped"]["passed"], figures["swapped"]["changed"]
    return passed.n > 0 and changed.n < FEWEST_PAIRS


def listens_recorded(section: Section, thresholds: Thresholds) -> Verdict:
    """By the side towards which exchanged words move the motion, or where no sides are said, by other sentences."""
    recorded = section.get("recorded") or {}
    flip = recorded.get("mirrored", {}).get("flip")
    if isinstance(flip, Estimate) and flip.n >= FEWEST_PAIRS:
        words = f"with left and right exchanged the motion shifts to the side then said in {percent(flip)}"
        return Verdict(decide(flip, thresholds.flip), f"{words} of recorded episodes")
    if "other_instruction" in recorded:
        return by_action("another instruction", recorded["other_instruction"], thresholds)
    return _missing(section, "other_instruction", "no other words were tried")


def looks(section: Section, thresholds: Thresholds) -> Verdict:
    """Whether the picture decides. It is hidden behind the mean image, which no policy was trained on, and taken from
    another drive, which may happen to suit: one that makes it worse is enough for yes, and no takes both."""
    recorded = section.get("recorded") or {}
    tried = [
        by_action(what, recorded[kind], thresholds)
        for kind, what in (("no_image", "hiding the image"), ("other_image", "showing another scene"))
        if kind in recorded
    ]
    if not tried:
        return _missing(section, "no_image", "no image was hidden")
    answers = [verdict.answer for verdict in tried]
    if "yes" in answers:
        return tried[answers.index("yes")]
    if len(set(answers)) == 1:
        return tried[0]
    return Verdict("not decided", "; ".join(verdict.words for verdict in tried))


def remembers(section: Section, thresholds: Thresholds) -> Verdict:
    """Whether earlier frames matter. No is no fault: a task may need none. A clock says yes, for it counts frames."""
    recorded = section.get("recorded") or {}
    for kind, what in (
        ("last_frame", "leaving only the newest frame"),
        ("shuffled_history", "shuffling the history"),
    ):
        if kind in recorded:
            return by_action(what, recorded[kind], thresholds)
    return _missing(section, "last_frame", "the history was left as it is")


def objects(section: Section) -> Verdict:
    """Whether the named object is reached more often than chance among the objects in the room."""
    figures = section.get("driven") or {}
    estimate = figures.get("named_object")
    if not isinstance(estimate, Estimate):
        return Verdict("not measured", "nothing was driven")
    if not estimate.n:
        return Verdict("not measured", "no episode reached one of several objects")
    chance: float = figures["chance"]["objects"]
    words = f"of the objects it reaches, {percent(estimate)} are the named one; chance {100 * chance:.0f} %"
    return Verdict(beyond_chance(estimate, chance), words)


def by_action(what: str, figures: Section, thresholds: Thresholds) -> Verdict:
    """The action must move, and away from what was right. `what` names the change, e.g. 'hiding the image'."""
    change: Estimate = figures["change"]
    rise: PairedTest = figures["error_rise"]
    if (change.clusters or 0) < FEWEST_PAIRS:
        return Verdict("not measured", f"{change.clusters or 0} groups of recordings are too few to tell")
    # "no": the error rises by less than would count as a change of the action.
    worse = "yes" if rise.better else decide(rise.difference, float("inf"), thresholds.action_change)
    answer = _all_of(decide(change, thresholds.action_change), worse)
    effect = {"yes": "makes it worse", "no": "makes it no worse", "not decided": "makes it not clearly worse"}
    words = (
        f"{what} moves the action by {share(change)} of its half range and {effect[worse]} {_spread(change)}"
    )
    return Verdict(answer, words)


# ---- intervals and words


def decide(estimate: Estimate, above: float, no_up_to: float | None = None) -> str:
    """ "yes" if the whole interval lies above `above`, "no" if it lies at or below `no_up_to` (default: the same),
    else "not decided"."""
    if estimate.low is None or estimate.high is None:
        return "not decided"
    if estimate.low > above:
        return "yes"
    return "no" if estimate.high <= (above if no_up_to is None else no_up_to) else "not decided"


def beyond_chance(estimate: Estimate, chance: float) -> str:
    """Whether a share beats chance. Who guesses is at chance, so no interval ever lies wholly below it: "no" is said
    once the interval excludes even half the way from chance to certainty, and never of fewer than six."""
    return decide(estimate, chance, (1 + chance) / 2 if estimate.n >= FEWEST_PAIRS else 0.0)


def _all_of(*answers: str) -> str:
    """One no is a no; a yes takes all."""
    if "no" in answers:
        return "no"
    return "yes" if all(answer == "yes" for answer in answers) else "not decided"


def _missing(section: Section, kind: str, otherwise: str) -> Verdict:
    """Not measured, with the reason that the section gives for this probe."""
    return Verdict("not measured", (section.get("not_measured") or {}).get(kind, otherwise))


def share(estimate: Estimate) -> str:
    """`97 %`."""
    return "–" if estimate.value is None else f"{100 * estimate.value:.0f} %"


def percent(estimate: Estimate) -> str:
    """`97 % (n=200, 95 % interval 94–99)`; of frames, `97 % (n=200 frames of 12 groups, 95 % interval 80–99)`."""
    return f"{share(estimate)} {_spread(estimate)}"


def _spread(estimate: Estimate) -> str:
    """n, the independent units where they are fewer (what is averaged within groups are frames), and the interval."""
    n = f"n={estimate.n}"
    if estimate.clusters not in (None, estimate.n):
        n += f" frames of {estimate.clusters} group{'' if estimate.clusters == 1 else 's'}"
    if estimate.low is None or estimate.high is None:
        return f"({n})"
    return f"({n}, 95 % interval {100 * estimate.low:.0f}–{100 * estimate.high:.0f})"
