"""Owns how a nested config becomes a flat one: dotted keys, one for each leaf.

In: nested mappings of plain values. Out: (key, value) pairs, for comparing, listing and showing configs.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value of every leaf below `node`; lists and empty mappings are leaves."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
