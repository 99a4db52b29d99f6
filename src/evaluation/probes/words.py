"""Owns the question which word moves the action: each word of a sentence is left out in turn.

In: recorded episodes and their sentences. Out: per sentence a row of (word, change), to be shown as a coloured strip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.evaluation.probes.pieces import executed, moved, of_episode, spread
from src.evaluation.statistics import bootstrap_ratio
from src.model.policy import Policy
from src.model.senses import BLANK


def chosen(spoken: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Up to `count` episodes with different sentences, spread evenly over the sorted sentences."""
    first: dict[str, str] = {}
    for episode in sorted(spoken):
        first.setdefault(spoken[episode][0], episode)
    return [first[text] for text in spread(sorted(first), count)]


def strips(
    policy: Policy,
    loader: Iterable[Batch],
    spoken: Mapping[str, Sequence[str]],
    episodes: Sequence[str],
    space: ActionSpace,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per episode: `instruction`, `episode`, and `words`, a list of {word, change}.

    `change` is an `Estimate` without an interval (one episode): the mean absolute change of the executed action over
    the episode's frames when the word is left out, as a share of each axis's half range. The last word of a sentence
    of one word leaves a full stop. Stops reading `loader` when all `episodes` are found.
    """
    wanted, out = set(episodes), {}
    for batch in loader:
        for episode in sorted(wanted & {name for name, _ in batch.keys}):
            wanted.discard(episode)
            out[episode] = {
                "instruction": spoken[episode][0],
                "episode": episode,
                "words": _strip(policy, of_episode(batch, episode), spoken[episode][0], space, seed),
            }
        if not wanted:
            break
    return [out[episode] for episode in episodes]


def _strip(policy: Policy, batch: Batch, text: str, space: ActionSpace, seed: int) -> list[dict[str, Any]]:
    words = text.split()
    before = executed(policy, batch, seed)
    out = []
    for place, word in enumerate(words):
        ids, mask = policy.tokenize([" ".join(words[:place] + words[place + 1 :]) or BLANK])
        told = replace(batch, instruction_ids=ids.cpu(), instruction_mask=mask.cpu(), origin=None)
        after = executed(policy, told, seed)
        change = moved(before, after, space)
        total, frames = np.array([change.sum()]), np.array([len(change)])
        out.append({"word": word, "change": bootstrap_ratio(total, frames, seed)})
    return out
