"""Four small recorded drives, a loader over them and made-up truth of any size: what offline tests start from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from src.data.batch import Batch
from src.evaluation.offline import scores
from src.evaluation.offline.scores import Labels, Truth
from tests.deploy.standins import toy_policy

H = 3
LENGTHS = {"a": 9, "b": 6, "c": 7, "d": 5}
WORDS = {"a": "left of the box", "b": "right of the box", "c": "left of the box", "d": "to the ball"}
LABELS = {e: Labels(scenario="box" if e != "d" else "ball", group="g" + e) for e in LENGTHS}
_RNG = np.random.default_rng(0)
FRAMES = {e: _RNG.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for e, n in LENGTHS.items()}
ACTIONS = {e: _RNG.uniform(-1.15, 1.15, (n, 3)).astype(np.float32) for e, n in LENGTHS.items()}


class Loader:
    """One batch per two episodes; the second batch first, to show that order does not matter."""

    def __init__(self, policy: object) -> None:
        self.policy = policy

    def __iter__(self) -> Iterator[Batch]:
        for pair in (["c", "d"], ["a", "b"]):
            yield self.batch(pair)

    def batch(self, episodes: list[str]) -> Batch:
        ids, mask = self.policy.tokenize([WORDS[e] for e in episodes])  # type: ignore[attr-defined]
        frames = np.concatenate([FRAMES[e] for e in episodes])
        windows, actions, valid, keys, start = [], [], [], [], 0
        for e in episodes:
            for t in range(LENGTHS[e]):
                windows.append([start + s if s >= 0 else -1 for s in (t - 2, t - 1, t)])
                chunk = ACTIONS[e][t : t + H]
                actions.append(np.concatenate([chunk, np.zeros((H - len(chunk), 3), np.float32)]))
                valid.append([t + h < LENGTHS[e] for h in range(H)])
                keys.append((e, t))
            start += LENGTHS[e]
        lengths = torch.tensor([LENGTHS[e] for e in episodes])
        out = Batch(
            torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
            torch.repeat_interleave(torch.arange(len(episodes)), lengths),
            ids,
            mask,
            torch.tensor(windows),
            torch.from_numpy(np.array(actions)),
            torch.tensor(valid),
            keys,
        )
        out.validate()
        return out


def collected() -> tuple[Truth, np.ndarray]:
    """The four drives, and what a small policy with random weights predicts on them."""
    policy = toy_policy(window=3, horizon=H)
    return scores.collect(policy, Loader(policy), LABELS)


def recorded(episodes: list[np.ndarray], horizon: int = 1, groups: list[str] | None = None) -> Truth:
    """Truth of whole episodes, each (T, A) actions in SI units; sorted as `collect` sorts."""
    names = [f"e{i:03d}" for i in range(len(episodes))]
    actions, masks = [], []
    for episode in episodes:
        for t in range(len(episode)):
            chunk = episode[t : t + horizon]
            missing = horizon - len(chunk)
            actions.append(np.concatenate([chunk, np.zeros((missing, episode.shape[1]))]))
            masks.append([True] * len(chunk) + [False] * missing)
    lengths = [len(episode) for episode in episodes]
    return Truth(
        episode=np.repeat(names, lengths),
        t=np.concatenate([np.arange(n) for n in lengths]),
        actions=np.array(actions),
        mask=np.array(masks),
        group=np.repeat(names if groups is None else groups, lengths),
        scenario=np.repeat(["drive"] * len(episodes), lengths),
    )
