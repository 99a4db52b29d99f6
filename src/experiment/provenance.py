"""Owns the answer to "what exactly ran, and where": code version, packages, machine, command.

In: the repository folder and the running process. Out: plain dictionaries for run.json and checkpoints.
Nothing here fails when something is absent: outside a git repository the code version is null, not an error.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_DIFF_LIMIT = 5_000_000  # bytes; a larger diff is data that slipped into the tree, its hash is enough
MAIN_PACKAGES = ("torch", "lightning", "transformers", "peft", "numpy", "hydra-core", "h5py", "mujoco")


def code_version(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Commit, branch and uncommitted changes of the repository at `folder`, and the text of the changes.

    New files count as changes. (None, "") outside a repository or without git.
    """
    sha = _git(folder, "rev-parse", "HEAD")
    if sha is None:
        return None, ""
    diff = _uncommitted(folder)
    state = {
        "sha": sha.strip(),
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "dirty": bool(diff),
        "diff_sha256": hashlib.sha256(diff.encode("utf-8", "replace")).hexdigest() if diff else None,
    }
    return state, diff if len(diff) <= _DIFF_LIMIT else ""


def _uncommitted(folder: Path) -> str:
    """The diff to HEAD with new files in full, made with a copy of the index so that the real one stays as it is."""
    index = _git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "index"
        if index is not None and Path(index.strip()).exists():
            shutil.copyfile(index.strip(), copy)
        environment = {**os.environ, "GIT_INDEX_FILE": str(copy)}
        _git(folder, "add", "--intent-to-add", "--all", env=environment)
        return _git(folder, "diff", "HEAD", env=environment) or ""


def _git(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, env=env, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Every installed distribution and its version; read anew only where a folder of sys.path changed since."""
    return dict(_packages(tuple((place, _changed(place)) for place in sys.path)))


def _changed(place: str) -> int | None:
    """Modification time (ns) of a folder, which changes with each (un)installation; None where there is none."""
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return None


@functools.lru_cache(maxsize=1)
def _packages(places: tuple[tuple[str, int | None], ...]) -> dict[str, str]:
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def main_packages() -> dict[str, str]:
    """The few versions that decide what a checkpoint means."""
    versions = {}
    for name in MAIN_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Host, operating system, processor, memory in GB and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def command() -> str:
    """The command line as typed, ready to paste; `python -m src.train …` also where Python put a path in its place."""
    program = sys.argv[0]
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or not main.name.startswith("src."):
        return _retold() or " ".join([f"python {program}", *sys.argv[1:]])
    return shlex.join(["python", "-m", main.name, *sys.argv[1:]])


def _retold() -> str | None:
    """The command of this run alone, for a process that a launcher started under a command line of its own."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    return shlex.join(["python", "-m", f"src.{hydra.job.config_name}", *hydra.overrides.task])


def reset_peak_memory() -> None:
    """Begin the measurement of peak memory anew: a sweep runs several runs in one process, one after the other.

    Where the system cannot do so (not Linux), the figures of the second run and later are those of the whole process.
    """
    import torch

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, see proc(5)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.cuda.reset_peak_memory_stats(index)


def peak_memory() -> dict[str, float]:
    """Highest memory so far in GB: of this process, of its largest child, and of every GPU together."""
    import torch

    unit = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss: bytes on macOS, kilobytes elsewhere
    peak = {
        "process_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 3),
        "child_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, 3),
    }
    if torch.cuda.is_available():
        total = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
        peak["gpu_gb"] = round(total / 1e9, 3)
    return peak


def seconds_since_process_start() -> float:
    """Wall-clock seconds since this process began, imports included (0.0 where the system does not tell)."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


_first_run_began = False


def seconds_before_first_run() -> float:
    """Age of this process when its first run begins; 0.0 for every later one, which paid for no imports."""
    global _first_run_began
    age = 0.0 if _first_run_began else seconds_since_process_start()
    _first_run_began = True
    return age


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
