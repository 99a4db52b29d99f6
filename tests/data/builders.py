"""Small real data for the tests of the data room: episodes, folders, lab files. No torch: children start fast."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.data.actions import ActionSpace
from src.data.episode import Episode, write_episode

NAMES = ("linear_x", "linear_y", "angular_z")
UNITS = ("m/s", "m/s", "rad/s")
SPACE = ActionSpace(
    names=NAMES, units=UNITS, low=(-1.15,) * 3, high=(1.15,) * 3, control_period=0.4,
    classes={"stop": (0, 0, 0), "forward": (1, 0, 0), "left": (0, 1, 0), "rotate_left": (0, 0, 1)},
)  # fmt: skip


def make_episode(name: str = "e0", length: int = 6, size: int = 8, **changes: Any) -> Episode:
    """Random frames and actions, reproducible from the name."""
    rng = np.random.default_rng(list(name.encode()))
    fields: dict[str, Any] = {
        "id": name,
        "frames": rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8),
        "actions": rng.uniform(-1.15, 1.15, (length, 3)).astype(np.float32),
        "instructions": (f"go to {name}", f"please drive to {name}", f"{name} is the goal now"),
        "action_names": NAMES,
        "action_units": UNITS,
        "control_period": 0.4,
        "scenario": "left",
        "group": name,
    }
    return Episode(**{**fields, **changes})


def make_folder(root: Path, lengths: Sequence[int], size: int = 8) -> list[Episode]:
    """Write one episode per length, alternating between two scenarios."""
    episodes = [
        make_episode(f"e{i:03d}", length, size, scenario="left" if i % 2 else "right")
        for i, length in enumerate(lengths)
    ]
    root.mkdir(parents=True, exist_ok=True)
    for episode in episodes:
        write_episode(root / f"{episode.id}.h5", episode)
    return episodes


def write_lab_file(
    path: Path, frames: np.ndarray, actions: np.ndarray | None = None, text: str | None = None, **extra: Any
) -> Path:
    """A file as the lab's recorder (V1-V4) writes it: gzip frames, vlen events, optional S256 instruction."""
    steps = len(frames)
    actions = _forward(steps) if actions is None else actions
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=frames, compression="gzip")
        file.create_dataset("actions", data=actions)
        events = ["episode_start", *["start_action"] * (steps - 1)]
        file.create_dataset("action_event_types", data=events, dtype=h5py.string_dtype())
        if text is not None:
            file.create_dataset("language_instruction", data=np.array([text.encode()], dtype="S256"))
        file.attrs["episode_name"] = path.stem
        file.attrs["num_frames"] = steps
        file.attrs["total_duration"] = 40.0
        for key, value in extra.items():
            file.create_dataset(key, data=value)
    return path


def write_lab_v5(
    path: Path, frames: np.ndarray, actions: np.ndarray | None = None, text: str = "Go to the basket."
) -> Path:
    """A file of the lab's layout V5: frames below observations, one sentence, no events."""
    with h5py.File(path, "w") as file:
        file.create_dataset("observations/images", data=frames, compression="gzip")
        file.create_dataset("actions", data=_forward(len(frames)) if actions is None else actions)
        file.create_dataset("language_instruction", data=[text], dtype=h5py.string_dtype())
        file.attrs["episode_name"] = path.stem
        file.attrs["num_frames"] = len(frames)
    return path


def write_lab_v6(
    path: Path,
    frames: np.ndarray,
    actions: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    position: str = "center",
    route: str = "straight",
) -> Path:
    """A file of the lab's layout V6: class numbers beside the actions, the scenario in attributes, no sentence."""
    steps = len(frames)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=frames, compression="gzip")
        file.create_dataset("actions", data=_forward(steps) if actions is None else actions)
        numbers = np.ones(steps, np.int64) if classes is None else classes
        file.create_dataset("action_classes", data=numbers)
        events = ["episode_start", *["start_action"] * (steps - 1)]
        file.create_dataset("action_event_types", data=events, dtype=h5py.string_dtype())
        attributes = {"cx_position": position, "cx_path": route, "control_mode": "keyboard"}
        file.attrs.update(
            {**attributes, "action_space": "discrete", "runtime_config": '{"hz": 2.5}', "num_frames": steps}
        )
    return path


def _forward(steps: int) -> np.ndarray:
    return np.tile(np.array([1.15, 0, 0], np.float32), (steps, 1))
