"""Owns the command line of every entry point: `@entry_point("train")` makes a function a Hydra program.

In: sys.argv and conf/<name>.yaml with its groups. Out: the function is called with a composed and checked config.
Wrong input ends in one sentence on stderr and exit code 2, a bug in a traceback of our own frames and code 1
(HYDRA_FULL_ERROR=1 shows everything), an interruption in 130 or 143. `--help` imports nothing heavy.
"""

import errno
import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from src.core.errors import ProjectError

CONF = Path(__file__).resolve().parents[2] / "conf"
_STORAGE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
    errno.ENAMETOOLONG,
}  # fmt: skip


def entry_point(
    config_name: str, first: Callable[[Any], None] | None = None
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make `function(cfg)` the program of conf/<config_name>.yaml.

    `first` is given the config before anything heavy is imported, and raises a ProjectError for what it can refuse.
    """

    def decorate(function: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def run() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                from src.core.help import help_text

                print(help_text(CONF, config_name))
                return
            sys.exit(_run(function, config_name, first))

        return run

    return decorate


def _run(function: Callable[[Any], Any], config_name: str, first: Callable[[Any], None] | None = None) -> int:
    """Run the program; return its exit code."""
    gc.disable()
    try:
        return _started(function, config_name, first)
    finally:
        gc.enable()


def _settle() -> None:
    """Everything is imported: from here on Python looks for circles of objects again, and never at what is there now.

    Importing makes a million objects that stay to the end. Looking through them meanwhile, 1,100 times, took 1.3 s of
    the 10 s of CPU that the imports of a training take, and each look at all of them later 0.2 s (measured).
    """
    if (
        gc.get_freeze_count() == 0
    ):  # the first job of a process; what a later one finds may be an earlier one's
        gc.freeze()
    gc.enable()


def _started(function: Callable[[Any], Any], config_name: str, first: Callable[[Any], None] | None) -> int:
    try:
        import hydra
    except ImportError as error:
        return _say(
            f"{error} in {sys.executable}; run `make setup`, then use .venv/bin/python (see `make doctor`)."
        )
    from src.core.overrides import register_resolvers

    show_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands every error to us instead of printing its own text
    register_resolvers()
    task = _Task(function, config_name, show_all, first)
    try:
        if _is_plain(sys.argv[1:]):
            _run_once(task, config_name, sys.argv[1:])
        else:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        told = any(error is known for known in task.told)
        return task.failed if told else _report(error, config_name, show_all)
    return 0


def _is_plain(words: Sequence[str]) -> bool:
    """Overrides alone, none of them about what Hydra itself does before a run: one run, whose config says the rest."""
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    return not any(word.startswith("-") for word in words) and not {"hydra.mode", "hydra.searchpath"} & set(
        keys
    )


def _run_once(task: "_Task", config_name: str, overrides: Sequence[str]) -> None:
    """What `hydra.main` does for one run, without the composing that only looks for `hydra.mode`.

    Composing takes most of the time until a typo is answered, and `hydra.main` (1.3) always does it twice.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), job_name=config_name, version_base="1.3"):
        program = GlobalHydra.instance().hydra
        assert program is not None
        try:
            program.run(config_name, task, overrides=list(overrides))
        except AssertionError as error:
            if task.told:
                raise
            raise ProjectError(  # Hydra's own check says nothing
                "hydra.mode: found MULTIRUN in a config file, expected none; remove it and say --multirun."
            ) from error


class _Task:
    """The function as Hydra calls it, once per job: config checked first, a failure reported when it happens."""

    __module__ = "__main__"

    def __init__(
        self,
        function: Callable[[Any], Any],
        config_name: str,
        show_all: bool,
        first: Callable[[Any], None] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.first = first
        self.function, self.config_name, self.show_all = function, config_name, show_all
        self.failed = 0  # exit code of the first job that failed
        self.told: list[Exception] = []  # what Hydra raises again at the end

    def __call__(self, cfg: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from src.core.config import check, glance
        from src.core.overrides import root_keys

        try:
            known = root_keys(CONF, self.config_name)
            if self.first is not None:
                glance(cfg, known)
                self.first(cfg)
            check(cfg, known)
            _settle()
            return self.function(cfg)
        except Exception as error:
            in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
            arm = f"arm {HydraConfig.get().job.override_dirname}: " if in_sweep else ""
            code = _report(error, None, self.show_all, arm)
            self.failed = self.failed or code
            self.told.append(error)
            if in_sweep:
                raise  # Hydra goes on with the other arms and raises this again at the end
            raise SystemExit(self.failed) from error  # an exception would make Hydra print a line of its own


def _report(error: Exception, config_name: str | None, show_all: bool, prefix: str = "") -> int:
    """Say what is wrong; return the exit code. `config_name` is given while the config is being composed."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from src.core.overrides import explain

    if show_all:
        return _show_bug(error, show_all)
    if isinstance(error, ProjectError):
        return _say(f"{prefix}{error}")
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the interpreter flushes it at the end, and must not fail there
        return 141
    if isinstance(error, OSError) and error.errno in _STORAGE:
        reason = f"cannot write {error.filename or 'the output folder'} ({error.strerror})"
        return _say(f"{prefix}{reason}; free space, or choose another place with hydra.run.dir=<folder>.")
    if config_name is not None and isinstance(error, (HydraException, OmegaConfBaseException)):
        return _say(explain(error, CONF, config_name, sys.argv[1:]))
    if isinstance(error, ValueError) and str(error).startswith("Only one of --"):
        return _say(f"{error}; leave out all of them but one (-m is --multirun).")
    if isinstance(error, RuntimeError) and 'detect "srun"' in str(error):
        return _say(
            "hydra/launcher: found a SLURM launcher, but no srun here; run it on a login node, or use "
            "hydra/launcher=submitit_local."
        )
    return _show_bug(error, show_all)


def _say(sentence: str) -> int:
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    return 2


def _show_bug(error: BaseException, show_all: bool) -> int:
    """A traceback that begins at the project's frames, unless all of it was asked for."""
    trace = error.__traceback__
    if not show_all:
        trace = _own_frames(trace) or trace
    traceback.print_exception(type(error), error, trace, chain=show_all)
    if not show_all:
        print("This is a bug of the program. HYDRA_FULL_ERROR=1 shows every frame.", file=sys.stderr)
    return 1


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first project frame below this file."""
    root = str(CONF.parent / "src")
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(root) and name != __file__:
            return trace
        trace = trace.tb_next
    return None
