"""Owns which episode is for training, validation or test: decided once, written down, and checked ever after.

In: episodes with scenario and group, and a `SplitMethod`. Out: a `Split`, whose manifest lies beside the data, and
subsets of the training episodes that lie inside one another. The split is stratified by scenario and never cuts a
group. A data folder that changed since is an error, not a new split.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.core.errors import ProjectError
from src.core.files import exclusive
from src.data.episode import EpisodeFile
from src.data.groups import group_episodes
from src.data.manifest import few, read_manifest, table_hash, write_manifest
from src.data.split_rules import SPLITS as SPLITS
from src.data.split_rules import KFold as KFold
from src.data.split_rules import LeaveOneScenarioOut as LeaveOneScenarioOut
from src.data.split_rules import SplitMethod as SplitMethod
from src.data.split_rules import SplitRule as SplitRule
from src.data.split_rules import shuffle_key as shuffle_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A fixed split.

    Attributes:
        members: split name -> episode ids, sorted.
        data_hash: fingerprint of the episodes that the run has; split_hash: of who of them is in which split.
        groups: episode id -> final group: that of the file, joined where near-duplicates were found.
        notes: sentences about scenarios that are missing in a split, and about members that cannot be used.
    """

    members: dict[str, tuple[str, ...]]
    data_hash: str
    split_hash: str
    groups: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_or_make_split(
    episodes: Sequence[EpisodeFile], rule: SplitMethod, root: Path, left_out: Collection[Path] = ()
) -> Split:
    """The stored split of these episodes, or a new one, stored now; two runs that start together make one.

    Args:
        episodes: those that can be used.
        rule: data.split.
        root: data.root.
        left_out: files below `root` that cannot be used and that the run goes without. Where the stored split has
            them, it stays as it is, the others keep their parts, and the hashes are those of the others.

    Raises a ProjectError if the data changed since, if the manifest is of another rule or damaged, and if a split
    that the rule wants comes out empty (nothing is written then).
    """
    path = rule.file(root)
    if not path.exists():
        try:
            with exclusive(path):
                if not path.exists():
                    return _make(episodes, rule, root, path)
        except ProjectError as error:
            if ".lock " in str(error):
                raise ProjectError(
                    f"{error} The split goes beside it; data.split.path chooses another file."
                ) from error
            raise
    stored = read_manifest(path, root, episodes, rule, left_out)
    return _split(episodes, rule, path, stored.parts, stored.groups, stored.data_hash, stored.missing)


def take_episodes(
    episodes: Sequence[EpisodeFile],
    amount: int | float | None,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> list[EpisodeFile]:
    """A part of the training episodes, in their order. Smaller parts lie inside larger ones (same episodes and seed).

    The groups of each scenario are shuffled and spread evenly over one queue, whose head is taken: every scenario
    keeps its share to within one of its groups. Whole groups only: the result is short of the amount by less than
    the next group.

    Args:
        episodes: the training split.
        amount: a whole number of episodes, or a fraction as a float in (0, 1] (0.25; 1.0 is all, 1 is one episode),
            rounded down to whole episodes (a ProjectError if none is left); None takes all.
        seed: another seed gives another queue.
        groups: episode id -> final group, `Split.groups`; None takes the groups of the files.
    """
    if amount is None:
        return list(episodes)
    total = len(episodes)
    if isinstance(amount, bool) or not math.isfinite(amount):
        raise ProjectError(f"data.train_episodes is {amount}; expected a number of episodes or a fraction.")
    if isinstance(amount, float):
        if not 0 < amount <= 1:
            raise ProjectError(
                f"data.train_episodes is {amount:g}; a number with a point is a fraction above 0 up to 1.0 (all), "
                "a number of episodes has no point."
            )
        count = math.floor(amount * total + 1e-9)
        asked = f"{amount:g} ({count} of {total} episodes)"
    else:
        if not 1 <= amount <= total:
            raise ProjectError(
                f"data.train_episodes is {amount}, but the training split has 1 to {total} episodes; choose from these."
            )
        count, asked = amount, str(amount)
    of = {episode.id: episode.group if groups is None else groups[episode.id] for episode in episodes}
    queue = _queue([(episode.id, of[episode.id], episode.scenario) for episode in episodes], seed)
    chosen: set[str] = set()
    for group, size in queue:
        if size > count:
            break  # no smaller group jumps the queue: that would break the nesting
        chosen.add(group)
        count -= size
    if not chosen:
        size = queue[0][1]
        least = (
            f"the first group of {size} near-duplicate episodes, which is never cut"
            if size > 1
            else "one episode"
        )
        raise ProjectError(f"data.train_episodes is {asked}, smaller than {least}; ask for more.")
    return [episode for episode in episodes if of[episode.id] in chosen]


def _queue(rows: Sequence[tuple[str, str, str]], seed: int) -> list[tuple[str, int]]:
    """(group, episodes in it), in the order in which subsets take them.

    A group stands where its middle lies in its stratum, from 0 to 1. Sorting by that is Sainte-Laguë's way to divide
    seats: any head of the queue holds of each stratum its share, rounded to whole groups.
    """
    members: dict[str, list[str]] = {}
    for _, group, scenario in rows:
        members.setdefault(group, []).append(scenario)
    strata: dict[tuple[str, ...], list[str]] = {}
    for group, scenarios in members.items():
        strata.setdefault(tuple(sorted(set(scenarios))), []).append(group)
    places: list[tuple[float, str, str]] = []
    for names in strata.values():
        names.sort(key=lambda group: shuffle_key(seed, group))
        total, before = sum(len(members[group]) for group in names), 0
        for group in names:
            size = len(members[group])
            places.append(((before + size / 2) / total, shuffle_key(seed, group), group))
            before += size
    return [(group, len(members[group])) for _, _, group in sorted(places)]


def _make(episodes: Sequence[EpisodeFile], rule: SplitMethod, root: Path, path: Path) -> Split:
    grouping = group_episodes(episodes, rule.near_duplicates)
    if grouping.pairs:
        one, two, levels = grouping.pairs[0]
        log.info(
            "%d pairs of episodes are the same drive twice and stay together, e.g. %s and %s (%d levels apart); %s",
            len(grouping.pairs), one, two, levels, path,
        )  # fmt: skip
    parts = rule.parts([(e.id, grouping.groups[e.id], e.scenario) for e in episodes])
    _split(
        episodes, rule, path, parts, grouping.groups, ""
    )  # refuses an empty split before anything is written
    manifest = write_manifest(path, root, episodes, rule, grouping, parts)
    return _split(episodes, rule, path, parts, grouping.groups, manifest.data_hash)


def _split(
    episodes: Sequence[EpisodeFile],
    rule: SplitMethod,
    path: Path,
    parts: Mapping[str, str],
    groups: Mapping[str, str],
    data_hash: str,
    missing: Mapping[str, str] | None = None,
) -> Split:
    """`missing`: file -> part of the members of the stored split that the run goes without."""
    assignment = {i: rule.role(part) for i, part in parts.items()}
    members = {name: tuple(sorted(i for i, s in assignment.items() if s == name)) for name in SPLITS}
    wanted = {name for episode in episodes for name in rule.expected(episode.scenario)}
    for name in SPLITS:
        if name in wanted and not members[name]:
            raise ProjectError(
                f"{path}: the {name} split of {len(episodes)} episodes in {len(set(groups.values()))} groups came out "
                f"empty with {rule}{_without(missing, rule)}; record more episodes, raise its fraction, or see "
                "`pairs` and data.lab.group_by if too many episodes share a group."
            )
    notes = missing_scenarios(episodes, rule, assignment, groups)
    if missing:
        notes += (f"the stored split stays as it is, for this run{_without(missing, rule)}.",)
    if data_hash:
        for note in notes:
            log.warning("%s: %s", path, note)
    return Split(members, data_hash, table_hash(assignment), dict(groups), notes)


def _without(missing: Mapping[str, str] | None, rule: SplitMethod) -> str:
    """ " without 2 files that cannot be used: a.h5 (train), b.h5 (val)", or nothing."""
    if not missing:
        return ""
    files = [f"{file} ({rule.role(part)})" for file, part in sorted(missing.items())]
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f" without {count} that cannot be used: {few(files)}"


def missing_scenarios(
    episodes: Sequence[EpisodeFile],
    rule: SplitMethod,
    assignment: Mapping[str, str],
    groups: Mapping[str, str],
) -> tuple[str, ...]:
    """A sentence for every scenario that is missing in a split where the rule would put it, given enough groups."""
    notes = []
    for scenario in sorted({episode.scenario for episode in episodes}):
        own = [episode.id for episode in episodes if episode.scenario == scenario]
        present = {assignment[i] for i in own}
        missing = [name for name in rule.expected(scenario) if name not in present]
        if missing:
            count = len({groups[i] for i in own})
            notes.append(
                f"scenario {scenario!r} ({len(own)} episodes in {count} group{'s' if count != 1 else ''}) is not in "
                f"{' and '.join(missing)}; {rule.groups_needed(scenario)} groups of its own would put it everywhere."
            )
    return tuple(notes)
