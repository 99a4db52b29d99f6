"""Owns checkpoint files: writing them so that no kill or full disk can spoil one, reading them, and the way back
from a run folder to a policy.

In: the trained weights of a policy and what the run record says about the run. Out, in <run>/checkpoints/:

    best.safetensors   trained weights; what they are stands in the file's header, as JSON that any reader of
                       safetensors can print: `safetensors.safe_open(file, "pt").metadata()`
    last.ckpt          the same weights with optimizer and loop state, for going on (a torch file)

Both are megabytes in size, because a frozen base model is named and fingerprinted, not copied. Reading either
executes no code from the file.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import atomic_path
from src.experiment.compatible import differences

if TYPE_CHECKING:
    from src.data.actions import ActionSpace
    from src.data.normalizer import Normalizer
    from src.model.policy import Policy

Which = Literal["best", "last"]
FORMAT = "mobile-vla policy, version 1"
"""What a best.safetensors says it is."""

_FILES = {"best": "best.safetensors", "last": "last.ckpt"}
_TEXT = ("about", "epoch", "global_step", "metrics")  # content beside the weights, JSON in the header
_SAMPLES = 256  # values per frozen tensor in a fingerprint: enough to tell two models apart, instant at 1.7 B


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written through `write_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


# ---------------------------------------------------------------- files


def checkpoint_path(run: Path, which: str) -> Path:
    """<run>/checkpoints/best.safetensors or last.ckpt.

    Raises:
        ProjectError: `which` is neither best nor last.
    """
    if which not in _FILES:
        raise ProjectError(f"checkpoint: found {which!r}, expected best or last; choose one of them.")
    return run / "checkpoints" / _FILES[which]


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> int:
    """Replace the file at `path`; return its size in bytes. The old file survives any failure.

    Args:
        path: `*.safetensors` or a torch file.
        content: `state_dict` and `about`, plain values that JSON can hold; `epoch`, `global_step` and `metrics`
            where they are known. A torch file takes any other tensor or plain value as well.

    Raises:
        ProjectError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            _write_safetensors(temporary, content)
        else:
            _write_torch(temporary, content)
        return temporary.stat().st_size


def _write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    strange = content.keys() - {"state_dict", *_TEXT}
    if strange:
        raise ValueError(f"{path.suffix} holds weights and {_TEXT}, not {sorted(strange)}")
    header = {key: json.dumps(content[key]) for key in _TEXT if key in content}
    with disk_errors():
        save_file(_separate(content["state_dict"]), path, metadata={"format": FORMAT, **header})


@contextmanager
def disk_errors() -> Iterator[None]:
    """What safetensors says of a full disk, "I/O error: … (os error 28)", as the OSError it was."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        code = int(number.group(1)) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on the CPU, no two in one storage as tied weights and views are: the format's condition."""
    tensors: dict[str, torch.Tensor] = {}
    storages = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return tensors


def _write_torch(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        target = _Watched(file)
        try:
            torch.save(dict(content), cast(BinaryIO, target))  # it writes and flushes, no more
        except RuntimeError as error:  # of torch's writer, which says nothing of a full disk
            raise target.error or error from error


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
    _must_exist(path)
    if path.suffix != ".safetensors":
        return _read_torch(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _header(path, file.metadata())
            return {"state_dict": {name: file.get_tensor(name) for name in file.keys()}, **header}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_about(path: Path) -> dict[str, Any]:
    """What a checkpoint says about itself; of a safetensors file only the header is read.

    Raises:
        ProjectError: as `read_checkpoint`.
    """
    _must_exist(path)
    if path.suffix != ".safetensors":
        about: dict[str, Any] = _read_torch(path)["about"]
        return about
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = _header(path, file.metadata())["about"]
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return about


def _must_exist(path: Path) -> None:
    if path.exists():
        return
    there = [name for name, file in _FILES.items() if (path.parent / file).exists()]
    if path.name == _FILES["best"] and path.with_suffix(".ckpt").exists():
        raise ProjectError(
            f"{path}: not found, but a best.ckpt of an older version of this project; read it with the code that "
            "wrote it (`code` in run.json), or train again."
        )
    raise ProjectError(
        f"{path}: not found, expected a checkpoint; this run has: {', '.join(there) or 'none'}."
    )


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict) or not {"state_dict", "about"} <= content.keys():
        raise _foreign(path)
    found: dict[str, Any] = content
    return found


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    metadata = metadata or {}
    if metadata.get("format") != FORMAT or "about" not in metadata:
        raise _foreign(path)
    try:
        return {key: json.loads(metadata[key]) for key in _TEXT if key in metadata}
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ProjectError:
    reason = " ".join(str(error).splitlines()[:1])
    return ProjectError(f"{path}: cannot be read as a checkpoint ({reason}); it is damaged or foreign.")


def _foreign(path: Path) -> ProjectError:
    return ProjectError(
        f"{path}: is no checkpoint of this project, expected one written by python -m src.train."
    )


# ---------------------------------------------------------------- policies


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
    commit = content["about"].get("base_model", {}).get("revision")
    if commit is not None:  # the hub may have moved since
        cfg.model.backbone.revision = commit
    action_space = ActionSpace.from_dict(content["about"]["action_space"])
    policy = build_policy(cfg, action_space, build(cfg.data.normalizer))
    restore(policy, content, path)
    policy.eval()
    return policy, cfg


def restore(policy: "Policy", content: Mapping[str, Any], path: Path, cfg: DictConfig | None = None) -> None:
    """Put the weights of a checkpoint that was read into `policy`, strictly.

    Args:
        policy: built from `cfg`.
        content: from `read_checkpoint`.
        path: where it came from, for the messages.
        cfg: compared with the config in the checkpoint in all that decides what its weights mean; None: the policy
            was built from the checkpoint's own.

    Raises:
        ProjectError: another configuration (with the list of differences), another base model, or a weight that is
            missing, unexpected or of another shape.
    """
    about = content["about"]
    if not about.get("base_model"):
        raise ProjectError(
            f"{path}: does not say which base model it belongs to, as files of older versions of this project; read "
            "it with the code that wrote it (`code` in run.json), or train again."
        )
    own = about["config"] if cfg is None else OmegaConf.to_container(cfg, resolve=True)
    refuse_other_config(about, path, own, policy.action_space.to_dict())
    if about["base_model"]["fingerprint"] != fingerprint(policy):
        raise ProjectError(
            f"{path}: was trained on other frozen weights ({describe_base(about)}) than those this policy starts "
            f"from ({describe_base({'base_model': base_model(policy)})}); put the base model back that the run was "
            "trained with, or set model.backbone.checkpoint to a copy of it."
        )
    try:
        policy.load_trained(content["state_dict"])
    except ProjectError as error:
        raise ProjectError(f"{path}: {error}") from error


def refuse_other_config(
    about: Mapping[str, Any], path: Path, config: Any, action_space: Mapping[str, Any] | None = None
) -> None:
    """The weights of a checkpoint mean the same under `config`, resolved; null: action spaces are not compared yet.

    Raises:
        ProjectError: they do not, with the list of differences.
    """
    found = differences(about["config"], config, about["action_space"], action_space or about["action_space"])
    if found:
        raise ProjectError(
            f"{path}: was trained with another configuration: {'; '.join(found)}; its weights mean nothing there, so "
            "set these as in the checkpoint, or start without it."
        )


def base_model(policy: "Policy") -> dict[str, Any]:
    """What the policy was built on: hub id or folder, commit of the hub (null: a folder), hash of frozen weights."""
    backbone = policy.backbone
    return {
        "id": backbone.checkpoint,
        "revision": backbone.revision,
        "fingerprint": fingerprint(policy),
    }


def describe_base(about: Mapping[str, Any]) -> str:
    """`microsoft/kosmos-2-patch14-224 at e91cfbcb4ce0, fingerprint 0a1b2c3d4e5f`."""
    base = about["base_model"]
    at = f" at {base['revision'][:12]}" if base["revision"] else ""
    return f"{base['id'] or 'no pretrained weights'}{at}, fingerprint {base['fingerprint'][:12]}"


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


def other_data(trained_on: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """How the episodes differ, who is in which split, or what is said to whom: `on data 0a1b2c with …`; None where all
    are equal.

    Args:
        trained_on: what a run or checkpoint says of its data; an older one may not say what its sentences were.
        found: the manifest of the data module.
    """
    keys = ("data_hash", "split_hash")
    was, now = ([str(facts.get(key, "unknown")) for key in keys] for facts in (trained_on, found))
    if was != now:
        return (
            f"on data {was[0][:12]} with split {was[1][:12]}, but {found.get('root')} has data {now[0][:12]} with "
            f"split {now[1][:12]}; restore the folder and its split file ({found.get('split_file')})"
        )
    told, tells = ((facts.get("instruction") or {}).get("hash") for facts in (trained_on, found))
    if told is None or told == tells:
        return None
    return (
        f"with the instructions {told[:12]}, but {found.get('root')} under data.instruction has {str(tells)[:12]}; "
        "restore the sentences of the files or of the map"
    )
