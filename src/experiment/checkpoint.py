"""Owns checkpoint files: writing them so that no kill or full disk can spoil one, reading them, and the way back
from a run folder to a policy.

In: the trained weights of a policy and what the run record says about the run. Out: <run>/checkpoints/best.ckpt
(weights) and last.ckpt (weights, optimizer, loop state), both self-describing and megabytes in size, because a
frozen base model is named and fingerprinted, not copied. Reading executes no code from the file.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import atomic_path

if TYPE_CHECKING:
    from src.data.actions import ActionSpace
    from src.data.normalizer import Normalizer
    from src.model.policy import Policy

Which = Literal["best", "last"]
_SAMPLES = 256  # values per frozen tensor in a fingerprint: enough to tell two models apart, instant at 1.7 B


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written through `write_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def checkpoint_path(run: Path, which: str) -> Path:
    """<run>/checkpoints/<which>.ckpt."""
    return run / "checkpoints" / f"{which}.ckpt"


def write_checkpoint(path: Path, content: dict[str, Any]) -> int:
    """Replace the file at `path`; return its size in bytes. The old file survives any failure.

    Raises:
        ProjectError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            target = _Watched(file)
            try:
                torch.save(content, cast(BinaryIO, target))  # it writes and flushes, no more
            except RuntimeError as error:  # of torch's writer, which says nothing of a full disk
                raise target.error or error from error
        return temporary.stat().st_size


class _Watched:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Raises:
        ProjectError: the file is missing, damaged or not one of ours.
    """
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.ckpt"))) or "none"
        raise ProjectError(f"{path}: not found, expected a checkpoint; this run has: {there}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).splitlines()[:1])
        raise ProjectError(
            f"{path}: cannot be read as a checkpoint ({reason}); it is damaged or foreign."
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "about"} <= content.keys():
        raise ProjectError(
            f"{path}: is no checkpoint of this project, expected one written by python -m src.train."
        )
    found: dict[str, Any] = content
    return found


def build_policy(cfg: DictConfig, action_space: "ActionSpace", normalizer: "Normalizer") -> "Policy":
    """The policy of a training config, with fresh weights where it has no pretrained ones.

    Fresh weights depend on `seed` alone and the caller's random state stays as it is, so that a checkpoint
    finds the same untrained weights again.
    """
    with torch.random.fork_rng():
        torch.manual_seed(int(cfg.seed))
        policy: Policy = build(
            cfg.model,
            action_space=action_space,
            normalizer=normalizer,
            window=cfg.data.window,
            horizon=cfg.data.horizon,
            optimizer=build(cfg.get("optimizer")),
            scheduler=build(cfg.get("scheduler")),
        )
    return policy


def load_policy(run: Path, which: str = "best") -> tuple["Policy", DictConfig]:
    """The policy of a finished (or stopped) run in eval mode on the CPU, and the config it was trained with.

    Raises:
        ProjectError: no such checkpoint, a weight too few or too many, or another base model than in training.
    """
    from src.data.actions import ActionSpace

    path = checkpoint_path(run, which)
    content = read_checkpoint(path)
    cfg = OmegaConf.create(content["about"]["config"])
    action_space = ActionSpace.from_dict(content["about"]["action_space"])
    policy = build_policy(cfg, action_space, build(cfg.data.normalizer))
    restore(policy, content, path)
    policy.eval()
    return policy, cfg


def restore(policy: "Policy", content: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint that was read into `policy`, strictly."""
    base = content["about"].get("base")
    if base is not None and base != fingerprint(policy):
        raise ProjectError(
            f"{path}: was trained on other frozen weights than those this policy starts from; "
            "put the base model back that the run was trained with (model.backbone in its config)."
        )
    try:
        policy.load_trained(content["state_dict"])
    except ProjectError as error:
        raise ProjectError(f"{path}: {error}") from error


def fingerprint(module: nn.Module) -> str:
    """A hash of the frozen parameters: their names, shapes and evenly spaced sample values."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            continue
        flat = parameter.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLES)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(flat[::stride].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()
