"""Owns which episodes of a folder a run can use: opened, with a sentence, and with frames that can be decoded.

In: the folder and how to read it. Out: the episodes, the files that had to be left out, and the state that each file
was in when its actions were read. All of it is settled before the split and the normaliser see an episode, so what is
left out is left out of everything. Frames are decoded here once, into the cache (see frames.py).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import ProjectError
from src.data import scan
from src.data.actions import ActionSpace
from src.data.check.files import unusable_files
from src.data.check.finding import Facts, Fault, Finding, refuse, run_checkers
from src.data.check.instructions import with_sentences
from src.data.check.quick import usable
from src.data.episode import EpisodeFile
from src.data.frame_cache import file_state
from src.data.frames import DamagedFrames, FrameStore
from src.data.instruction import InstructionSource
from src.data.layouts import LabOptions
from src.data.memo import LastFolder, states_of
from src.data.whole_files import State

log = logging.getLogger(__name__)

_opened: LastFolder[tuple[list[EpisodeFile], list[Finding]]] = LastFolder()
"""Opening 800 files takes 3 s of CPU, which every run of a sweep over one folder would pay again."""


@dataclass(frozen=True)
class Intake:
    """What a run has to work with.

    Attributes:
        episodes: those it can use, sorted by id.
        left_out: the files it cannot use -> why, sorted; empty unless they may be skipped.
        states: path of an episode -> size (bytes) and modification time (ns) when it was opened.
    """

    episodes: list[EpisodeFile]
    left_out: dict[Path, str]
    states: dict[Path, State]


def take_in(
    root: Path,
    space: ActionSpace,
    lab: LabOptions | None,
    instruction: InstructionSource,
    image_size: int,
    cache_dir: Path,
    skip: bool,
    allow_mixed_sizes: bool = False,
) -> Intake:
    """Open every episode below `root` and decode what no run has decoded yet (720p gzip: 0.3 s each, with a bar).

    Args:
        root: data.root.
        space: data.action.
        lab: data.lab.
        instruction: data.instruction.
        image_size: side of the frames in a batch, in pixels.
        cache_dir: folder of the resized frames.
        skip: leave out what cannot be used, instead of raising a ProjectError about the first of it.
        allow_mixed_sizes: data.allow_mixed_sizes.
    """

    told_files = False

    def read() -> tuple[list[EpisodeFile], list[Finding]]:
        nonlocal told_files
        told_files = True
        if skip:
            return usable(root, space, lab, allow_mixed_sizes)
        return scan.opened(root, space, lab, allow_mixed_sizes), []

    how = (root.absolute(), space, lab, allow_mixed_sizes, skip)
    opened, findings = _opened.get(how, lambda: states_of(scan.find_episodes(root, quiet=True)), read)
    if not told_files:
        scan.find_episodes(root)  # what every run is to hear about the folder, once
    if not skip:
        scan.tell(opened)
    states = {episode.path: file_state(episode.path) for episode in opened}
    told, silent = with_sentences(opened, instruction)
    if not skip or not told:
        refuse(silent, root)
    store = FrameStore(told, image_size, cache_dir, 0, [states[episode.path] for episode in told])
    damaged: dict[int, DamagedFrames] = {}
    try:
        store.prepare(damaged if skip else None)
    except DamagedFrames as error:
        raise ProjectError(f"{error} Or leave such files out with data.on_bad_files=skip.") from error
    faults = [Fault(told[row].path, "damaged_frames", str(error)) for row, error in sorted(damaged.items())]
    found = [episode for row, episode in enumerate(told) if row not in damaged]
    spoiled = run_checkers(Facts(root, space, found, faults), (unusable_files,))
    if not found:
        refuse(spoiled, root)
    left_out = [*findings, *silent, *spoiled]
    why = {path: sentence for finding in left_out for path, sentence in finding.by_file().items()}
    for path, sentence in sorted(why.items()):
        log.warning("left out: %s: %s", path, sentence)
    return Intake(found, dict(sorted(why.items())), {episode.path: states[episode.path] for episode in found})
