"""Checkpoint files under attack: full disks, kills, truncation, weights that do not belong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from src.core.errors import ProjectError
from src.experiment.checkpoint import (
    FORMAT,
    checkpoint_path,
    fingerprint,
    load_policy,
    read_about,
    read_checkpoint,
    restore,
    write_checkpoint,
)

ROOT = Path(__file__).resolve().parents[2]


NAMES = ["best.safetensors", "last.ckpt"]


def content(value: float, size: int = 10) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), value)}, "about": {"format": 1}}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    written = {**content(2.0), "epoch": 3, "global_step": 7, "metrics": {"val/loss": 0.5, "val/none": None}}
    size = write_checkpoint(tmp_path / name, written)
    assert size == (tmp_path / name).stat().st_size
    read = read_checkpoint(tmp_path / name)
    assert torch.equal(read.pop("state_dict")["w"], written.pop("state_dict")["w"])
    assert read == written and read_about(tmp_path / name) == written["about"]
    assert [path.name for path in tmp_path.iterdir()] == [name], "no temporary file may stay"


def test_tied_weights_views_and_other_layouts_keep_their_values(tmp_path: Path) -> None:
    """The format knows neither shared storage nor strides."""
    whole = torch.arange(12.0).view(3, 4)
    state = {"whole": whole, "tied": whole, "view": whole[1:], "turned": whole.t(), "empty": torch.zeros(0),
             "half": whole.to(torch.bfloat16), "count": torch.tensor(3)}  # fmt: skip
    write_checkpoint(tmp_path / "best.safetensors", {"state_dict": state, "about": {}})
    read = read_checkpoint(tmp_path / "best.safetensors")["state_dict"]
    assert read.keys() == state.keys()
    assert all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items()
    )


def test_what_the_file_cannot_hold_is_no_silent_loss(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="optimizer_states"):
        write_checkpoint(tmp_path / "best.safetensors", {**content(1.0), "optimizer_states": []})


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
@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_leaves_the_old_file_and_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoints" / name
    write_checkpoint(path, content(1.0))
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert (
        str(path) in done.stdout and "too large" in done.stdout and len(done.stdout.strip().splitlines()) == 1
    )
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [name], "half a file may not stay"


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
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
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


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / name, content(1.0, 1000))
    data = (tmp_path / name).read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / name).write_bytes(data[:length])
        for reader in (read_checkpoint, read_about):
            with pytest.raises(ProjectError, match=rf"{name}: cannot be read as a checkpoint"):
                reader(tmp_path / name)


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    write_checkpoint(checkpoint_path(tmp_path, "last"), content(1.0))
    with pytest.raises(ProjectError, match=r"best\.safetensors: not found.*this run has: last\."):
        read_checkpoint(checkpoint_path(tmp_path, "best"))
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"old")
    with pytest.raises(
        ProjectError, match=r"best\.safetensors: not found, but a best\.ckpt of an older version"
    ):
        read_checkpoint(checkpoint_path(tmp_path, "best"))
    with pytest.raises(ProjectError, match="checkpoint: found 'first', expected best or last"):
        checkpoint_path(tmp_path, "first")


def test_a_foreign_file_is_refused_and_no_code_in_it_runs(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    save_file({"w": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name in ("foreign.ckpt", "foreign.safetensors", "bare.safetensors"):
        with pytest.raises(ProjectError, match=f"{name}: is no checkpoint of this project"):
            read_checkpoint(tmp_path / name)
    save_file({}, tmp_path / "garbled.safetensors", metadata={"format": FORMAT, "about": "{"})
    bomb = {"state_dict": {}, "about": _Bomb(tmp_path / "harm")}
    torch.save(bomb, tmp_path / "bomb.ckpt")
    torch.save(bomb, tmp_path / "bomb.safetensors")
    for name in ("garbled.safetensors", "bomb.ckpt", "bomb.safetensors"):
        with pytest.raises(ProjectError, match=f"{name}: cannot be read"):
            read_checkpoint(tmp_path / name)
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
    policy, _ = load_policy(trained)
    frozen = next(p for p in policy.parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.add_(1e-3)
    path = checkpoint_path(trained, "best")
    with pytest.raises(
        ProjectError, match=r"best\.safetensors: was trained on other frozen .*kosmos, fingerprint"
    ):
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


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_file_of_an_older_version_is_a_sentence(trained: Path, tmp_path: Path, which: str) -> None:
    old = read_checkpoint(checkpoint_path(trained, which))
    del old["about"]["base_model"]
    write_checkpoint(checkpoint_path(tmp_path, which), old)
    with pytest.raises(ProjectError, match="does not say which base model it belongs to.*older versions"):
        load_policy(tmp_path, which)


def test_the_file_explains_itself_to_a_reader_without_our_code(trained: Path) -> None:
    with safe_open(checkpoint_path(trained, "best"), framework="np") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
        names = list(file.keys())
    about = header["about"]
    assert about["config"]["model"]["lora"]["rank"] == 2 and about["action_space"]["units"][2] == "rad/s"
    assert about["base_model"]["id"].endswith("kosmos") and about["base_model"]["revision"] is None
    assert len(about["base_model"]["fingerprint"]) == 64 and "{instruction}" in about["prompt"]
    assert (
        about["split_hash"] == about["data"]["split_hash"]
        and about["data_hash"] == about["data"]["data_hash"]
    )
    assert (
        about["packages"]["transformers"] and header["global_step"] == 5 and header["metrics"]["val/loss"] > 0
    )
    kinds = ("lora_A", "lora_B", "backbone.queries", "head.", "normalizer.")
    assert all(any(kind in name for name in names) for kind in kinds)
    assert all(any(kind in name for kind in kinds) for name in names), "only what was trained"


@pytest.mark.parametrize("which", ["best", "last"])
def test_saved_and_loaded_it_predicts_the_same_to_the_bit(trained: Path, tmp_path: Path, which: str) -> None:
    policy, cfg = load_policy(trained, which)
    again, _ = load_policy(trained, which)
    ids, mask = policy.tokenize(["drive to the red ball", "pass the box on its left side"])
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for one in (policy, again):
        one.found = one.act(  # type: ignore[assignment]
            one.encode_frames(frames, ids, mask)[:, None].expand(-1, 3, -1, -1),
            torch.ones(2, 3) > 0,
            ids,
            mask,
        )
    assert torch.equal(policy.found, again.found)  # type: ignore[arg-type]
    other, _ = load_policy(trained, which)
    with torch.no_grad():
        other.backbone.queries.add_(1e-3)
    memory = other.encode_frames(frames, ids, mask)[:, None].expand(-1, 3, -1, -1)
    assert not torch.equal(policy.found, other.act(memory, torch.ones(2, 3) > 0, ids, mask))  # type: ignore[arg-type]
