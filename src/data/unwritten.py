"""Owns finding places of a file that were never written: HDF5 reads them as zeros without a word.

In: an HDF5 file. Out: nothing, or one sentence. A recorder that was killed leaves such files.
"""

import math
from pathlib import Path

import h5py

from src.core.errors import ProjectError


def require_written(path: Path) -> None:
    """Raise a ProjectError if some dataset has chunks that were never written; about 1 ms per file."""
    holes: list[str] = []

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(node, h5py.Dataset) or not node.shape or 0 in node.shape:
            return
        if node.chunks is None:
            if node.id.get_storage_size() == 0 and not node.external:
                holes.append(f"{name} (nothing written)")
            return
        wanted = math.prod(-(-side // chunk) for side, chunk in zip(node.shape, node.chunks, strict=True))
        stored = node.id.get_num_chunks()
        if stored < wanted:
            holes.append(f"{name} ({stored} of {wanted} chunks)")

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    if holes:
        raise ProjectError(
            f"{path}: not everything was written: {', '.join(holes)}; expected all of it, for the rest reads as zeros. "
            "Record or copy the file again."
        )
