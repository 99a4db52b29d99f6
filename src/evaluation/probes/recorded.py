"""Owns the probes on recorded frames: one input is changed, the rest stays, and the prediction moves or does not.

In: batches of whole episodes, and what each episode says. Out: functions Batch -> Batch (words, pictures, history), and
figures of what they did to the predictions. Needs no simulator, so it works on any data set. Where a change makes
no sense for the data (one sentence for all, one frame of history), its maker returns None and never a near miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.data.actions import STOP_FRACTION, ActionSpace
from src.data.batch import PADDING, Batch
from src.data.mirror import mirror_text
from src.evaluation.offline.scores import Labels, Truth, by_group, frame_error, half_range
from src.evaluation.statistics import POSITIVE, Estimate, PairedTest, bootstrap_ratio, paired, wilson
from src.model.senses import BLANK

KINDS = (
    "other_instruction",
    "mirrored",
    "no_instruction",
    "no_image",
    "other_image",
    "last_frame",
    "shuffled_history",
)
DONORS = 8  # drives whose pictures replace those of the others; more would only cost memory

Change = Callable[[Batch], Batch]
Words = dict[str, str]
"""Episode id → what it is told instead."""
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]


# ---- words


def other_words(spoken: Mapping[str, Sequence[str]], labels: Mapping[str, Labels]) -> Words | None:
    """For each episode a recorded sentence of another meaning; None where all episodes say the same.

    A twin's words come first (the same layout, so they name what is there), else those half way round the sorted
    list of all sentences, because its neighbours differ in the last word alone.

    `spoken`: episode id → what the batches show, then its other wordings. `labels`: its group, which twins share.
    """
    pool = sorted({texts[0] for texts in spoken.values()})
    twins: dict[str, list[str]] = {}
    for episode in sorted(spoken):
        twins.setdefault(labels[episode].group, []).append(spoken[episode][0])
    out: Words = {}
    for episode, own in spoken.items():
        start = pool.index(own[0]) + len(pool) // 2
        ring = [pool[(start + step) % len(pool)] for step in range(len(pool))]
        other = next((text for text in (*twins[labels[episode].group], *ring) if text not in own), None)
        if other is None:
            return None
        out[episode] = other
    return out


def mirrored_words(spoken: Mapping[str, Sequence[str]]) -> Words | None:
    """Sentences with left and right exchanged, for the episodes that say a side and can be mirrored.

    None unless both sides are said somewhere: who was never told "right" cannot be blamed for not knowing the word.
    """
    out: Words = {}
    heard: set[str] = set()
    for episode, texts in spoken.items():
        try:
            other = mirror_text(texts[0])
        except ProjectError:  # left or right in another sense ("right now"): no twin, so not one of the n
            continue
        if other != texts[0]:
            out[episode] = other
            heard |= sides(texts[0])
    return out if len(heard) == 2 else None


def sides(text: str) -> set[str]:
    """The sides a sentence says: {"left"}, {"right"}, both, or none, also where the words mean no side."""
    try:
        pairs = list(zip(text.split(), mirror_text(text).split(), strict=True))
    except ProjectError:
        return set()
    said: set[str] = set()
    for word in (word.lower() for word, other in pairs if word != other):
        said |= {"left"} if any(sign in word for sign in ("left", "왼", "좌")) else set()
        said |= {"right"} if any(sign in word for sign in ("right", "오른", "우")) else set()
    return said


def say(words: Mapping[str, str], spoken: Mapping[str, Sequence[str]], tokenize: Tokenize) -> Change:
    """Each episode is told `words`, and its own sentence (the first of `spoken`) where `words` has none."""

    def change(batch: Batch) -> Batch:
        owner = batch.episode[batch.windows[:, -1]].tolist()  # the row of instructions each sample uses
        texts = [BLANK] * len(batch.instruction_ids)  # rows that no sample uses are never read
        for row, (episode, _) in zip(owner, batch.keys, strict=True):
            texts[row] = words.get(episode, spoken[episode][0])
        ids, mask = tokenize(texts)
        return replace(batch, instruction_ids=ids.cpu(), instruction_mask=mask.cpu(), origin=None)

    return change


# ---- pictures


def times(batch: Batch) -> tuple[list[str], Tensor]:
    """Of each of the N distinct frames: its episode's id, and its step t (N,) int64."""
    last = batch.windows.shape[1] - 1
    now = torch.tensor([t for _, t in batch.keys])
    step = torch.zeros(len(batch.frames), dtype=torch.int64)
    for place in range(last + 1):
        rows = batch.windows[:, place]
        step[rows[rows >= 0]] = (now - (last - place))[rows >= 0]
    owner = batch.episode[batch.windows[:, -1]].tolist()
    name = {row: episode for row, (episode, _) in zip(owner, batch.keys, strict=True)}
    return [name[row] for row in batch.episode.tolist()], step


def donors(loader: Iterable[Batch], labels: Mapping[str, Labels], count: int = DONORS) -> dict[str, Tensor]:
    """The pictures (T, 3, h, w) of the first `count` episodes of different groups, as the loader serves them."""
    out: dict[str, Tensor] = {}
    for batch in loader:
        names, step = times(batch)
        for episode in dict.fromkeys(names):
            if len(out) == count:
                return out
            if labels[episode].group not in {labels[other].group for other in out}:
                rows = torch.tensor([row for row, name in enumerate(names) if name == episode])
                out[episode] = batch.frames[rows[step[rows].argsort()]].clone()
    return out


def other_image(pictures: Mapping[str, Tensor], labels: Mapping[str, Labels]) -> Change | None:
    """Every episode shows the pictures of a drive of another group, at the same steps (its last one when it is over).

    `pictures`: see `donors`. None where all recordings are one group.
    """
    if len(pictures) < 2:
        return None
    names = list(pictures)

    def donor(episode: str) -> Tensor:
        start = crc32(episode.encode())
        ring = (names[(start + step) % len(names)] for step in range(len(names)))
        return pictures[next(n for n in ring if labels[n].group != labels[episode].group)]

    def change(batch: Batch) -> Batch:
        episodes, step = times(batch)
        shown = {episode: donor(episode) for episode in dict.fromkeys(episodes)}
        frames = [shown[e][min(t, len(shown[e]) - 1)] for e, t in zip(episodes, step.tolist(), strict=True)]
        return replace(batch, frames=torch.stack(frames), origin=None)

    return change


# ---- history


def last_frame(batch: Batch) -> Batch:
    """Only the newest frame of each window is left; the places before it are padding, as at the start of a drive."""
    windows = torch.full_like(batch.windows, PADDING)
    windows[:, -1] = batch.windows[:, -1]
    return replace(batch, windows=windows)


def shuffled_history(seed: int = 0) -> Change:
    """The frames before the newest one change places wherever there are two of them; the newest one stays."""

    def change(batch: Batch) -> Batch:
        windows = batch.windows.clone()
        for row, (episode, t) in enumerate(batch.keys):
            places = np.flatnonzero(windows[row, :-1].numpy() >= 0)
            if len(places) < 2:
                continue
            rng = np.random.default_rng([seed, crc32(episode.encode()), t])
            order = rng.permutation(len(places))
            if (order == np.arange(len(places))).all():
                order = np.roll(order, 1)
            windows[row, places] = batch.windows[row, places[order]]
        return replace(batch, windows=windows)

    return change


# ---- figures


def action_figures(
    before: np.ndarray,
    after: np.ndarray,
    truth: Truth,
    space: ActionSpace,
    seed: int = 0,
    episodes: Iterable[str] | None = None,
) -> dict[str, Estimate | PairedTest]:
    """`before`, `after` (S, H, A) SI, the predictions with the true and with the altered input.

    `change`: mean absolute change of the executed action, as a share of each axis's half range. `error_rise`: how
    much farther from the recording the altered prediction is, paired by group. `episodes`: those that were altered
    (default: all); the others do not count.
    """
    if episodes is not None:
        rows = np.isin(truth.episode, list(episodes))
        before, after = before[rows], after[rows]
        truth = Truth(**{f.name: getattr(truth, f.name)[rows] for f in fields(truth)})
    moved = np.mean(np.abs(after[:, 0] - before[:, 0]) / half_range(space), axis=1)
    groups, index = np.unique(truth.group, return_inverse=True)
    counts = np.bincount(index, minlength=len(groups)).astype(np.float64)
    rise = paired(
        by_group(frame_error(after, truth, space), truth.group),
        by_group(frame_error(before, truth, space), truth.group),
        seed,
        measured=True,
    )
    change = bootstrap_ratio(np.bincount(index, weights=moved), counts, seed, bounds=POSITIVE)
    return {"change": change, "error_rise": rise}


def sideways_axis(truth: Truth, space: ActionSpace) -> str | None:
    """The axis that takes this base to a side: `linear_y` where recordings use it, else `angular_z`, else None.

    An axis counts as used where it ever leaves the dead zone of the stop class. The sum over an episode is then its
    lateral displacement (m), or its turn (rad), per control period. Body frame on purpose: predictions on recorded
    frames never see their own consequences, so a path integrated from them curls up and its side means nothing.
    """
    used = np.abs(truth.actions[:, 0] / space.scale).max(axis=0) >= STOP_FRACTION
    return next(
        (a for a in ("linear_y", "angular_z") if a in space.names and used[space.names.index(a)]), None
    )


def flip_figure(
    before: np.ndarray,
    after: np.ndarray,
    truth: Truth,
    space: ActionSpace,
    words: Mapping[str, str],
    spoken: Mapping[str, Sequence[str]],
    dead_band: float,
) -> Estimate | None:
    """Share of episodes whose motion moves to the side that the new words say; n = episodes, Wilson.

    Only episodes told one side instead of the other take part: "left of the first box, right of the second" demands
    no net shift. An episode counts if the shift, averaged over its frames, is larger than `dead_band` of the half
    range. None where no axis goes sideways. `before`, `after` (S, H, A) SI.
    """
    axis = sideways_axis(truth, space)
    if axis is None:
        return None
    a = space.names.index(axis)
    shift = (after[:, 0, a] - before[:, 0, a]) / half_range(space)[a]  # > 0: more to the left (REP-103)
    hits = []
    for episode, text in words.items():
        was, now = sides(spoken[episode][0]), sides(text)
        if len(was) == len(now) == 1 and was != now:
            moved = float(shift[truth.episode == episode].mean())
            hits.append((moved if now == {"left"} else -moved) > dead_band)
    return wilson(sum(hits), len(hits))


def flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """The change of each probe as plain numbers, for curves."""
    return {kind: float(f["change"].value) for kind, f in figures.items() if f["change"].value is not None}
