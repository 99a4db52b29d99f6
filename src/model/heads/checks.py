"""Refusals of the heads' options: each a sentence with the full key, what was found and what is expected.

In: an option's name below `model.head` and its value. Out: nothing, or a ProjectError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from src.core.errors import ProjectError


def refuse(option: str, found: object, expected: str, advice: str = "correct it") -> ProjectError:
    """The sentence about `model.head.<option>`, to be raised."""
    return ProjectError(f"model.head.{option}: found {found}, expected {expected}; {advice}.")


def at_least(least: int, **options: int) -> None:
    """Each option is a whole number of `least` or more.

    Raises:
        ProjectError: the first that is not.
    """
    for option, value in options.items():
        if value < least:
            raise refuse(option, value, f"at least {least}")


def fraction(**options: float) -> None:
    """Each option lies in [0, 1): at 1 a dropout or a smoothing leaves nothing to learn from.

    Raises:
        ProjectError: the first that does not.
    """
    for option, value in options.items():
        if not 0 <= value < 1:
            raise refuse(option, value, "0 or more and below 1")


def positive(**options: float) -> None:
    """Each option is a finite number above zero.

    Raises:
        ProjectError: the first that is not.
    """
    for option, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise refuse(option, value, "a finite number above 0")


def widths(**options: Sequence[int]) -> None:
    """Each option lists layer widths of 1 or more; an empty list means no such layer.

    Raises:
        ProjectError: the first that does not.
    """
    for option, values in options.items():
        for index, value in enumerate(values):
            if value < 1:
                raise refuse(f"{option}[{index}]", value, "a width of at least 1")


def lstm(layers: int, hidden_size: int, mlp: Sequence[int], dropout: float) -> None:
    """The options of an LSTM with tanh layers behind it.

    Raises:
        ProjectError: a size below 1, a dropout outside [0, 1), or a dropout that would act nowhere.
    """
    at_least(1, layers=layers, hidden_size=hidden_size)
    widths(mlp=mlp)
    fraction(dropout=dropout)
    if dropout > 0 and layers == 1:
        raise refuse(
            "dropout", f"{dropout} with one LSTM layer", "0, because it acts between LSTM layers",
            "set it to 0 or model.head.layers to 2 or more",
        )  # fmt: skip
