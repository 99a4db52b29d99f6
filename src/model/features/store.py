"""Owns one file of computed rows that several processes fill and read together, on disk and memory-mapped.

    <folder>/about.json   what the rows were made from, their number, shape and type
             values.bin   rows x bytes; what is not there yet is a hole and costs no disk
             known.bin    one CRC-32 per row (uint32); 0 = not there

In: a folder, and rows as tensors. Out: the same rows, bit for bit. A row's values are written before its CRC-32, and a
CRC is compared on the first reading in a process; so there is no lock after creation, a kill at any instant leaves only
right or unknown rows, and a damaged row is made again. Two processes that write one row write the same to rounding.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, exclusive

log = logging.getLogger(__name__)

_ABOUT, _VALUES, _KNOWN = "about.json", "values.bin", "known.bin"
_MOST_ROWS = 64
"""Rows copied and checked at once: they stay in the CPU's cache."""


class FeatureStore:
    """Rows of one shape and type, numbered from 0."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], rows: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """Opens the store, or creates it empty; of several processes one creates it.

        Args:
            folder: its own.
            about: what the rows are made from; plain JSON.
            rows: how many there can be.
            shape: of one row.
            dtype: of the values.

        Raises:
            ProjectError: the folder holds rows of another kind, or cannot be written.
        """
        self.folder, self.shape, self.dtype = Path(folder), tuple(shape), dtype
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        whole = {"about": about, "rows": rows, "shape": list(shape), "dtype": str(dtype)}
        with exclusive(self.folder):
            if not (self.folder / _ABOUT).exists():
                self._create(whole, rows)
        self._refuse_other(json.loads(json.dumps(whole)))
        self._values = np.memmap(self.folder / _VALUES, np.uint8, "r", shape=(rows, self.row_bytes))
        self._known = np.memmap(self.folder / _KNOWN, np.uint32, "r", shape=(rows,))
        self._proven = np.zeros(rows, bool)
        self._files: dict[str, int] = {}

    def _create(self, whole: Mapping[str, Any], rows: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, size in ((_VALUES, rows * self.row_bytes), (_KNOWN, rows * 4)):
                with (self.folder / name).open("wb") as file:
                    file.truncate(size)
        except OSError as error:
            raise self._unwritable(error) from error
        atomic_write_json(self.folder / _ABOUT, whole)  # last: a folder without it is created anew

    def _refuse_other(self, whole: Any) -> None:
        try:
            found = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
            sizes = [(self.folder / name).stat().st_size for name in (_VALUES, _KNOWN)]
        except (OSError, ValueError) as error:
            raise ProjectError(f"{self.folder}: cannot be read ({error}); delete this folder.") from error
        rows = whole["rows"]
        if found != whole or sizes != [rows * self.row_bytes, rows * 4]:
            raise ProjectError(
                f"{self.folder}: found {found.get('rows')} rows {found.get('shape')} {found.get('dtype')} of other "
                f"features, expected {rows} rows {whole['shape']} {whole['dtype']}; delete this folder."
            )

    @property
    def known(self) -> int:
        """How many rows are there, damaged ones included."""
        return int(np.count_nonzero(self._known))

    def read(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """`rows (n,)` int64 -> values `(n, *shape)` and which of them are known `(n,)` bool; others hold anything.

        Raises:
            IndexError: a row number below 0 or too large.
        """
        self._check(rows)
        crcs = self._known[rows]  # before the values, which are written before it
        out = np.empty((len(rows), self.row_bytes), np.uint8)
        for first in range(0, len(rows), _MOST_ROWS):
            part = slice(first, first + _MOST_ROWS)
            np.take(self._values, rows[part], axis=0, out=out[part])
            for at in np.flatnonzero((crcs[part] != 0) & ~self._proven[rows[part]]) + first:
                if _crc(out[at]) == crcs[at]:
                    self._proven[rows[at]] = True
                else:
                    crcs[at] = 0
                    log.warning("%s: row %d is damaged and is made again", self.folder, rows[at])
        values = torch.from_numpy(out).view(self.dtype).view(len(rows), *self.shape)
        return values, crcs != 0

    def holds(self, rows: np.ndarray) -> bool:
        """Whether all of `rows (n,)` int64 are there and undamaged, so that `read` will give them.

        Raises:
            IndexError: a row number below 0 or too large.
        """
        self._check(rows)
        if not self._known[rows].all():
            return False
        unproven = rows[~self._proven[rows]]
        return not len(unproven) or bool(self.read(unproven)[1].all())

    def write(self, rows: np.ndarray, values: Tensor) -> None:
        """Keep `values (n, *shape)` of `rows (n,)`.

        Raises:
            IndexError: a row number below 0 or too large.
            ProjectError: values of another shape or type, or the disk is full.
        """
        self._check(rows)
        if values.shape[1:] != self.shape or values.dtype != self.dtype or len(values) != len(rows):
            raise ProjectError(
                f"{self.folder}: found values {tuple(values.shape)} {values.dtype} for {len(rows)} rows, expected "
                f"{self.shape} {self.dtype} each; a frozen part gave them in another form than at the start."
            )
        flat = (
            values.detach()
            .cpu()
            .contiguous()
            .flatten()
            .view(torch.uint8)
            .view(len(rows), self.row_bytes)
            .numpy()
        )
        try:
            # Not through the map: on a full disk that would end the process (SIGBUS) instead of telling.
            for row, value in zip(rows.tolist(), flat, strict=True):
                os.pwrite(self._open(_VALUES), value, row * self.row_bytes)
                os.pwrite(self._open(_KNOWN), np.uint32(_crc(value)).tobytes(), row * 4)
        except OSError as error:
            raise self._unwritable(error) from error
        self._proven[rows] = True

    def close(self) -> None:
        """Close the files; the store cannot be written any more."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def _open(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_WRONLY)
        return self._files[name]

    def _check(self, rows: np.ndarray) -> None:
        # A negative number would count from the end and give another frame's row.
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(self._known)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a store with {len(self._known)}")

    def _unwritable(self, error: OSError) -> ProjectError:
        return ProjectError(
            f"features.folder: {self.folder} cannot be written ({error.strerror or error}); free disk space, choose "
            "another folder, or features=null."
        )


def _crc(row: np.ndarray) -> int:
    return zlib.crc32(row.data) or 1
