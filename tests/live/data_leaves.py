"""What is seen of the keys of `data`: files made, batches, the split and its groups, workers, the normaliser."""

from __future__ import annotations

import io
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import file_sha256
from src.data.episode import open_episode, write_episode
from tests.data.builders import write_lab_file
from tests.live.model_leaves import largest_commands
from tests.live.scene import Case, View, digest, files_below

# ---------------------------------------------------------------- batches


def _batch(batch: Any) -> str:
    return digest([getattr(batch, item.name) for item in fields(batch)])


def train_batches(view: View) -> list[str]:
    """Two epochs of training batches, augmentation carried out as the trainer does it."""
    module = view.datamodule()
    seen = []
    for epoch in range(2):
        loader = module.train_dataloader()
        loader.set_epoch(epoch)
        seen += [_batch(module.on_after_batch_transfer(batch, 0)) for batch in loader]
    return seen


def frames_at_once(view: View) -> list[int | None]:
    """How many frames of each training batch may be worked on at once."""
    module = view.datamodule()
    return [module.on_after_batch_transfer(batch, 0).max_frames for batch in module.train_dataloader()]


def val_batches(view: View) -> list[str]:
    """The validation batches."""
    return [_batch(batch) for batch in view.datamodule().val_dataloader()]


def normaliser(view: View) -> str:
    """What was fitted to the training actions."""
    return digest(dict(view.datamodule().normalizer.state_dict()))


def members(view: View) -> dict[str, list[tuple[str, str]]]:
    """Who is in which split, with their groups."""
    module = view.datamodule()
    return {name: [(e.id, e.group) for e in module.episodes(name)] for name in ("train", "val", "test")}


def classes_of_actions(view: View) -> list[str]:
    """The class of each action on a grid of its limits."""
    space = build(view.cfg.data.action)
    axis = np.linspace(-1.15, 1.15, 11)
    grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    return [space.class_names[index] for index in space.classify(grid)]


def worker_processes(view: View) -> int:
    """Processes that live while training batches are read."""
    before = len(multiprocessing.active_children())
    batches = iter(view.datamodule().train_dataloader())
    next(batches)
    return len(multiprocessing.active_children()) - before


def second_pass(view: View) -> str:
    """Whether a second pass over the training frames needs the files, which are gone by then."""
    root = view.own_data()
    module = view.datamodule()
    list(module.train_dataloader())
    for path in root.glob("*.h5"):
        path.unlink()
    try:
        list(module.train_dataloader())
    except (ProjectError, OSError):
        return "reads the files"
    return "from memory"


# ---------------------------------------------------------------- folders


def files_made(view: View) -> list[str]:
    """Files beside and in the data folder after the episodes were split and resized; a cached one is named by hash."""
    view.own_data()
    view.datamodule()
    return sorted({re.sub(r"[0-9a-f]{32}", "*", name) for name in files_below(view.folder)})


def _folder(change: Callable[[Path], None]) -> Callable[[View], Any]:
    """`members` of a copy of the data that `change` has been at."""

    def see(view: View) -> Any:
        change(view.own_data())
        view.cfg.data.source = None
        return members(view)

    see.__name__ = change.__name__
    return see


@_folder
def damaged_file(root: Path) -> None:
    path = min(root.glob("*.h5"))
    path.write_bytes(path.read_bytes()[:2000])


@_folder
def another_frame_size(root: Path) -> None:
    episode = open_episode(min(root.glob("*.h5"))).load()
    write_episode(
        root / "small.h5", replace(episode, id="small", group="small", frames=episode.frames[:, ::2, ::2])
    )


@_folder
def one_drive_twice(root: Path) -> None:
    episode = open_episode(min(root.glob("*.h5"))).load()
    write_episode(root / "again.h5", replace(episode, id="again", group="again"))


def lab_files(view: View) -> Any:
    """`members` of a folder of the lab's own files."""
    root = view.folder / "lab"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        frames = rng.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
        actions = np.zeros((6, 3), np.float32)
        actions[:, 0], actions[index:, 1] = 1.15, 1.15
        name = f"episode_20260129_0104{index:02d}_basket_1box_hori_left_core_medium.h5"
        write_lab_file(root / name, frames, actions, "Go to the basket.")
    view.cfg.data.root, view.cfg.data.source = str(root), None
    return members(view)


# ---------------------------------------------------------------- collecting


def collected(view: View) -> dict[str, str]:
    """The episode files that the source makes."""
    root = Path(view.cfg.data.root)
    build(view.cfg.data).prepare_data()
    return {str(path.relative_to(root.parent)): file_sha256(path) for path in sorted(root.rglob("*.h5"))}


def collected_over_another(view: View) -> dict[str, str]:
    """The same where a data set of another seed lies already."""
    build(view.cfg.data.source, seed=7)(Path(view.cfg.data.root))
    return collected(view)


def collecting_screen(view: View) -> bool:
    """Whether a bar was shown."""
    with redirect_stdout(io.StringIO()) as screen:
        collected(view)
    return "collecting" in screen.getvalue()


class _Asked(Exception):
    """Stops a collection at the moment it asks for processes."""


def collecting_processes(view: View) -> int:
    """How many processes a collection asks for; none where it records in this one."""

    class Pool(ProcessPoolExecutor):
        def __init__(self, workers: int, *_: Any, **__: Any) -> None:
            raise _Asked(workers)

    with patch("src.sim.collect.ProcessPoolExecutor", Pool):
        try:
            collected(view)
        except _Asked as asked:
            return int(asked.args[0])
    return 0


# ---------------------------------------------------------------- the cases

_NEW = {"data.root": "{folder}/data", "data.source.episodes": 2}
_HALF = {"data.split.train": 0.6, "data.split.val": 0.2, "data.split.test": 0.2}
_MIRROR = {"data.augmentation.mirror": 1.0}
_DIRECTIONS = {
    "forward": [1, 1, 1], "backward": [-1, -1, 1], "left": [0, 1, 0.5], "right": [0, -1, 0.5],
    "forward_left": [1, 0.5, 0], "forward_right": [1, -0.5, 0], "rotate_left": [0.5, 0, 1],
    "rotate_right": [0.5, 0, -1],
}  # fmt: skip

CASES: dict[str, Case] = {
    # The files say what their actions are; a config that says otherwise is refused.
    "data.action.names": Case(["linear_x", "linear_y", "turn"], members, refused="after"),
    "data.action.units": Case(["m/s", "m/s", "deg/s"], members, refused="after"),
    "data.action.control_period": Case(0.25, members, refused="after"),
    "data.action.low": Case([-2.0, -1.15, -1.15], largest_commands),
    "data.action.high": Case([2.0, 1.15, 1.15], largest_commands),
    "data.action.classes.stop": Case([0, 0, 1], classes_of_actions, refused="after"),
    **{f"data.action.classes.{k}": Case(v, classes_of_actions) for k, v in _DIRECTIONS.items()},
    "data.sampler.episodes_per_batch": Case(3, train_batches),
    "data.sampler.segment_length": Case(5, train_batches),
    "data.split.train": Case(0.6, members, {"data.split.test": 0.2}, refused="before"),
    "data.split.val": Case(0.1, members, {"data.split.test": 0.1}, refused="before"),
    "data.split.test": Case(0.2, members, {"data.split.train": 0.6}, refused="before"),
    "data.split.seed": Case(1, members),
    "data.split.path": Case("{folder}/elsewhere.json", files_made),
    "data.split.near_duplicates": Case(False, one_drive_twice),
    "data.instruction.held_out": Case(["go to *"], train_batches),
    "data.instruction.evaluate_on": Case(
        "held_out", val_batches, {"data.instruction.held_out": ["go to *", "go around *", "reach the *"]}
    ),
    "data.augmentation.brightness": Case(0.3, train_batches),
    "data.augmentation.contrast": Case(0.3, train_batches),
    "data.augmentation.saturation": Case(0.3, train_batches),
    "data.augmentation.crop": Case(0.8, train_batches),
    "data.augmentation.shift": Case(3, train_batches),
    "data.augmentation.mirror": Case(0.5, train_batches),
    "data.augmentation.mirror_axes": Case(["linear_y"], train_batches, _MIRROR),
    "data.root": Case("{folder}/elsewhere", collected, _NEW),
    "data.window": Case(4, train_batches),
    "data.horizon": Case(3, train_batches),
    "data.image_size": Case(
        24, train_batches, {"data.source.image_size": 32, "data.cache_dir": "{folder}/cache"}
    ),
    "data.paraphrase": Case("first", train_batches),
    "data.train_episodes": Case(4, train_batches),
    "data.eval_episodes_per_batch": Case(1, val_batches),
    "data.on_bad_files": Case("skip", damaged_file, refused="before"),
    "data.allow_mixed_sizes": Case(True, another_frame_size, refused="before"),
    "data.cache_dir": Case(
        "{folder}/cache", files_made, {"data.source.image_size": 32, "data.image_size": 24}
    ),
    "data.max_frames_per_batch": Case(4, frames_at_once),
    "data.memory_limit_gb": Case(0.0, second_pass),
    "data.num_workers": Case(1, worker_processes),
    "data.seed": Case(1, train_batches),
    "data.lab": Case(
        {"_target_": "src.data.layouts.LabOptions", "control_period": 1 / 3}, lab_files, refused="before"
    ),
    "data.source.suite": Case("reach", collected, _NEW),
    "data.source.split": Case("val", collected, _NEW),
    "data.source.episodes": Case(3, collected, {"data.root": "{folder}/data"}),
    "data.source.image_size": Case(24, collected, _NEW),
    "data.source.noise": Case(0.1, collected, _NEW),
    "data.source.seed": Case(1, collected, _NEW),
    "data.source.language": Case("ko", collected, _NEW),
    "data.source.twins": Case("side", collected, _NEW),
    "data.source.workers": Case(2, collecting_processes, _NEW),
    "data.source.overwrite": Case(True, collected_over_another, _NEW, refused="before"),
    "data.source.progress": Case(True, collecting_screen, _NEW),
}
