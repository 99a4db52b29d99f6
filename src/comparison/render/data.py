"""Owns table.json: the whole table as plain data, for other programs.

In: a `Table`. Out: nested dicts and lists with the names of `Table`'s fields, and the version of the layout. A figure
that is unknown is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from src.comparison.table import Table

FORMAT = 1
"""Version of the layout; it rises when a field changes its name or meaning."""


def render(table: Table) -> dict[str, Any]:
    """The content of the file."""
    return {"format": FORMAT, **_plain(table)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
