"""Owns the question whether trained weights mean the same under another configuration.

In: the config and action space in a checkpoint, and those of the policy that is to take the weights over.
Out: the list of differences, empty where the weights may be loaded.

The rule: everything below `model` counts, with what the data room decides about inputs and outputs (`COUNTS`), and
an option is left out only if it is named in `FREE`: it acts while training alone, or on speed and memory alone, or
something stricter checks it. So a new option counts until somebody has thought about it. An option that a config
does not mention has the default of its constructor, so that an older checkpoint is not refused for its age.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from src.core.annotations import join, locate
from src.core.config import RESERVED

COUNTS = ("model", "data.window", "data.horizon", "data.image_size", "data.normalizer")
FREE = {
    "checkpoint": "the base model is compared by its fingerprint, wherever it lies",
    "query_init": "only where the queries start; the checkpoint brings the trained ones",
    "dropout": "acts in training only",
    "draws": "acts in training only",
    "huber_delta": "shapes the loss only",
    "label_smoothing": "shapes the loss only",
    "magnitude_weight": "shapes the loss only",
    "gradient_checkpointing": "memory for time, same values",
    "compile": "speed, same values",
}
"""Argument of a class below `model` -> why it does not change what trained weights mean.

`class_weights` is not here although it shapes the loss alone: the weights are a buffer that comes along with the
checkpoint, so the new value would be written in the config and never act.
"""

_ABSENT = "absent"


def differences(
    was: Mapping[str, Any], now: Mapping[str, Any], space_was: Mapping[str, Any], space_now: Mapping[str, Any]
) -> list[str]:
    """`model.head.hidden_size: checkpoint 192, this configuration 256`, one entry for each difference.

    Args:
        was, now: resolved configs, of the checkpoint and of the policy.
        space_was, space_now: their action spaces, from `ActionSpace.to_dict`.
    """
    found = [line for key in COUNTS for line in _compare(_at(was, key), _at(now, key), key)]
    return [*found, *_compare(dict(space_was), dict(space_now), "data.action")]


def _compare(was: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        targets = was.get("_target_"), now.get("_target_")
        if targets[0] != targets[1]:  # another class: what is below belongs to it and says no more
            yield _line(key, *targets)
            return
        was, now = _complete(was, key), _complete(now, key)
        for name in sorted((was.keys() | now.keys()) - RESERVED):
            if name not in FREE or "_target_" not in was:
                yield from _compare(was.get(name, _ABSENT), now.get(name, _ABSENT), join(key, name))
    elif was != now:
        yield _line(key, was, now)


def _complete(node: dict[str, Any], key: str) -> dict[str, Any]:
    """A node with its class's defaults for what it leaves out; a plain mapping as it is."""
    if "_target_" not in node:
        return node
    parameters = inspect.signature(locate(node["_target_"], key)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {**plain, **node}


def _line(key: str, was: Any, now: Any) -> str:
    return f"{key}: checkpoint {_show(was)}, this configuration {_show(now)}"


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


def _at(cfg: Mapping[str, Any], key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part, _ABSENT) if isinstance(node, Mapping) else _ABSENT
    return node
