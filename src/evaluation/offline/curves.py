"""Owns what the curves of a training say, in words: diverged? over-fitted? stopped too early? is the best one distinct?

In: <run>/metrics.csv (see src/experiment/csv_logger.py). Out: best, last and first value, noise, gaps, and four
verdicts of one sentence each. A loss says nothing about driving; these sentences are about the training alone.

How noise is told from trend: the second difference y[i+1] − 2y[i] + y[i−1] of a smooth curve is nearly 0, and that of
independent noise of standard deviation σ has 6σ² as its variance. So σ = 1.4826 · median|second difference| / √6, where
the median keeps a single leap out (1.4826 · MAD estimates σ under a normal law). Trends are read from the running mean
of 3. With the shipped rules, on 2000 made pairs of curves that are level but for 5 % of independent noise, for each of
5, 8, 12, 20 and 50 validations: called over-fitted 1 to 2 %, diverged 0 %, still improving at most 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.experiment.csv_logger import FILE, read_metrics

FEWEST = 5
"""Validations below which noise and trend cannot be told apart: 3 second differences."""


@dataclass(frozen=True)
class Curve:
    """Validations in the order of the training; all sequences have the same length n >= 0."""

    epoch: tuple[int, ...]  # counted from 0, as in metrics.csv
    step: tuple[int, ...]  # optimizer step
    validation: tuple[float, ...]
    training: tuple[float, ...]  # mean since the validation before; NaN where nothing was logged in between
    broken: bool  # NaN or infinity was logged for one of the two, anywhere


class CurveRules:
    """Which curve is judged, and from where on something is worth a word.

    Args:
        metric: column of metrics.csv; smaller is better.
        train_metric: the same on training batches.
        overfit: rise of the validation curve above its lowest point, as a share of that point, that is over-fitting.
        diverge: rise of the training curve above its lowest point, as a share of what it had won (or, if more, of the
            lowest point itself), that is divergence.
        improving: share of the whole fall that the last third of the training must still bring to say "train longer".
        noise: how many standard deviations of the noise a rise or a fall must exceed.
    """

    def __init__(
        self, metric: str, train_metric: str, overfit: float, diverge: float, improving: float, noise: float
    ) -> None:
        for key, value in (
            ("overfit", overfit),
            ("diverge", diverge),
            ("improving", improving),
            ("noise", noise),
        ):
            if not value > 0:
                raise ProjectError(f"curves.{key} is {value}, expected a number above 0.")
        self.metric, self.train_metric = metric, train_metric
        self.overfit, self.diverge, self.improving, self.noise = overfit, diverge, improving, noise

    def section(self, run: Path | None) -> dict[str, Any]:
        """The verdicts on a run folder's curves, or under `not_measured` why there are none."""
        if run is None:
            return {"not_measured": "there is no run folder, so no training curve"}
        if not (run / FILE).is_file():
            return {"not_measured": f"{run.name} has no {FILE}; the csv logger writes it"}
        curve = read_curve(read_metrics(run), self.metric, self.train_metric)
        if not curve.validation:
            return {"not_measured": f"{FILE} has no column {self.metric}, or no validation was logged"}
        return self.judge(curve)

    def judge(self, curve: Curve) -> dict[str, Any]:
        """Figures and verdicts of a curve of n >= 1 validations.

        Returns:
            metric, train_metric, n; best, last, first {epoch, step, value}; noise (σ, in units of the metric; None
            below five validations); rise (last above best, as a share of best); train_gap (best validation minus
            training at that point, as a share of the former); verdicts {diverged, overfits, still_improving,
            best_stands_out: {answer, words}}; and the curve: epochs, steps, validation, training (None for what is
            not finite). Epochs count from 0, as in metrics.csv.
        """
        values, training = np.array(curve.validation), np.array(curve.training)
        out: dict[str, Any] = {"metric": self.metric, "train_metric": self.train_metric, "n": len(values)}
        for name, index in (("best", _lowest(values)), ("last", len(values) - 1), ("first", 0)):
            out[name] = _point(curve, index)
        sigma = noise(values[np.isfinite(values)])
        best = _lowest(values)
        out["noise"] = sigma
        out["rise"] = _share(values[-1], values[best])
        out["train_gap"] = _share(values[best], training[best], values[best])
        diverged = self._diverged(curve)
        if diverged[0] == "yes":
            rest = ("not decided", "The training diverged, so its end says nothing about this.")
            overfits = improving = rest
        else:
            overfits, improving = self._overfits(curve, sigma), self._improving(curve, sigma)
        verdicts = {
            "diverged": diverged,
            "overfits": overfits,
            "still_improving": improving,
            "best_stands_out": self._stands_out(curve, sigma),
        }
        out["verdicts"] = {
            key: {"answer": answer, "words": words} for key, (answer, words) in verdicts.items()
        }
        out["epochs"], out["steps"] = list(curve.epoch), list(curve.step)
        out["validation"], out["training"] = _plain(values), _plain(training)
        return out

    def _diverged(self, curve: Curve) -> tuple[str, str]:
        if curve.broken:
            return "yes", "NaN or infinity was logged: the training diverged; lower the learning rate."
        training = np.array([value for value in curve.training if np.isfinite(value)])
        values, name = (
            (training, self.train_metric) if len(training) > 1 else (np.array(curve.validation), self.metric)
        )
        if len(values) < 2:
            return "not decided", f"One value of {name} shows no course."
        lowest = values.min()
        won = max(values[0] - lowest, abs(lowest))
        # Twice the usual margin: the lowest of many noisy values lies low by chance, and this verdict is a hard one.
        rise, allowed = values[-1] - lowest, 2 * self.noise * (noise(values) or 0.0)
        if rise > max(self.diverge * won, allowed):
            return "yes", (
                f"{name} rose from {lowest:.4g} to {values[-1]:.4g}: the training diverged; lower the learning rate."
            )
        return "no", f"{name} ends at {values[-1]:.4g}, its lowest value is {lowest:.4g}: no divergence."

    def _overfits(self, curve: Curve, sigma: float | None) -> tuple[str, str]:
        if sigma is None:
            return self._too_short(curve)
        smooth, training = _smooth(np.array(curve.validation)), np.array(curve.training)
        at = int(np.argmin(smooth))
        rise = smooth[-1] - smooth[at]
        share = _share(smooth[-1], smooth[at])
        if share is None or share <= self.overfit or rise <= self.noise * sigma:
            return "no", (
                f"{self.metric} ends {_percent(share)} above its lowest running mean: no over-fitting beyond "
                f"{_percent(self.overfit)} and the noise."
            )
        epoch = curve.epoch[at + 1]
        learned = _smooth(training)
        if np.isfinite(learned).all() and learned[-1] > learned[at] * (1 + self.overfit):
            return "no", (
                f"{self.metric} rose by {_percent(share)} after epoch {epoch}, and so did {self.train_metric}: that is "
                "no over-fitting but a worse fit; lower the learning rate."
            )
        fell = "" if not np.isfinite(learned).all() else f" while {self.train_metric} did not rise"
        return "yes", (
            f"{self.metric} rose by {_percent(share)} after epoch {epoch}{fell}: it over-fits; use more data, "
            "augmentation or a smaller adapter. The best checkpoint is from before."
        )

    def _improving(self, curve: Curve, sigma: float | None) -> tuple[str, str]:
        if sigma is None:
            return self._too_short(curve)
        smooth = _smooth(np.array(curve.validation))
        tail = max(1, len(smooth) // 3)
        before, late = smooth[:-tail].min(), smooth[-tail:].min()
        fall, significant = smooth[0] - smooth.min(), self.noise * sigma
        if fall <= significant:
            return (
                "no",
                f"{self.metric} never fell beyond the noise ({sigma:.2g}): nothing was learned that it shows.",
            )
        share = (before - late) / fall
        if share >= self.improving and before - late > significant:
            return "yes", f"The last third still brought {_percent(share)} of the whole fall: train longer."
        if share >= self.improving:
            return (
                "not decided",
                f"The last third brought {_percent(share)} of the whole fall, within the noise.",
            )
        return (
            "no",
            f"The last third brought {_percent(max(0.0, share))} of the whole fall: a plateau is reached.",
        )

    def _stands_out(self, curve: Curve, sigma: float | None) -> tuple[str, str]:
        if sigma is None:
            return self._too_short(curve)
        values = np.array(curve.validation)
        best = _lowest(values)
        near = [i for i in range(len(values)) if i != best and values[i] - values[best] <= 2 * sigma]
        if not near:
            return "yes", f"Epoch {curve.epoch[best]} is better than every other one beyond twice the noise."
        return "no", (
            f"{len(near)} other of {len(values)} validations lie within twice the noise ({sigma:.2g}) of the best: the "
            "choice among them is chance."
        )

    def _too_short(self, curve: Curve) -> tuple[str, str]:
        return "not decided", f"{len(curve.validation)} validations are too few ({FEWEST} are needed)."


def read_curve(rows: Sequence[dict[str, float]], metric: str, train_metric: str) -> Curve:
    """The curve in the rows of metrics.csv (`read_metrics`); n = 0 where `metric` was never logged."""
    epochs: list[int] = []
    steps: list[int] = []
    validation: list[float] = []
    training: list[float] = []
    since: list[float] = []
    broken = False
    for row in rows:
        broken |= any(not np.isfinite(row[key]) for key in (metric, train_metric) if key in row)
        if train_metric in row:
            since.append(row[train_metric])
        if metric in row:
            epochs.append(int(row.get("epoch", len(epochs))))
            steps.append(int(row.get("step", 0)))
            validation.append(row[metric])
            training.append(float(np.mean(since)) if since else float("nan"))
            since = []
    return Curve(tuple(epochs), tuple(steps), tuple(validation), tuple(training), broken)


def noise(values: np.ndarray) -> float | None:
    """σ of the step-to-step noise of finite `values` (n,), robust against trends and single leaps; None below five."""
    if len(values) < FEWEST:
        return None
    return float(1.4826 * np.median(np.abs(np.diff(values, n=2))) / sqrt(6))


def _smooth(values: np.ndarray) -> np.ndarray:
    """(n,) → (n-2,) running mean of three; entry i is centred at i + 1."""
    return np.convolve(values, np.full(3, 1 / 3), mode="valid")


def _lowest(values: np.ndarray) -> int:
    """Index of the lowest finite value; the first one where there is none."""
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


def _point(curve: Curve, index: int) -> dict[str, float | int | None]:
    value = curve.validation[index]
    finite = float(value) if np.isfinite(value) else None
    return {"epoch": curve.epoch[index], "step": curve.step[index], "value": finite}


def _share(above: float, below: float, whole: float | None = None) -> float | None:
    """(above − below) / |whole|, `whole` being `below` if not given; None where that is no number."""
    whole = below if whole is None else whole
    if not np.isfinite([above, below, whole]).all() or whole == 0:
        return None
    return float((above - below) / abs(whole))


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.0f} %"


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
