"""Owns reading hparams.yaml, the settings that Lightning's loggers leave beside an old run's curves.

In: the file, which may name Python objects. Out: plain values as JSON holds them; nothing is imported or executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from src.core.errors import ProjectError


class _Plain(yaml.SafeLoader):
    """Lightning's hparams.yaml may name Python objects; they become lists or words, and nothing is executed."""

    foreign: list[str]


def _python(loader: _Plain, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode) and suffix in ("tuple", "list", "set"):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.ScalarNode) and suffix in ("str", "unicode", "int", "float", "bool"):
        return yaml.safe_load(node.value) if suffix in ("int", "float", "bool") else node.value
    loader.foreign.append(suffix)
    return f"!!python/{suffix}"


_Plain.add_multi_constructor("tag:yaml.org,2002:python/", _python)


def read_hparams(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The config as found, and the Python objects in it that are kept as words.

    Raises:
        ProjectError: the file is no YAML mapping.
    """
    if not path.exists():
        return {}, []
    loader = _Plain(path.read_text(encoding="utf-8", errors="replace"))
    loader.foreign = []
    try:
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ProjectError(f"{path}: cannot be read as YAML ({reason}); repair or remove it.") from error
    finally:
        loader.dispose()
    if content is not None and not isinstance(content, Mapping):
        raise ProjectError(
            f"{path}: found {type(content).__name__}, expected a mapping of settings; repair or remove it."
        )
    plain: dict[str, Any] = _as_json(content or {})
    return plain, loader.foreign


def _as_json(node: Any) -> Any:
    """As run.json will give it back, so that a record can be compared with one that was read."""
    if isinstance(node, Mapping):
        return {str(key): _as_json(value) for key, value in node.items()}
    if isinstance(node, (list, tuple, set)):
        return [_as_json(value) for value in node]
    if isinstance(node, float):
        return json_number(node)
    return node if node is None or isinstance(node, (bool, int, str)) else str(node)


def json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if abs(value) < float("inf") else None
