"""Owns the door between the two formats: one function that goes either way, as `python -m src.convert` calls it.

In: a source folder, a new target folder, which format to write. Out: the target, complete or not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.instruction import InstructionSource
from src.data.layouts import LabOptions
from src.data.lerobot.export import ExportOptions, export
from src.data.lerobot.foreign import ForeignOptions
from src.data.lerobot.layout import INFO, pyarrow
from src.data.lerobot.load import load


def convert(
    source: Path | str,
    to: Path | str,
    format: str = "lerobot",
    on_bad_files: str = "error",
    action: ActionSpace | None = None,
    lab: LabOptions | None = None,
    instruction: InstructionSource | None = None,
    export_options: ExportOptions | None = None,
    foreign: ForeignOptions | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Convert the data set `source` into the new folder `to`.

    Args:
        source: folder of HDF5 episodes, or of a LeRobot data set.
        to: folder that does not exist yet, or is empty.
        format: "lerobot" (LeRobotDataset v3.0) or "mobile_vla" (the project's HDF5).
        on_bad_files: "error" stops at the first unreadable episode; "skip" leaves it out and lists it, also one that
            has another frame size, period or axes than most.
        action: axes' limits and classes to keep with the data; format=lerobot only.
        lab: how to read the lab's files; format=lerobot only.
        instruction: where the sentences come from, None takes those of the files; format=lerobot only.
        export_options: how to write; format=lerobot only.
        foreign: facts for LeRobot data sets that were not written here; format=mobile_vla only.
        progress: show a progress bar.

    Returns:
        {"episodes", "frames", "skipped": [{"file", "reason"}], "psnr_db": {"mean", "min"} or None}.
    """
    source, to = Path(source), Path(to)
    for key, value, known in (
        ("format", format, ("lerobot", "mobile_vla")),
        ("on_bad_files", on_bad_files, ("error", "skip")),
    ):
        if value not in known:
            raise ProjectError(f"{key} is {value!r}; expected one of {list(known)}.")
    if not source.is_dir():
        kind = "is a file" if source.exists() else "does not exist"
        raise ProjectError(f"source={source} {kind}; expected a folder, check the path.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ProjectError(
            f"to={to} already exists and is not an empty folder; choose another path or delete it."
        )
    pyarrow("parquet")  # before minutes of work
    is_lerobot = (source / INFO).exists()
    skip = on_bad_files == "skip"
    if format == "lerobot":
        if is_lerobot:
            raise ProjectError(
                f"source={source} is a LeRobot data set already; set format=mobile_vla to import it."
            )
        if foreign is not None and foreign != ForeignOptions():
            raise ProjectError(
                "foreign: only an import reads these options; remove them or set format=mobile_vla."
            )
        return export(source, to, export_options or ExportOptions(), action, lab, instruction, skip, progress)
    if not is_lerobot:
        raise ProjectError(
            f"source={source} has no {INFO}, so it is no LeRobot data set; format=lerobot exports."
        )
    for key, given in (
        ("action", action is not None),
        ("lab", lab is not None and lab != LabOptions()),
        ("instruction", instruction is not None),
        ("export_options", export_options is not None and export_options != ExportOptions()),
    ):
        if given:
            raise ProjectError(f"{key}: only an export reads it; remove it or set format=lerobot.")
    return load(source, to, foreign or ForeignOptions(), skip, progress)
