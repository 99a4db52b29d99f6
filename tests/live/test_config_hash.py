"""A run's hash names what it was asked to do: every leaf counts, to the type, and only the listed ones do not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from src.core.leaves import leaves
from src.experiment.run_record import UNHASHED, config_hash

UNCOUNTED = {
    "run_folder": "where the run lies: the same run in another folder is the same run",
    "resume": "a run that goes on with its own config is the run that was begun",
}
"""Root keys that the hash leaves out, and why."""


@pytest.fixture(scope="module")
def config(shipped: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(shipped, resolve=True)  # type: ignore[assignment]
    return plain


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with `key` (dotted) set to `value`."""
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node[name]
    node[last] = value
    return changed


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy that lacks `key` (dotted)."""
    changed = put(config, key, None)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node[name]
    del node[last]
    return changed


def counted(config: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in leaves(config) if key not in UNCOUNTED]


def others(value: Any) -> list[Any]:
    """Values that a reader could take for `value` or that Python calls equal to it, and that ask for something else."""
    if isinstance(value, bool):
        return [not value, int(value), float(value), str(value), str(value).lower(), None]
    if isinstance(value, int):
        return [value + 1, float(value), str(value), bool(value), [value], None]
    if isinstance(value, float):
        near = value * (1 + 2**-52) if value else 5e-324  # the nearest other number
        return [near, str(value), [value], None, *([int(value)] if value == int(value) else [])]
    if isinstance(value, str):
        return [value + " ", value.upper() + "x", [value], None, ""]
    if isinstance(value, list):
        return [[*value, 0], [value], None, {}, *([value[::-1]] if value != value[::-1] else []), str(value)]
    return ["null", "None", 0, False, "", [], {}] if value is None else [None]


def test_changing_any_leaf_changes_the_hash(config: dict[str, Any]) -> None:
    """Exhaustive, type-only changes included: `limit_train_batches=1` is one batch and `1.0` all of them."""
    before, tried = config_hash(config), 0
    for key, value in counted(config):
        seen = {config_hash(put(config, key, other)): other for other in others(value)}
        assert before not in seen, f"{key}: {value!r} and {seen[before]!r} have one hash"
        assert len(seen) == len(others(value)), f"{key}: two of {others(value)} have one hash"
        tried += len(seen)
    assert tried > 900


def test_removing_any_key_changes_the_hash(config: dict[str, Any]) -> None:
    """Also a key that is null: a config without it is of another version of the project."""
    before = config_hash(config)
    nodes = {key.rpartition(".")[0] for key, _ in counted(config)} - {""}
    for key in [*(key for key, _ in counted(config)), *nodes]:
        assert config_hash(without(config, key)) != before, key


def test_an_unknown_key_changes_the_hash(config: dict[str, Any]) -> None:
    assert config_hash({**config, "another": None}) != config_hash(config)


def test_only_the_listed_keys_do_not_count(config: dict[str, Any]) -> None:
    assert set(UNHASHED) == UNCOUNTED.keys() <= config.keys()
    before = config_hash(config)
    for key in UNCOUNTED:
        assert config_hash(put(config, key, "elsewhere")) == before == config_hash(without(config, key))
    # Only at the root: a key of that name further down belongs to somebody else.
    assert config_hash(put(config, "data.run_folder", "elsewhere")) != before


def test_where_a_run_lies_reaches_no_other_leaf(compose: Callable[..., Any]) -> None:
    """Otherwise two runs of one arm would never have one hash."""
    hashes = {
        config_hash(OmegaConf.to_container(compose("train", f"run_folder={folder}"), resolve=True))
        for folder in ("outputs/here", "multirun/there/0")
    }
    assert len(hashes) == 1


# ---------------------------------------------------------------- any config

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_CONFIG = st.dictionaries(st.sampled_from([*UNCOUNTED, "name", "data", "seed"]), _PLAIN, max_size=4)


def _exact(node: Any) -> Any:
    """A form in which 1, 1.0 and True are three values and the order of keys none; written without the code's help."""
    if isinstance(node, dict):
        return ("map", tuple(sorted((key, _exact(value)) for key, value in node.items())))
    if isinstance(node, list):
        return ("list", tuple(_exact(item) for item in node))
    return (type(node).__name__, repr(node))


def _asked(config: dict[str, Any]) -> str:
    return repr(_exact({key: value for key, value in config.items() if key not in UNCOUNTED}))


@settings(max_examples=200, deadline=None)
@given(_CONFIG, _CONFIG)
def test_two_configs_have_one_hash_exactly_if_they_ask_for_the_same(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    assert (config_hash(a) == config_hash(b)) == (_asked(a) == _asked(b))


@settings(max_examples=100, deadline=None)
@given(_CONFIG, st.randoms())
def test_neither_the_order_of_keys_nor_a_file_in_between_matters(config: dict[str, Any], random: Any) -> None:
    names = list(config)
    random.shuffle(names)
    assert config_hash({name: config[name] for name in names}) == config_hash(config)
    assert config_hash(json.loads(json.dumps(config))) == config_hash(config)
