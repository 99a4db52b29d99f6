"""Owns the comparison of a config value with a type annotation: the targets' signatures are the schema.

In: values of an OmegaConf tree (scalar, list, mapping, or a *node*: a mapping with `_target_`), annotations.
Out: None when they fit, else a `Problem` in words a user can act on.
"""

import functools
import inspect
import pkgutil
import types
from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.core.errors import ProjectError


def join(key: str, name: Any) -> str:
    """The dotted key of `name` below `key`; below the root it is the name itself."""
    return f"{key}.{name!s}" if key else str(name)


def locate(path: str, key: str) -> Any:
    """The class or function named by the `_target_` of the node at `key`."""
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ProjectError(
            f"{join(key, '_target_')}: cannot import {path!r} ({first_line(error)})."
        ) from error


def signature_of(target: Any) -> tuple[dict[str, Any], bool]:
    """Parameters of a class or function as name → annotation (or Any), and whether it takes **kwargs."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}, True
    try:
        hints = get_type_hints(inspect.unwrap(function))
    except Exception:  # a library may annotate with names that exist for type checkers only
        hints = {}
    named = {
        name: hints.get(name, Any)
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    return named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


class Problem(NamedTuple):
    key: str
    found: str
    expected: str


def mismatch(value: Any, annotation: Any, key: str) -> Problem | None:
    """None when `value` (a scalar, list, mapping or node) fits `annotation`, else what is wrong."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return mismatch(value, arguments[0], key)
    if annotation in (Any, object, inspect.Parameter.empty) or isinstance(annotation, (TypeVar, str)):
        return None
    problem = Problem(key, show(value), describe(annotation))
    if origin in (Union, types.UnionType):
        fits = any(mismatch(value, option, key) is None for option in arguments)
        return None if fits else problem
    if annotation in (None, type(None)):
        return None if value is None else problem
    if origin is Literal:
        return None if value in arguments and type(value) in map(type, arguments) else problem
    if value is None:
        return problem
    if isinstance(value, DictConfig) and "_target_" in value:
        return None if _node_fits(value, annotation, origin) else problem
    if isinstance(value, ListConfig):
        return _list_mismatch(value, annotation, origin, arguments, key)
    if isinstance(value, DictConfig):
        return _mapping_mismatch(value, annotation, origin, arguments, key)
    return None if _scalar_fits(value, annotation) else problem


def _scalar_fits(value: Any, annotation: Any) -> bool:
    if annotation is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if annotation is float:
        return isinstance(value, (int, float))
    if annotation in (Path, PathLike) or get_origin(annotation) is PathLike:
        return isinstance(value, (str, Path))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return isinstance(value, annotation) or value in annotation.__members__
    return isinstance(annotation, type) and isinstance(value, annotation)


def _list_mismatch(
    value: ListConfig, annotation: Any, origin: Any, arguments: tuple[Any, ...], key: str
) -> Problem | None:
    kind = origin or annotation
    if not (isinstance(kind, type) and issubclass(list, kind)) and kind not in (tuple, set, frozenset, Set):
        return Problem(key, show(value), describe(annotation))
    fixed = kind is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    if fixed and len(arguments) != len(value):
        return Problem(key, show(value), describe(annotation))
    for index in range(len(value)):
        element = arguments[index] if fixed else (arguments[0] if arguments else Any)
        child = f"{key}[{index}]"
        problem = mismatch(value_at(value, index, child), element, child)
        if problem is not None:
            return problem
    return None


def _mapping_mismatch(
    value: DictConfig, annotation: Any, origin: Any, arguments: tuple[Any, ...], key: str
) -> Problem | None:
    kind = origin or annotation
    if not (isinstance(kind, type) and issubclass(dict, kind)):
        return Problem(key, show(value), describe(annotation))
    element = arguments[1] if len(arguments) == 2 else Any
    for name in value:
        problem = mismatch(value_at(value, name, join(key, name)), element, join(key, name))
        if problem is not None:
            return problem
    return None


def _node_fits(node: DictConfig, annotation: Any, origin: Any) -> bool:
    """Does what the node builds fit? Where a target does not say what it returns, the constructor will."""
    callables = (Callable, functools.partial)
    if node.get("_partial_", False):
        return annotation in callables or origin in callables
    if annotation in callables or origin in callables:
        return True  # an object with __call__
    produced = locate(node["_target_"], str(node["_target_"]))
    if not inspect.isclass(produced):
        produced = _return_type(produced)
    kind = origin or annotation
    if not inspect.isclass(produced) or not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return True
    return issubclass(produced, kind)


def _return_type(function: Any) -> Any:
    try:
        annotation = get_type_hints(function).get("return")
    except Exception:
        return None
    return get_origin(annotation) or annotation


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    dict: "a mapping",
}


def describe(annotation: Any) -> str:
    """An annotation in words: `int | None` → 'an integer or null'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, type(None)):
        return "null"
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} ({', '.join(describe(element) for element in arguments)})"
    if origin in (list, tuple, Sequence, set, frozenset, Set) or annotation in (list, tuple, Sequence):
        return f"a list of {describe(arguments[0])}" if arguments else "a list"
    if origin in (dict, Mapping):
        return f"a mapping to {describe(arguments[-1])}" if arguments else "a mapping"
    if origin is Callable or annotation is Callable:
        return "a node with `_partial_: true`"
    if annotation in _WORDS:
        return _WORDS[annotation]
    return f"a {annotation.__name__}" if isinstance(annotation, type) else str(annotation)


def show(value: Any) -> str:
    if isinstance(value, DictConfig) and "_target_" in value:
        return f"a node of {value['_target_']}" + (" (partial)" if value.get("_partial_", False) else "")
    if isinstance(value, (DictConfig, ListConfig)):
        return str(OmegaConf.to_container(value, resolve=False))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def value_at(cfg: DictConfig | ListConfig, name: Any, key: str) -> Any:
    """The resolved value, or a sentence about a missing value or a broken interpolation."""
    try:
        if OmegaConf.is_missing(cfg, name):
            raise ProjectError(f"{key}: a value is required here; give it as {key}=… on the command line.")
        return cfg[name]
    except OmegaConfBaseException as error:
        raise ProjectError(f"{key}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())
