"""Owns the grammar of `where=["data.window=8", "optimizer.lr<1e-3"]`: which runs a list shows, by their config.

In: conditions as typed, the flat config of a run (dotted key → value). Out: does the run meet them? A run that does not
have a key meets no condition on it, `!=` included: nothing is known of it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from src.core.config import did_you_mean
from src.core.errors import ProjectError

_FORM = re.compile(r"\s*([^\s=!<>]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_ORDER: dict[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_WORDS = {"null": None, "none": None, "true": True, "false": False}


@dataclass(frozen=True)
class Condition:
    """One comparison of a config leaf with a value."""

    key: str
    operator: str
    """= != < <= > >="""
    value: Any
    text: str
    """The value as typed."""

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Does this flat config meet it? `<` and its kin hold between numbers alone."""
        if self.key not in config:
            return False
        found = config[self.key]
        if self.operator in _ORDER:
            return _is_number(found) and _ORDER[self.operator](found, self.value)
        return _equal(found, self.value, self.text) == (self.operator == "=")


def parse(text: str) -> Condition:
    """`optimizer.lr<1e-3` as a condition.

    Raises:
        ProjectError: not of the form key, operator, value, or an order with something that is no number.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ProjectError(
            f"where: found {text!r}, expected a config key, one of = != < > <= >= and a value, as in data.window=8."
        )
    key, operator, raw = match.groups()
    value = _value(raw)
    operator = "=" if operator == "==" else operator
    if operator in _ORDER and not _is_number(value):
        raise ProjectError(
            f"where: found {text!r}, expected a number after {operator}; use = or != for words."
        )
    return Condition(key, operator, value, raw)


def refuse_unknown(conditions: Collection[Condition], known: Collection[str]) -> None:
    """Every key must be a leaf of some run's config.

    Raises:
        ProjectError: one that no run has.
    """
    for condition in conditions:
        if condition.key in known:
            continue
        below = sorted(key for key in known if key.startswith(f"{condition.key}."))
        advice = f"; it holds {', '.join(below[:6])}." if below else did_you_mean(condition.key, known)
        raise ProjectError(f"where: no run has the config key {condition.key}{advice or '; correct it.'}")


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if text[:1] in ("[", "{"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ProjectError(f"where: {text!r} cannot be read as a list; close its bracket.") from error
    return text


def _equal(found: Any, wanted: Any, text: str) -> bool:
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted  # True equals 1 in Python, but not in a config
    return bool(found == wanted) or (isinstance(found, str) and found == text)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
