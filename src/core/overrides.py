"""Owns what the command line may say: the resolvers conf/ uses, the root keys, and advice on a wrong override.

In: the conf folder, the entry point's name, command-line overrides. Out: names of run folders, and one sentence
where Hydra would print a page.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from src.core.config import check, did_you_mean
from src.core.errors import ProjectError
from src.core.help import group_options

_SILENT = (
    "name",
    "resume",
    "experiment",
    "sweep",
    "debug",
    "hydra",
    "logger",
)  # these do not tell two arms apart
_PLUGINS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers"}
"""Option of hydra/launcher that a package brings → the extra that installs it."""


# ---------------------------------------------------------------- names of run folders


def register_resolvers() -> None:
    """`${first:a,b}`: a, or b where a is null. `${arm:overrides}`: a folder name. Safe to call again."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("first", first, replace=True)
    OmegaConf.register_new_resolver("arm", arm_name, replace=True)
    OmegaConf.register_new_resolver("unless", lambda test, value: None if test else value, replace=True)


def first(preferred: Any, otherwise: Any) -> Any:
    """`preferred`, or `otherwise` where it is null."""
    return otherwise if preferred is None else preferred


def arm_name(overrides: Sequence[str]) -> str:
    """A folder name for one arm of a sweep from its overrides: `data.window=4,model.head=mlp`.

    Stable (sorted) and short: a name that would be longer than 120 characters ends in a hash of the whole.
    """
    parts = sorted(str(part).lstrip("+~") for part in overrides)
    parts = [part for part in parts if re.split(r"[.=/@]", part)[0] not in _SILENT]
    name = re.sub(r"[^\w.,=+-]+", ".", ",".join(parts)).strip(".") or "default"
    if len(name) <= 120:
        return name
    return f"{name[:100]}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"


# ---------------------------------------------------------------- what may stand at the root


def root_keys(conf: Path, name: str) -> list[str]:
    """Keys that conf/<name>.yaml itself declares: its settings and its groups."""
    import yaml

    source = yaml.safe_load((conf / f"{name}.yaml").read_text(encoding="utf-8"))
    keys = [str(key) for key in source if key not in ("defaults", "hydra")]
    for entry in source.get("defaults", []):
        if isinstance(entry, dict):
            group = str(next(iter(entry))).split()[-1]
            keys.append(group.split("@")[-1].split("/")[0])
    return keys


# ---------------------------------------------------------------- a job of a sweep, before it is launched


def try_out(config: Any, overrides: Sequence[str], loader: Any) -> None:
    """Compose and check the job that these overrides make, as it will be when it runs; nothing is written.

    Args:
        config: of the sweep, with its `hydra` node.
        overrides: of the job.
        loader: Hydra's config loader.

    Raises:
        ProjectError: an override that is none, a key that is not there, a value of another type.
    """
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    name = str(config.hydra.job.config_name)
    conf = Path(next(one.path for one in config.hydra.runtime.config_sources if one.provider == "main"))
    try:
        job = loader.load_sweep_config(config, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ProjectError(explain(error, conf, name, overrides)) from error
    with open_dict(job):
        del job["hydra"]
        if "run_folder" in job:
            job.run_folder = "RUN"  # only a job that runs has one
    check(job, root_keys(conf, name))


# ---------------------------------------------------------------- advice on a wrong override


def explain(error: Exception, conf: Path, name: str, argv: Sequence[str]) -> str:
    """One sentence about why the config could not be composed."""
    overrides = [part for part in argv if "=" in part and not part.startswith("-")]
    known = functools.cache(lambda: list(_known_keys(conf, name, overrides, error)))
    for override in overrides:
        advice = _advice(override, conf, known)
        if advice:
            return advice
    missing = re.search(r"Could not find '(hydra/[^']+)/([^'/]+)'", str(error))
    if missing is not None:
        return _no_plugin(missing[1], missing[2], str(error), conf)
    cause = error.__cause__
    unreadable = getattr(error, "override", None)
    if unreadable is not None:
        reason = str(cause or error).splitlines()[0]
        return f"{unreadable}: is no override of the form key=value ({reason}); put it in quotes?"
    lines = [line.strip() for line in f"{error}\n{cause or ''}".splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _no_plugin(group: str, choice: str, message: str, conf: Path) -> str:
    """A launcher, sweeper, sampler … that is not there: its package, or the nearest name."""
    if choice in _PLUGINS:
        extra = _PLUGINS[choice]
        return f"{group}={choice}: its package is not installed; run pip install -e '.[{extra}]'."
    listed = [line.split() for line in message.splitlines() if line.startswith("\t")]
    # Hydra lists what packages bring and what conf/ has, but not always both.
    options = sorted(
        {word for words in listed for word in words if "=" not in word} | {*group_options(conf, group)}
    )
    guess = did_you_mean(choice, options) or "."
    return f"{group}={choice}: there is no such option{guess} Options: {', '.join(options)}."


def _advice(override: str, conf: Path, known: Callable[[], Sequence[str]]) -> str | None:
    """The sentence about this override, if it is the wrong one; `known`: keys of the config, which takes composing."""
    key, _, value = override.lstrip("+~").partition("=")
    key = key.split("@")[0].strip()
    if key.startswith("hydra"):
        return None
    if (conf / key).is_dir():
        options = group_options(conf, key)
        for choice in re.split(r"[,\s\[\]]+", value.strip("\"' ")):
            if choice and choice != "null" and choice not in options:
                guess = did_you_mean(f"{key}={choice}", [f"{key}={option}" for option in options])
                return f"{key}: there is no option {choice!r}{guess or '.'} Options: {', '.join(options)}."
        return None
    if override.startswith("+") or key in known():
        return None
    groups = sorted(str(folder.relative_to(conf)) for folder in conf.rglob("*") if folder.is_dir())
    guess = did_you_mean(key, [*known(), *groups])
    return f"{key}: there is no such key{guess or '; --cfg job prints the keys there are.'}"


def _known_keys(conf: Path, name: str, overrides: Sequence[str], error: Exception) -> Iterator[str]:
    """Dotted keys of the config as composed with the group choices that are valid."""
    from omegaconf import DictConfig

    cfg = _composed_until(error)
    if cfg is None:
        cfg = _compose(conf, name, overrides)

    def walk(node: Any, prefix: str) -> Iterator[str]:
        if isinstance(node, DictConfig) and not node._is_none():
            for key in node:
                if not str(key).startswith("_") and (prefix or key != "hydra"):
                    yield f"{prefix}{key!s}"
                    yield from walk(node._get_node(key), f"{prefix}{key!s}.")

    yield from walk(cfg, "")


def _composed_until(error: BaseException | None) -> Any:
    """The config that Hydra had composed when it came to the override it refused; None where it came to none.

    Composing it once more would double the time to the answer.
    """
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_name == "_apply_overrides_to_config":
                return trace.tb_frame.f_locals.get("cfg")
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return None


def _compose(conf: Path, name: str, overrides: Sequence[str]) -> Any:
    """The config with the group choices among `overrides`, or else without any; an empty one if that fails too."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    choices = [part for part in overrides if _chooses(part, conf)]
    GlobalHydra.instance().clear()
    for attempt in (choices, []):
        try:
            with initialize_config_dir(str(conf), version_base="1.3"):
                cfg = compose(name, overrides=attempt)
            break
        except Exception:  # the base config itself is broken: Hydra's own message says where
            cfg = OmegaConf.create({})
    return cfg


def _chooses(override: str, conf: Path) -> bool:
    key, _, value = override.lstrip("+~").partition("=")
    group = key.split("@")[0]
    return (conf / group).is_dir() and value in group_options(conf, group)
