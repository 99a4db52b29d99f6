"""Is this computer ready to train? A table of what is there, and a fix beside everything that is not.

    python -m src.doctor           table, exit code 1 if something needed is missing
    python -m src.doctor --json    the same for programs

In: this Python, constraints.txt, the disk, the network (2 s at most). Out: one line per check. Only the standard
library is imported, because this program must run where nothing is installed; the packages are imported in a process
of their own, so that one that crashes is a red line too.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OK, WARNING, BAD = "ok", "warning", "bad"
PYTHON = (3, 10), (3, 14)  # from, below: as requires-python in pyproject.toml
NEEDED = {
    "torch": "torch",
    "lightning": "lightning.pytorch",
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "transformers": "transformers",
    "peft": "peft",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "h5py": "h5py",
    "pillow": "PIL",
    "av": "av",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "wandb": "wandb",
    "optuna": "optuna",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
}
"""Distribution → module that a training, an evaluation or the simulator imports."""
KOSMOS = "microsoft/kosmos-2-patch14-224"
DISK_GB = 5.0


@dataclass
class Finding:
    """One line of the table."""

    check: str
    state: str
    found: str
    fix: str = ""


def main() -> int:
    """Print the findings; 1 if any is bad, else 0."""
    parser = argparse.ArgumentParser(prog="python -m src.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--data", type=Path, default=None, metavar="FOLDER", help="also look at this data folder"
    )
    options = parser.parse_args()
    findings = list(examine(options.data))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        show(findings)
    return int(any(finding.state == BAD for finding in findings))


def examine(data: Path | None = None) -> Iterator[Finding]:
    """All checks, cheap ones first."""
    yield check_python()
    yield from check_packages()
    yield from check_imports()
    yield from check_torch()
    yield check_disk()
    yield check_assets()
    yield check_kosmos()
    yield check_wandb()
    yield check_hub()
    if data is not None:
        yield check_data(data)


# ---------------------------------------------------------------- Python and packages


def check_python() -> Finding:
    low, high = PYTHON
    found = ".".join(map(str, sys.version_info[:3])) + f" ({sys.executable})"
    if low <= sys.version_info[:2] < high:
        in_venv = sys.prefix != sys.base_prefix
        fix = "" if in_venv else "not a virtual environment; make setup makes .venv"
        return Finding("python", OK if in_venv else WARNING, found, fix)
    return Finding(
        "python", BAD, found, f"needs {low[0]}.{low[1]} to below {high[0]}.{high[1]}; make setup PYTHON=…"
    )


def expected_versions() -> dict[str, str]:
    """Distribution → version of constraints.txt, in lower case."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line)
        if match:
            pins[_canonical(match[1])] = match[2]
    return pins


def check_packages() -> Iterator[Finding]:
    """Installed version against the tested one, for every needed distribution."""
    pins = expected_versions()
    for name in NEEDED:
        expected = pins.get(_canonical(name), "any")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, BAD, "not installed", f"make setup (tested with {expected})")
            continue
        if name == "lightning" and found in ("2.6.2", "2.6.3"):
            yield Finding(
                name, BAD, found, "a malicious upload: uninstall it and change your passwords; make setup"
            )
        elif expected != "any" and found.split("+")[0] != expected:
            yield Finding(name, WARNING, found, f"tested with {expected}; make setup installs that")
        else:
            yield Finding(name, OK, found)


def check_imports() -> Iterator[Finding]:
    """Import what is installed, each in the same child process; the child says how far it came."""
    modules = [module for name, module in NEEDED.items() if _installed(name)]
    script = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name); print(json.dumps([name, None]), flush=True)\n"
        "    except BaseException as e:\n"
        "        print(json.dumps([name, f'{type(e).__name__}: {e}'.splitlines()[0]]), flush=True)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, *modules],
            capture_output=True, text=True, timeout=180, check=False, cwd=ROOT,
        )  # fmt: skip
        lines, code = done.stdout.splitlines(), done.returncode
    except subprocess.TimeoutExpired:
        yield Finding("imports", WARNING, "not finished after 180 s", "the machine is busy: run this again")
        return
    results = dict(json.loads(line) for line in lines if line.startswith("["))
    for module in modules:
        if module not in results:
            yield Finding(
                f"import {module}", BAD, f"the process ended with code {code}", "reinstall it: make setup"
            )
            return
        if results[module] is not None:
            yield Finding(
                f"import {module}", BAD, results[module], "reinstall it: rm -rf .venv && make setup"
            )
    if modules and not any(results.get(module) for module in modules):
        yield Finding("imports", OK, f"{len(modules)} packages import")


def check_torch() -> Iterator[Finding]:
    """GPU, driver and bfloat16."""
    if not _installed("torch"):
        return
    script = (
        "import json, torch\n"
        "g = torch.cuda.is_available()\n"
        "print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, 'gpu': g,\n"
        "  'names': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if g else [],\n"
        "  'gb': [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(torch.cuda.device_count())]\n"
        "    if g else [], 'bf16': torch.cuda.is_bf16_supported() if g else None, 'threads': torch.get_num_threads()}))"
    )
    driver = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    text = _run(sys.executable, "-W", "ignore", "-c", script)
    try:
        facts = json.loads((text or "").splitlines()[-1])
    except (IndexError, ValueError):
        return  # the import check has said why
    if facts["gpu"]:
        names = ", ".join(f"{name} {gb:.0f} GB" for name, gb in zip(facts["names"], facts["gb"], strict=True))
        yield Finding("gpu", OK, f"{names}; driver {driver or 'unknown'}, CUDA {facts['cuda']}")
        bf16 = facts["bf16"]
        fix = "" if bf16 else "use trainer.precision=16-mixed"
        yield Finding("bf16", OK if bf16 else WARNING, "yes" if bf16 else "not on this GPU", fix)
    elif driver:
        fix = "this torch has no CUDA; remove find-links/index options of pip and run make setup"
        yield Finding("gpu", WARNING, f"driver {driver}, but torch {facts['version']} sees no GPU", fix)
    else:
        fix = "the tiny model trains on a CPU; Kosmos-2 at full size needs a GPU with 24 GB"
        yield Finding("gpu", WARNING, f"none; CPU with {facts['threads']} threads", fix)


# ---------------------------------------------------------------- disk, models, data


def check_disk() -> Finding:
    free = shutil.disk_usage(ROOT).free / 1e9
    if not os.access(ROOT, os.W_OK):
        return Finding(
            "disk", BAD, f"{ROOT} cannot be written", "set hydra.run.dir and data.root to other folders"
        )
    fix = (
        ""
        if free >= DISK_GB
        else f"data and runs need about {DISK_GB:.0f} GB; delete old folders in outputs/"
    )
    return Finding("disk", OK if free >= DISK_GB else WARNING, f"{free:.1f} GB free", fix)


def check_assets() -> Finding:
    """The tiny Kosmos-2 that ships with the repository."""
    folder = ROOT / "assets" / "kosmos2_tiny"
    weights = folder / "model.safetensors"
    if not weights.exists():
        return Finding(
            "tiny Kosmos-2",
            BAD,
            "not in assets/kosmos2_tiny",
            "git checkout assets, or python -m src.pretrain",
        )
    if weights.stat().st_size < 1000:
        return Finding("tiny Kosmos-2", BAD, "a Git LFS pointer, not weights", "git lfs pull")
    return Finding("tiny Kosmos-2", OK, f"assets/kosmos2_tiny, {weights.stat().st_size / 1e6:.1f} MB")


def check_kosmos() -> Finding:
    """Kosmos-2 at full size in the hub's cache."""
    default = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    cache = Path(os.environ.get("HF_HUB_CACHE", default)) / f"models--{KOSMOS.replace('/', '--')}"
    found = [*cache.glob("snapshots/*/model*.safetensors"), *cache.glob("snapshots/*/pytorch_model*.bin")]
    if found:
        return Finding("Kosmos-2", OK, str(found[0].parent))
    return Finding(
        "Kosmos-2", WARNING, "not in the cache", f"only for model=kosmos_…: hf download {KOSMOS} (6.7 GB)"
    )


def check_data(folder: Path) -> Finding:
    # Not `find_episodes` of the data room: the doctor runs where nothing is installed.
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".h5", ".hdf5"))
    foreign = [path for path in files if not _starts_as_hdf5(path)]
    if foreign:
        fix = "fetch the files again (git lfs pull for pointers), or move them away"
        return Finding(
            "data", BAD, f"{foreign[0]}: no HDF5 inside; {len(foreign)} of {len(files)} files", fix
        )
    if files:
        return Finding("data", OK, f"{folder}: {len(files)} files that begin as HDF5")
    found = "no HDF5 files in it" if folder.is_dir() else "no such folder"
    return Finding("data", BAD, f"{folder}: {found}", "give the folder that holds the episodes (*.h5)")


def _starts_as_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


# ---------------------------------------------------------------- network


def check_wandb() -> Finding:
    """Logged in to W&B? Read from the environment and netrc; never asks, never connects."""
    host = (
        re.sub(r"^https?://", "", os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
        .split("/")[0]
        .split(":")[0]
    )
    if os.environ.get("WANDB_API_KEY"):
        return Finding("W&B login", OK, "key in WANDB_API_KEY")
    import netrc

    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if path and netrc.netrc(str(path)).authenticators(host):
                return Finding("W&B login", OK, f"logged in ({path})")
        except (OSError, netrc.NetrcParseError):
            continue
    return Finding(
        "W&B login", WARNING, "not logged in", "runs stay offline, which is fine; wandb login changes that"
    )


def check_hub() -> Finding:
    """Does the model hub answer within 2 s?"""
    host = (
        re.sub(r"^https?://", "", os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
        .split("/")[0]
        .split(":")[0]
    )
    answers: list[str] = []

    def ask() -> None:
        try:
            socket.create_connection((host, 443), timeout=2).close()
            answers.append("")
        except OSError as error:
            answers.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)  # looking up the name has no time limit of its own
    thread.start()
    thread.join(2)
    if answers == [""]:
        return Finding("hub", OK, f"{host} answers")
    reason = answers[0] if answers else "no answer within 2 s"
    return Finding(
        "hub", WARNING, f"{host}: {reason}", "needed once, to download Kosmos-2; the tiny model needs none"
    )


# ---------------------------------------------------------------- output


def show(findings: list[Finding]) -> None:
    """A table, with rich where it is there."""
    marks = {OK: "✓", WARNING: "!", BAD: "✗"}
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            print(f"{marks[finding.state]} {finding.check:<{width}}  {finding.found}")
            if finding.fix:
                print(f"  {'':<{width}}  → {finding.fix}")
    else:
        colours = {OK: "green", WARNING: "yellow", BAD: "bold red"}
        table = Table("", "check", "found", "fix", box=box.SIMPLE_HEAD, pad_edge=False)
        for f in findings:
            table.add_row(f"[{colours[f.state]}]{marks[f.state]}[/]", f.check, f.found, f.fix)
        Console(highlight=False).print(table)
    bad = sum(finding.state == BAD for finding in findings)
    warnings = sum(finding.state == WARNING for finding in findings)
    print(f"{bad} to fix, {warnings} to know about" if bad or warnings else "all well")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _run(*command: str) -> str | None:
    """Standard output of a command, or None when it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
