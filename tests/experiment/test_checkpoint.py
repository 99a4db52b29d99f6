"""Checkpoint files under attack: full disks, kills, truncation, weights that do not belong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, fingerprint, read_checkpoint, restore, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def content(value: float, size: int = 10) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), value)}, "about": {"format": 1}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    size = write_checkpoint(tmp_path / "a.ckpt", content(2.0))
    assert size == (tmp_path / "a.ckpt").stat().st_size
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt")["state_dict"]["w"], torch.full((10,), 2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"], "no temporary file may stay"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from src.core.errors import ProjectError
from src.experiment.checkpoint import write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))   # the kernel refuses to grow a file beyond this
try:
    write_checkpoint(Path(sys.argv[1]), {"state_dict": {"w": torch.zeros(1_000_000)}, "about": {}})
except ProjectError as error:
    print(error); sys.exit(2)
"""


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_old_file_and_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint(path, content(1.0))
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stdout and len(done.stdout.strip().splitlines()) == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"], "half a file may not stay"


WRITER = """
import sys
from pathlib import Path
import torch
from src.experiment.checkpoint import write_checkpoint
number = 0
while True:
    write_checkpoint(Path(sys.argv[1]), {"state_dict": {"w": torch.full((300_000,), float(number))}, "about": {}})
    number += 1
    if number == 1: print("ready", flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for attempt in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 + 0.037 * attempt)  # dozens of writes
        process.send_signal(signal.SIGKILL)
        process.communicate()
        values = read_checkpoint(path)["state_dict"]["w"]
        assert len(values) == 300_000 and bool((values == values[0]).all())


def test_a_truncated_file_is_a_sentence(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.ckpt", content(1.0, 1000))
    data = (tmp_path / "a.ckpt").read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "a.ckpt").write_bytes(data[:length])
        with pytest.raises(ProjectError, match=r"a\.ckpt: cannot be read as a checkpoint"):
            read_checkpoint(tmp_path / "a.ckpt")


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_path(tmp_path, "last"), content(1.0))
    with pytest.raises(ProjectError, match=r"best\.ckpt: not found.*this run has: last"):
        read_checkpoint(checkpoint_path(tmp_path, "best"))


def test_a_foreign_file_is_refused_and_no_code_in_it_runs(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    with pytest.raises(ProjectError, match="no checkpoint of this project"):
        read_checkpoint(tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}, "about": _Bomb(tmp_path / "harm")}, tmp_path / "bomb.ckpt")
    with pytest.raises(ProjectError, match="cannot be read"):
        read_checkpoint(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "harm").exists()


class _Bomb:
    """Would make a folder while it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


# ---------------------------------------------------------------- weights that do not belong


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, compose: Any, small_overrides: list[str]) -> Path:
    from src.train import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    cfg = compose("train", *small_overrides, f"run_folder={folder}", "trainer.max_epochs=1")
    cfg.evaluation = None
    train(cfg)
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"), [("missing", "1 weights are missing"), ("extra", "are unexpected")]
)
def test_a_weight_too_few_or_too_many_is_a_sentence(
    trained: Path, tmp_path: Path, change: str, sentence: str
) -> None:
    from src.experiment.checkpoint import load_policy

    changed = read_checkpoint(checkpoint_path(trained, "best"))
    name = next(iter(changed["state_dict"]))
    if change == "missing":
        del changed["state_dict"][name]
    else:
        changed["state_dict"]["stray.weight"] = torch.zeros(1)
    write_checkpoint(checkpoint_path(tmp_path, "best"), changed)
    with pytest.raises(ProjectError, match=sentence):
        load_policy(tmp_path)


def test_another_base_model_is_refused(trained: Path, tmp_path: Path) -> None:
    from src.experiment.checkpoint import load_policy

    policy, _ = load_policy(trained)
    frozen = next(p for p in policy.parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.add_(1e-3)
    path = checkpoint_path(trained, "best")
    with pytest.raises(ProjectError, match=r"best\.ckpt: was trained on other frozen weights"):
        restore(policy, read_checkpoint(path), path)


def test_a_fingerprint_sees_frozen_values_names_and_shapes_but_not_what_trains() -> None:
    def model(value: float = 0.5, name: str = "a", rows: int = 2, trained: float = 0.0) -> nn.Module:
        parts = {name: nn.Linear(rows, 3), "head": nn.Linear(3, 1)}
        for part in parts.values():
            nn.init.constant_(part.weight, value)
            nn.init.constant_(part.bias, value)
        parts[name].requires_grad_(False)
        nn.init.constant_(parts["head"].weight, trained)
        return nn.ModuleDict(parts)

    same = fingerprint(model())
    assert same == fingerprint(model(trained=9.0)), "training must not change it"
    others = [fingerprint(model(**change)) for change in ({"value": 0.25}, {"name": "b"}, {"rows": 3})]
    assert same not in others and len(set(others)) == 3


def test_restore_names_the_file(tmp_path: Path) -> None:
    def refuse(state: Any) -> None:
        raise ProjectError("2 weights are missing")

    policy = SimpleNamespace(load_trained=refuse)
    with pytest.raises(ProjectError, match=r"some\.ckpt: 2 weights are missing"):
        restore(policy, content(1.0), tmp_path / "some.ckpt")  # type: ignore[arg-type]
