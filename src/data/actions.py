"""Owns the action space: what each axis of an action means, its limits, its rate and its discrete classes.

In: a YAML of conf/data/action. Out: an ActionSpace that data, model, simulator and evaluation share.
Nothing here assumes a particular robot: any number of axes is a YAML file, not code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.core.errors import ProjectError

STOP_FRACTION = 0.1
"""An action below this fraction of the limits on every axis counts as standing still."""


@dataclass(frozen=True)
class ActionSpace:
    """A named action space of A axes.

    Args:
        names: (A,) axis names, e.g. linear_x, linear_y, angular_z (ROS REP-103: forward, left, counter-clockwise).
        units: (A,) SI units, e.g. m/s, rad/s.
        low, high: (A,) limits in these units.
        control_period: seconds between two actions.
        classes: class name -> (A,) direction in units of the axis limits; exactly one, the stop, is all zeros.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    control_period: float
    classes: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("names", "units"):
            object.__setattr__(self, key, _strings(key, getattr(self, key)))
        for key in ("low", "high"):
            object.__setattr__(self, key, _numbers(key, getattr(self, key)))
        if not self.names:
            raise ProjectError("data.action.names is empty; name at least one axis, e.g. [linear_x].")
        if len(set(self.names)) != len(self.names):
            raise ProjectError(
                f"data.action.names repeats an axis: {list(self.names)}; give every axis its own name."
            )
        for key in ("units", "low", "high"):
            if len(getattr(self, key)) != self.dim:
                found = len(getattr(self, key))
                raise ProjectError(
                    f"data.action.{key} has {found} values for {self.dim} axes {list(self.names)}."
                )
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not low < high:
                raise ProjectError(
                    f"data.action: axis {name} has low {low} and high {high}; low must be below high."
                )
        if not (math.isfinite(self.control_period) and self.control_period > 0):
            raise ProjectError(
                f"data.action.control_period is {self.control_period}; expected seconds above zero."
            )
        object.__setattr__(self, "classes", self._checked_classes(self.classes))

    def _checked_classes(self, classes: Any) -> dict[str, tuple[float, ...]]:
        if not isinstance(classes, Mapping):
            raise ProjectError("data.action.classes must map a class name to one number per axis.")
        checked = {str(name): _numbers(f"classes.{name}", vector) for name, vector in classes.items()}
        for name, vector in checked.items():
            if len(vector) != self.dim:
                raise ProjectError(
                    f"data.action.classes.{name} has {len(vector)} numbers for {self.dim} axes."
                )
        stops = [name for name, vector in checked.items() if not any(vector)]
        if checked and len(stops) != 1:
            raise ProjectError(
                f"data.action.classes needs exactly one class of zeros (the stop), found {len(stops)}: {stops}."
            )
        return checked

    @property
    def dim(self) -> int:
        """A, the number of axes."""
        return len(self.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in YAML order; `classify` returns indices into it."""
        return tuple(self.classes)

    @property
    def scale(self) -> np.ndarray:
        """(A,) float64, the largest absolute limit of each axis: the unit of the class directions."""
        return np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float64)

    def classify(self, actions: np.ndarray) -> np.ndarray:
        """The nearest class of each action.

        Args:
            actions: (..., A) in SI units.

        Returns:
            (...) int64 index into `class_names`: the stop class where every axis is below 10 % of its limit,
            else the class whose direction has the smallest angle to the action (the first one on a tie).
        """
        if not self.classes:
            raise ProjectError(
                "data.action.classes is empty, but classes were asked for; list them in the YAML."
            )
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape[-1:] != (self.dim,):
            raise ProjectError(
                f"actions of shape {actions.shape} do not end in the {self.dim} axes {self.names}."
            )
        if not np.isfinite(actions).all():
            raise ProjectError(
                "actions hold NaN or infinity and cannot be classified; check where they come from."
            )
        scaled = actions / self.scale
        directions = np.array(list(self.classes.values()), dtype=np.float64)
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        stop = int(np.argmin(lengths))
        similarity = scaled @ (directions / np.where(lengths > 0, lengths, 1.0)).T
        similarity[..., stop] = -np.inf  # the stop has no direction; only the threshold decides it
        nearest = np.argmax(
            np.round(similarity, 9), axis=-1
        )  # rounding makes a tie a tie, not a matter of float dust
        still = np.abs(scaled).max(axis=-1) < STOP_FRACTION
        return np.where(still, stop, nearest).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, ready for JSON or YAML; `from_dict` inverts it."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            "low": list(self.low),
            "high": list(self.high),
            "control_period": self.control_period,
            "classes": {name: list(vector) for name, vector in self.classes.items()},
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ActionSpace:
        """Rebuild the space that `to_dict` described."""
        return cls(**dict(d))


def _strings(key: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ProjectError(f"data.action.{key} is {values!r}; expected a list of words.")
    return tuple(str(value) for value in values)


def _numbers(key: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ProjectError(f"data.action.{key} is {values!r}; expected a list of numbers.") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ProjectError(f"data.action.{key} is {list(numbers)}; expected finite numbers.")
    return numbers
