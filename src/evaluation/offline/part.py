"""Owns the section `offline` of a report: what recorded drives say about a policy.

In: the recorded split of a bench, the policy's predictions on it, the curves of its run. Out: every figure that needs
no simulator and no second pass of the policy. It only composes; the figures are made in the modules beside this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.core.errors import ProjectError
from src.evaluation.base import Figures, Part
from src.evaluation.offline.confusion import confusion
from src.evaluation.offline.curves import CurveRules
from src.evaluation.offline.phases import phase_table
from src.evaluation.offline.scores import over_horizon, point_scores, score
from src.evaluation.offline.trajectory import trajectory, unmeasured
from src.evaluation.report.record import SPLIT_ROLES

if TYPE_CHECKING:
    from src.evaluation.bench import Bench


class Offline(Part):
    """Compares predicted with recorded actions on held-out episodes. Every argument is explained in the YAML.

    Args:
        tolerance: share of half the range of an axis below which its error counts as none.
        steering: share of an axis's limit from which a recorded action counts as turning or going sideways.
        curves: how the curves of the training are judged.
        every_n_epochs: how often `error` and `direction_accuracy` are logged during training; None: never.
    """

    def __init__(
        self, tolerance: float, steering: float, curves: CurveRules, every_n_epochs: int | None
    ) -> None:
        super().__init__(every_n_epochs)
        for key, value in (("tolerance", tolerance), ("steering", steering)):
            if not 0 < value <= 1:
                raise ProjectError(
                    f"evaluation.parts.offline.{key} is {value}, expected a share above 0 and up to 1."
                )
        self.tolerance, self.steering, self.curves = tolerance, steering, curves

    def measure(self, bench: Bench) -> Figures:
        """The section `offline`. Where something cannot be measured with this action space or without a run folder
        (`confusion`, `trajectory`, `curves`), it says why under the key `not_measured`."""
        predicted, truth, space, seed = bench.predicted, bench.truth, bench.space, bench.seed
        reason = unmeasured(space)
        return {
            "split": bench.split,
            "split_role": SPLIT_ROLES[str(bench.split)],
            "tolerance": self.tolerance,
            **score(predicted, truth, space, self.tolerance, seed),
            "phases": phase_table(predicted, truth, space, self.tolerance, self.steering, seed),
            "horizon": over_horizon(predicted, truth, space, seed),
            "confusion": confusion(predicted, truth, space, seed)
            if space.classes
            else {"not_measured": "the action space has no direction classes (data.action.classes)"},
            "trajectory": {"not_measured": reason}
            if reason is not None
            else trajectory(predicted, truth, space, seed),
            "curves": self.curves.section(bench.run),
        }

    def glance(self, bench: Bench) -> dict[str, float]:
        """`error` and `direction_accuracy` of the policy on the validation frames, without intervals."""
        return point_scores(bench.predicted, bench.truth, bench.space)
