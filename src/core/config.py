"""Owns the way from configuration to objects: `check` proves a composed config, `build` makes its objects.

In: an OmegaConf tree, as Hydra composes it from conf/ and the command line. A mapping with `_target_` is a
*node*: every other key of it is an argument of that class or function.
Out: `check` gives nothing, or a ProjectError (key, found, expected, did you mean); `build` gives the object.

Nothing here knows a project class: the signatures and annotations of the targets are the schema.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.core.annotations import first_line, join, locate, mismatch, show, signature_of, value_at
from src.core.errors import ProjectError
from src.core.source import signature_from_source

_OURS = str(Path(__file__).resolve().parents[1])
RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def build(cfg: DictConfig | None, *args: Any, **kwargs: Any) -> Any:
    """Instantiate the node `cfg`; `args` and `kwargs` reach the target untouched and win over the config.

    The one place of the project that turns configuration into objects. Containers arrive as plain lists and
    dicts. A node with `_partial_: true` gives a partial. None gives None: a group may be switched off.
    """
    if cfg is None:
        return None
    key = _full_key(cfg)
    is_partial = bool(cfg.get("_partial_", False))
    try:
        # Runtime arguments bypass Hydra: it copies modules and takes dataclass instances for configuration.
        deferred = instantiate(cfg, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise _readable(error, key) from error
    except OmegaConfBaseException as error:
        raise ProjectError(f"{key}: {first_line(error)}") from error
    if is_partial:
        return functools.partial(_call, deferred, key, *args, **kwargs)
    _require_arguments(deferred.func, key, args, {**deferred.keywords, **kwargs})
    return _call(deferred, key, *args, **kwargs)


def _call(_deferred: Any, _key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call what a node describes; a refused value becomes a sentence that names the node."""
    try:
        return _deferred(*args, **kwargs)
    except ProjectError as error:
        raise _located(error, _key) from error
    except Exception as error:
        if _is_advice(error):
            raise ProjectError(f"{_key}: {first_line(error)}") from error
        raise


def _require_arguments(target: Any, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ProjectError(f"{key}: {_name(target)} {error}; give it under `{key}` in the config.") from error


def _readable(error: InstantiationException, key: str) -> Exception:
    """What lies under Hydra's wrapping: our sentence with its key, a library's advice, or the bug itself."""
    cause = error.__cause__
    nested = next(
        (line[10:].strip() for line in str(error).splitlines() if line.startswith("full_key:")), key
    )
    if isinstance(cause, ProjectError):
        return _located(cause, nested)
    if isinstance(cause, TypeError) and "required" in str(cause):
        return ProjectError(f"{nested}: {cause}; give it under `{nested}` in the config.")
    if cause is not None and (_is_advice(cause) or isinstance(cause, ImportError)):
        return ProjectError(f"{nested}: {first_line(cause)}")
    return cause if isinstance(cause, Exception) else ProjectError(f"{nested}: {first_line(error)}")


def _is_advice(error: BaseException) -> bool:
    """A library refusing a value is advice to the user; raised in a file of ours it would be a bug."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return isinstance(error, ValueError) and (
        trace is None or not trace.tb_frame.f_code.co_filename.startswith(_OURS)
    )


def _located(error: ProjectError, key: str) -> ProjectError:
    return error if key in str(error) else ProjectError(f"{key}: {error}")


def check(cfg: DictConfig, settings: Collection[str] | None = None) -> None:
    """Prove every node of `cfg`: the target imports, it takes every key, every value fits the annotation.

    `settings` are the root keys that the entry point reads itself (seed, name …) and its groups. When given,
    any other root key is refused, so that a key added with `+` cannot be silently ignored.

    Two looks at the whole of it: at the source of the targets first, which imports nothing and finds most mistakes in
    a fraction of a second, then at the imported targets, which misses none.
    """
    glance(cfg, settings)
    _check_all(cfg, settings, _imported)


def glance(cfg: DictConfig, settings: Collection[str] | None = None) -> None:
    """The first of the two looks of `check`, alone."""
    _check_all(cfg, settings, _read)


def _imported(path: str, key: str) -> tuple[dict[str, Any], bool]:
    return signature_of(locate(path, key))


def _read(path: str, key: str) -> tuple[dict[str, Any], bool]:
    """By the source; what it cannot tell takes everything."""
    return signature_from_source(str(path)) or ({}, True)


_Look = Callable[[str, str], tuple[dict[str, Any], bool]]
"""Path of a target, key of its node -> its parameters, and whether it takes **kwargs."""


def _check_all(cfg: DictConfig, settings: Collection[str] | None, look: _Look) -> None:
    if "_target_" in cfg:
        _check_node(cfg, _full_key(cfg), look)
        return
    for name in cfg:
        key = str(name)
        if settings is not None and key not in settings:
            known = [*settings, *(f"{group}.{sub}" for group, sub in _second_level(cfg))]
            raise ProjectError(f"{key}: nothing reads this key{did_you_mean(key, known)}; remove it.")
        value = value_at(cfg, name, key)
        if isinstance(value, DictConfig):
            _check_group(value, key, look)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a sentence: ', did you mean data.window?', or nothing when no option is close."""
    known = [str(option) for option in options]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:  # the right name under the wrong parent: window → data.window
        leaf = word.rsplit(".", 1)[-1]
        by_leaf = {option.rsplit(".", 1)[-1]: option for option in reversed(known)}
        close = [by_leaf[leaf] for leaf in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)]
    return f", did you mean {close[0]}?" if close and close[0] != word else ""


def _check_group(cfg: DictConfig, key: str, look: _Look) -> None:
    """A group is one node or a plain mapping of nodes (callbacks, logger); a plain value reaches nobody."""
    if "_target_" in cfg:
        _check_node(cfg, key, look)
        return
    for name in cfg:
        child = join(key, name)
        value = value_at(cfg, name, child)
        if isinstance(value, DictConfig):
            _check_group(value, child, look)
        elif value is not None:
            raise ProjectError(f"{child}: found {show(value)}, but nothing reads this key; remove it.")


def _check_node(cfg: DictConfig, key: str, look: _Look) -> None:
    """Check the node and all nodes below it."""
    path = value_at(cfg, "_target_", join(key, "_target_"))
    parameters, takes_more = look(path, key)
    for name in cfg:
        if name in RESERVED:
            continue
        child = join(key, name)
        if name not in parameters:
            if takes_more:
                _check_value(value_at(cfg, name, child), Any, child, look)
                continue
            siblings = [join(key, known) for known in parameters]
            raise ProjectError(
                f"{child}: {path} has no such argument{did_you_mean(child, siblings) or '.'}"
                f" It takes {', '.join(parameters) or 'none'}."
            )
        _check_value(value_at(cfg, name, child), parameters[str(name)], child, look)


def _check_value(value: Any, annotation: Any, key: str, look: _Look) -> None:
    nodes = list(_nodes_in(value, key))
    for node, node_key in nodes:
        _check_node(node, node_key, look)
    if nodes and look is _read:
        return  # what a node builds must be imported to be known
    problem = mismatch(value, annotation, key)
    if problem is not None:
        raise ProjectError(f"{problem.key}: found {problem.found}, expected {problem.expected}.")


def _nodes_in(value: Any, key: str) -> Iterator[tuple[DictConfig, str]]:
    if isinstance(value, DictConfig) and "_target_" in value:
        yield value, key
    elif isinstance(value, DictConfig):
        for name in value:
            yield from _nodes_in(value_at(value, name, join(key, name)), join(key, name))
    elif isinstance(value, ListConfig):
        for index in range(len(value)):
            yield from _nodes_in(value_at(value, index, f"{key}[{index}]"), f"{key}[{index}]")


def _second_level(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    for name in cfg:
        value = (
            None
            if OmegaConf.is_missing(cfg, name) or OmegaConf.is_interpolation(cfg, str(name))
            else cfg[name]
        )
        if isinstance(value, DictConfig):
            yield from ((str(name), str(sub)) for sub in value if sub not in RESERVED)


def _full_key(cfg: Any) -> str:
    return str(cfg._get_full_key(None)) if isinstance(cfg, (DictConfig, ListConfig)) else "config"


def _name(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
