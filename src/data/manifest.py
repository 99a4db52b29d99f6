"""Owns the manifest of a split: a JSON file that says what the data were and who was put where, and its check.

In: episodes, their final groups and parts. Out: the file, or the parts and groups it holds, once the episodes in the
folder are shown to be those it was made for.

What of an episode is compared: id, scenario, group of the file, length, frame shape and the *recording*, a SHA-256
over the stored bytes of every numeric dataset (frames, actions, time stamps, poses). Sentences are no recorded fact:
an ablation of the wording keeps its split. Hashing 25 MB takes 0.1 s (10 GB: 40 s), so it is done again only for files
whose size or modification time differ from those noted; copying a folder costs one more pass, not a new split.
"""

import hashlib
import json
import logging
import os
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.data.episode import EpisodeFile
from src.data.groups import Grouping
from src.data.progress import track
from src.data.split_rules import SplitMethod

log = logging.getLogger(__name__)

FORMAT = "mobile-vla-split/2"
_OLD_FORMAT = "mobile-vla-split/1"
"""Without the recordings' hashes and the final groups, so nothing can show that the data are still the same."""
_BLOCK = 1 << 22
"""Bytes hashed at a time (4 MiB), so that a large chunk does not have to fit into memory."""


@dataclass(frozen=True)
class Manifest:
    """What the file holds.

    Attributes:
        parts: episode id -> part, see SplitMethod.
        groups: episode id -> final group.
        data_hash: fingerprint of all these episodes.
        missing: file -> part of the episodes that stand in the file, but not here: they cannot be used at present.
    """

    parts: dict[str, str]
    groups: dict[str, str]
    data_hash: str
    missing: dict[str, str] = field(default_factory=dict)


def write_manifest(
    path: Path,
    root: Path,
    episodes: Sequence[EpisodeFile],
    rule: SplitMethod,
    grouping: Grouping,
    parts: Mapping[str, str],
) -> Manifest:
    """Fingerprint the episodes below `root` and write the manifest atomically. A ProjectError names data.split.path."""
    rows = []
    for episode in track(sorted(episodes, key=lambda episode: episode.id), "fingerprints of the episodes"):
        size, mtime_ns = _stamp(episode.path)
        rows.append(
            {
                **_labels(episode),
                "part": parts[episode.id],
                "group": grouping.groups[episode.id],
                "file": _name(episode.path, root),
                "recording": recording_hash(episode.path),
                "size": size,
                "mtime_ns": mtime_ns,
            }
        )
    counts: dict[str, Counter[str]] = {name: Counter() for name in rule.part_names()}
    for row in rows:
        counts[row["part"]][row["scenario"]] += 1
    hashes = _hashes(rows)
    content: dict[str, Any] = {
        "format": FORMAT,
        "rule": rule.facts,
        "near_duplicates": rule.near_duplicates,
        "grouping": grouping.explanation,
        "pairs": [{"episodes": [one, two], "levels": levels} for one, two, levels in grouping.pairs],
        **hashes,
        "counts": {part: dict(sorted(found.items())) for part, found in counts.items()},
        "episodes": rows,
    }
    _write(path, content)
    return Manifest(dict(parts), dict(grouping.groups), hashes["data_hash"])


def read_manifest(
    path: Path,
    root: Path,
    episodes: Sequence[EpisodeFile],
    rule: SplitMethod,
    left_out: Collection[Path] = (),
) -> Manifest:
    """The stored parts and groups. Raises a ProjectError if the file is broken, of another rule or of other data.

    An episode that is stored and whose file is in `left_out` (there, but of no use) is `missing`, not removed: parts,
    groups and hash are those of the others.
    """
    content = _load(path)
    rows: list[dict[str, Any]] = content["episodes"]
    made_with = {**content["rule"], "near_duplicates": content["near_duplicates"]}
    asked = {**rule.facts, "near_duplicates": rule.near_duplicates}
    if made_with != asked:
        raise ProjectError(
            f"{path} was made with {_words(made_with)}, data.split asks for {_words(asked)}; set them alike, or give "
            "another data.split.path."
        )
    strange = sorted({row["part"] for row in rows} - set(rule.part_names()))
    if strange:
        raise ProjectError(
            f"{path} has the parts {strange}, expected {list(rule.part_names())}; restore it or delete it."
        )
    there = {
        _name(file, root) for file in left_out if os.path.exists(file)
    }  # a dangling link is a removed file
    spoiled = there - {_name(episode.path, root) for episode in episodes}
    present = {episode.id for episode in episodes}
    missing = {
        row["file"]: row["part"] for row in rows if row["file"] in spoiled and row["id"] not in present
    }
    rows = [row for row in rows if row["file"] not in missing]
    stale = _compare(path, root, episodes, {row["id"]: row for row in rows})
    if stale:
        _refresh(path, root, content, stale)
    return Manifest(
        {row["id"]: row["part"] for row in rows},
        {row["id"]: row["group"] for row in rows},
        _hashes(rows)["data_hash"] if missing else content["data_hash"],
        missing,
    )


def recording_hash(path: Path) -> str:
    """SHA-256 over the names, types, shapes and stored (still compressed) bytes of all numeric datasets of a file.

    A file without any is hashed as a whole. Raises a ProjectError where the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with h5py.File(path, "r") as file, path.open("rb") as stream:
            numeric = _numeric_datasets(file)
            for name in sorted(numeric):
                dataset = numeric[name]
                digest.update(repr((name, dataset.shape, dataset.dtype.str)).encode())
                if dataset.dtype.kind == "O":  # values of variable length, such as JPEG files
                    for value in np.ravel(dataset[()]):
                        digest.update(repr((value.shape, value.dtype.str)).encode() + value.tobytes())
                    continue
                pieces = _pieces(dataset)
                if pieces is None:
                    digest.update(np.ascontiguousarray(dataset[()]).tobytes())
                    continue
                for place, start, size in pieces:
                    digest.update(repr((place, size)).encode())
                    _hash_range(digest, stream.fileno(), start, size)
            if not numeric:
                _hash_range(digest, stream.fileno(), 0, path.stat().st_size)
    except (OSError, RuntimeError) as error:
        raise ProjectError(
            f"{path} cannot be read to the end ({' '.join(str(error).split())}); copy it again or move it away."
        ) from error
    return digest.hexdigest()


def _numeric_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        base = h5py.check_vlen_dtype(
            node.dtype
        )  # None, or the type of values of variable length; text has str
        if node.dtype.kind in "biuf" or (isinstance(base, np.dtype) and base.kind in "biuf"):
            found[name] = node

    file.visititems(visit)
    return found


def _pieces(dataset: h5py.Dataset) -> list[tuple[tuple[int, ...], int, int]] | None:
    """(place in the array, first byte in the file, bytes), in order; None where the data lie in the header."""
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        return None if start is None else [((0,), int(start), int(dataset.id.get_storage_size()))]
    chunks: list[tuple[tuple[int, ...], int, int]] = []
    dataset.id.chunk_iter(lambda info: chunks.append((info.chunk_offset, info.byte_offset, info.size)))
    return sorted(chunks)


def _hash_range(digest: Any, handle: int, start: int, size: int) -> None:
    while size > 0:
        block = os.pread(handle, min(size, _BLOCK), start)
        if not block:
            raise OSError("the file ends before its data")
        digest.update(block)
        start, size = start + len(block), size - len(block)


def _labels(episode: EpisodeFile) -> dict[str, Any]:
    """What is compared without reading frames."""
    return {
        "id": episode.id,
        "scenario": episode.scenario,
        "file_group": episode.group,
        "length": episode.length,
        "frame_shape": list(episode.frame_shape),
    }


def _compare(
    path: Path, root: Path, episodes: Sequence[EpisodeFile], old: Mapping[str, Mapping[str, Any]]
) -> list[EpisodeFile]:
    """The episodes whose file is another one with the same content; a ProjectError if any content differs."""
    now = {episode.id: episode for episode in episodes}
    touched = [e for i, e in now.items() if i in old and _stamp(e.path) != _noted_stamp(old[i])]
    recordings = {e.id: recording_hash(e.path) for e in track(touched, "fingerprints of touched episodes")}
    changed = {}
    for i in sorted(now.keys() & old.keys()):
        different = [
            f"{key} {found}, was {old[i][key]}"
            for key, found in _labels(now[i]).items()
            if found != old[i][key]
        ]
        if recordings.get(i, old[i]["recording"]) != old[i]["recording"]:
            different.append("frames, actions or other recorded values")
        if different:
            changed[i] = f"{_name(now[i].path, root)}: {'; '.join(different)}"
    kinds = (
        ("added", [_name(now[i].path, root) for i in sorted(now.keys() - old.keys())]),
        ("removed", [old[i]["file"] for i in sorted(old.keys() - now.keys())]),
        ("changed", [changed[i] for i in sorted(changed)]),
    )
    differences = "; ".join(f"{len(files)} {word} ({few(files)})" for word, files in kinds if files)
    if differences:
        raise ProjectError(
            f"{path} does not fit the data folder {root} any more: {differences}; restore the episodes, or delete the "
            "file to split anew (results before and after are then not comparable)."
        )
    return touched


def _refresh(path: Path, root: Path, content: dict[str, Any], touched: Sequence[EpisodeFile]) -> None:
    """Note the new sizes and times of files whose content is the same, so that the next run need not hash them."""
    rows = {row["id"]: row for row in content["episodes"]}
    for episode in touched:
        size, mtime_ns = _stamp(episode.path)
        rows[episode.id].update(file=_name(episode.path, root), size=size, mtime_ns=mtime_ns)
    try:
        atomic_write_json(path, content)
    except ProjectError as error:  # a shared folder may be read-only; the next run hashes once more
        log.info(
            "%d files were copied or touched, their content is the same (not noted: %s)", len(rows), error
        )


def _load(path: Path) -> dict[str, Any]:
    fix = "restore it, or delete it to split anew"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == _OLD_FORMAT:
            fix = (
                f"delete it to split anew, `rm {shlex.quote(str(path))}`; the episodes stay (results before and after "
                "are then not comparable)"
            )
            raise ValueError(f"format {_OLD_FORMAT!r} of an earlier version, expected {FORMAT!r}")
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
        found = _hashes(content["episodes"])
        for name, value in found.items():
            if value != content[name]:
                raise ValueError(f"its episodes do not fit its {name}: was it edited by hand?")
        for key in ("rule", "near_duplicates"):
            content[key]
        for row in content["episodes"]:
            if not (isinstance(row["file"], str) and all(isinstance(n, int) for n in _noted_stamp(row))):
                raise ValueError(f"episode {row['id']} has no file, size and mtime_ns")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{path} is no readable split file ({error}); {fix}.") from error
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        atomic_write_json(path, content)
    except ProjectError as error:
        raise ProjectError(f"{error} The split goes there; data.split.path chooses another file.") from error


def _hashes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    labels = ("scenario", "file_group", "length", "frame_shape", "recording")
    return {
        "data_hash": table_hash({row["id"]: [row[key] for key in labels] for row in rows}),
        "split_hash": table_hash({row["id"]: row["part"] for row in rows}),
        "group_hash": table_hash({row["id"]: row["group"] for row in rows}),
    }


def table_hash(table: Mapping[str, Any]) -> str:
    """A fingerprint (16 hex digits) of a table of plain JSON values, whatever its order."""
    return hashlib.sha256(json.dumps(sorted(table.items())).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be read ({error.strerror}), it was there a moment ago; check the folder."
        ) from error
    return stat.st_size, stat.st_mtime_ns


def _noted_stamp(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["size"], row["mtime_ns"]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _words(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
    )


def few(names: Sequence[str]) -> str:
    """The first five names, and dots if there are more."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
