"""Counterfactual pairs of the simulator: one scene, two instructions, two ways to drive; never torn apart by a split.

`data.source.twins=target|side|both` records them. With `data.source.noise=0` a pair begins with the very same frame.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.actions import ActionSpace
from src.data.episode import open_episode, write_episode
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SPLITS, SplitRule
from src.sim.recording import Settings, record
from src.sim.stage import CONTROL_PERIOD
from tests.data.builders import SPACE
from tests.data.modules import detokenize, make_module

PAIRS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs of `reach`, 16 px, no noise."""
    folder = tmp_path_factory.mktemp("twins")
    settings = Settings("reach", "train", 2 * PAIRS, 16, 0.0, 0, "en", "target")
    for slot in range(2 * PAIRS):
        episode, _ = record(settings, slot)
        assert episode is not None
        write_episode(folder / f"{episode.id}.h5", episode)
    return folder


def test_twins_show_the_same_and_are_told_to_do_otherwise(root: Path) -> None:
    files = [open_episode(path) for path in sorted(root.glob("*.h5"))]
    for one, two in zip(files[::2], files[1::2], strict=True):
        assert one.group == two.group
        assert one.id.rsplit("-", 1)[0] == two.id.rsplit("-", 1)[0]
        np.testing.assert_array_equal(one.frames(0, 1), two.frames(0, 1))
        assert not set(one.instructions) & set(two.instructions)
        assert np.abs(one.actions[0] - two.actions[0]).max() > 0.05
    assert len({file.group for file in files}) == PAIRS


def test_no_split_and_no_smaller_set_tears_twins_apart(root: Path) -> None:
    for seed in range(4):
        path = str(root / f"split-{seed}.json")
        module = make_module(
            root, action=_space(), normalizer=MinMaxNormalizer(), image_size=16, train_episodes=0.7,
            split=SplitRule(0.5, 0.25, 0.25, seed=seed, path=path),
        )  # fmt: skip
        module.setup()
        groups = [[episode.group for episode in module.episodes(name)] for name in SPLITS]
        assert all(part.count(group) == 2 for part in groups for group in part)
        assert not set(groups[0]) & set(groups[1])


def test_a_batch_holds_both_twins_each_with_its_own_words_and_actions(root: Path) -> None:
    module = make_module(
        root, action=_space(), image_size=16, sampler=EpisodeSampler(100), paraphrase="random",
        split=SplitRule(0.5, 0.25, 0.25, path=str(root / "split-batch.json")),
    )  # fmt: skip
    module.setup()
    loader = module.train_dataloader()
    episodes = {episode.id: episode for episode in module.episodes("train")}
    for epoch in range(3):
        loader.set_epoch(epoch)
        (batch,) = list(loader)
        first = {name: i for i, (name, t) in enumerate(batch.keys) if t == 0}
        assert set(first) == set(episodes)
        for name in episodes:
            if not name.endswith("-twin0"):
                continue
            pair = [first[name], first[name.replace("-twin0", "-twin1")]]
            rows = [int(batch.episode[batch.windows[i, -1]]) for i in pair]
            texts = [detokenize(batch.instruction_ids[row], batch.instruction_mask[row]) for row in rows]
            shown = [batch.frames[batch.windows[i, -1]] for i in pair]
            assert torch.equal(*shown)
            assert texts[0] != texts[1]
            assert not torch.equal(batch.actions[pair[0]], batch.actions[pair[1]])
            for i, text in zip(pair, texts, strict=True):
                assert text in episodes[batch.keys[i][0]].instructions


def _space() -> ActionSpace:
    return replace(SPACE, control_period=CONTROL_PERIOD)
