"""Packing: against a slow reference built from the episodes themselves, and equal for every sampler."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.assemble import BatchAssembler, InstructionTable
from src.data.augment import Augmentation, augmented
from src.data.batch import Batch
from src.data.episode import Episode, open_episode, write_episode
from src.data.frames import FrameStore
from src.data.sampler import EpisodeSampler, Plan, PlanSampler, Sampler, WindowSampler
from tests.data.builders import make_episode
from tests.data.modules import detokenize, tokenize

LENGTHS = (5, 1, 9, 4, 7)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("episodes")
    made = [make_episode(f"e{i}", length) for i, length in enumerate(LENGTHS)]
    for episode in made:
        write_episode(root / f"{episode.id}.h5", episode)
    return {"root": root, "memory": made, "files": [open_episode(root / f"{e.id}.h5") for e in made]}


def assembler(
    episodes: dict[str, Any], window: int, horizon: int, paraphrase: str = "first", seed: int = 0
) -> BatchAssembler:
    files = episodes["files"]
    store = FrameStore(files, 8, Path(episodes["root"]) / "cache", 1.0)
    table = InstructionTable(tokenize, [text for file in files for text in file.instructions])
    return BatchAssembler(files, store, table, window, horizon, paraphrase, seed)


def test_frames_that_nobody_will_look_at_are_not_read(episodes: dict[str, Any]) -> None:
    """All of a batch or none: `kept` hears which frames it is about, and a copy for a worker reads everything."""
    plan = Plan(0, np.array([0, 0, 2]), np.array([2, 3, 8]))
    plain = assembler(episodes, 2, 3)
    plain.first_frames = plain.offsets
    whole, asked = plain[plan], []
    for answer in (False, True):

        def kept(origin: Any, answer: bool = answer) -> bool:
            asked.append(origin)
            return answer

        plain.kept = kept
        batch = plain[plan]
        batch.validate()
        assert batch.frames.shape[2:].numel() == (0 if answer else 64)
        assert torch.equal(asked[-1], whole.origin) and torch.equal(batch.origin, whole.origin)
        for name in ("episode", "instruction_ids", "windows", "actions", "action_mask"):
            assert torch.equal(getattr(batch, name), getattr(whole, name))
    sent = copy.copy(plain)
    assert torch.equal(sent[plan].frames, whole.frames)


def unpack(batch: Batch) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Each sample as a model sees it: padded frames, mask, text, actions, mask."""
    batch.validate()
    samples = {}
    for i, key in enumerate(batch.keys):
        mask = batch.window_mask[i]
        pixels = batch.frames[batch.windows[i].clamp(min=0)] * mask[:, None, None, None]
        row = batch.episode[batch.windows[i, -1]]
        text = detokenize(batch.instruction_ids[row], batch.instruction_mask[row])
        assert key not in samples
        samples[key] = (
            pixels.numpy().tobytes(), mask.tolist(), text,
            batch.actions[i].numpy().tobytes(), batch.action_mask[i].tolist(),
        )  # fmt: skip
    return samples


def reference(made: list[Episode], window: int, horizon: int) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Straight from the definition of a sample, with no packing."""
    samples = {}
    for episode in made:
        for t in range(len(episode.frames)):
            pixels = np.zeros((window, 3, 8, 8), np.uint8)
            seen = [False] * window
            for back in range(window):
                if t - back >= 0:
                    pixels[window - 1 - back] = episode.frames[t - back].transpose(2, 0, 1)
                    seen[window - 1 - back] = True
            actions = np.zeros((horizon, 3), np.float32)
            valid = [t + k < len(episode.frames) for k in range(horizon)]
            for k in range(horizon):
                if valid[k]:
                    actions[k] = episode.actions[t + k]
            samples[(episode.id, t)] = (
                pixels.tobytes(),
                seen,
                episode.instructions[0],
                actions.tobytes(),
                valid,
            )
    return samples


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.integers(1, 11),
    horizon=st.integers(1, 12),
    rule=st.one_of(
        st.builds(EpisodeSampler, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 6))),
        st.builds(WindowSampler, st.integers(1, 30)),
    ),
    seed=st.integers(0, 3),
)
def test_every_sampler_gives_exactly_the_samples_of_the_definition(
    episodes: dict[str, Any], window: int, horizon: int, rule: Sampler, seed: int
) -> None:
    assemble = assembler(episodes, window, horizon)
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for plan in PlanSampler(rule, LENGTHS, seed):
        samples = unpack(assemble[plan])
        assert not samples.keys() & found.keys()
        found |= samples
    assert found == reference(episodes["memory"], window, horizon)


@pytest.mark.parametrize("rule", [EpisodeSampler(3), EpisodeSampler(4, 3), WindowSampler(13)])
def test_frames_are_distinct_and_all_needed(episodes: dict[str, Any], rule: Sampler) -> None:
    assemble = assembler(episodes, window=4, horizon=2)
    for plan in PlanSampler(rule, LENGTHS, 0):
        batch = assemble[plan]
        images = {frame.numpy().tobytes() for frame in batch.frames}
        assert len(images) == len(batch.frames)  # random frames differ, so equal bytes would be a duplicate
        assert set(batch.windows[batch.windows >= 0].tolist()) == set(range(len(batch.frames)))
        texts = {tuple(row) for row in batch.instruction_ids.tolist()}
        assert len(texts) == len(batch.instruction_ids) == len(set(plan.rows))


def test_a_segment_brings_its_history_but_not_its_samples(episodes: dict[str, Any]) -> None:
    batch = assembler(episodes, window=4, horizon=2)[Plan(0, np.array([2, 2]), np.array([5, 6]))]
    assert batch.keys == [("e2", 5), ("e2", 6)]
    assert len(batch.frames) == 5  # 2, 3, 4 as history, then 5 and 6
    assert batch.windows.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]


def test_frames_and_work_are_shared(episodes: dict[str, Any]) -> None:
    """The point of the packing: whole episodes need each frame once, whatever the window."""
    assemble = assembler(episodes, window=8, horizon=2)
    whole = sum(len(assemble[plan].frames) for plan in PlanSampler(EpisodeSampler(2), LENGTHS, 0))
    single = sum(len(assemble[plan].frames) for plan in PlanSampler(WindowSampler(1), LENGTHS, 0))
    assert whole == sum(LENGTHS)
    assert single == sum(min(t + 1, 8) for length in LENGTHS for t in range(length))


def test_horizon_beyond_every_episode_is_masked(episodes: dict[str, Any]) -> None:
    batch = assembler(episodes, window=2, horizon=50)[Plan(0, np.array([1, 0]), np.array([0, 4]))]
    batch.validate()
    assert batch.action_mask.sum(dim=1).tolist() == [1, 1]
    assert not batch.actions[~batch.action_mask].any()


def test_wording_is_canonical_or_another_each_epoch(episodes: dict[str, Any]) -> None:
    first = assembler(episodes, 2, 2, "first")
    random = assembler(episodes, 2, 2, "random")
    texts = episodes["memory"][2].instructions
    assert {first.instruction(2, epoch) for epoch in range(20)} == {texts[0]}
    drawn = [random.instruction(2, epoch) for epoch in range(60)]
    assert {drawn.count(text) > 5 for text in texts} == {True}
    assert drawn == [assembler(episodes, 2, 2, "random").instruction(2, epoch) for epoch in range(60)]
    assert drawn != [assembler(episodes, 2, 2, "random", seed=1).instruction(2, epoch) for epoch in range(60)]
    for epoch in range(5):
        batch = random[Plan(epoch, np.array([2, 3]), np.array([1, 1]))]
        found = [detokenize(i, m) for i, m in zip(batch.instruction_ids, batch.instruction_mask, strict=True)]
        assert found == [random.instruction(2, epoch), random.instruction(3, epoch)]


def test_given_phrasings_replace_those_of_the_files(episodes: dict[str, Any]) -> None:
    files = episodes["files"]
    words = [(f"no {i}", f"number {i}") for i in range(len(files))]
    table = InstructionTable(tokenize, [text for pair in words for text in pair])
    store = FrameStore(files, 8, Path(episodes["root"]) / "cache", 1.0)
    made = BatchAssembler(files, store, table, 2, 2, "random", 0, words)
    assert {made.instruction(3, epoch) for epoch in range(20)} == set(words[3])


@pytest.mark.parametrize("rule", [EpisodeSampler(2), EpisodeSampler(4, 3), WindowSampler(9)])
def test_augmented_samples_are_the_same_for_every_sampler(episodes: dict[str, Any], rule: Sampler) -> None:
    """A draw belongs to an episode and an epoch, so how samples are packed, and how often a frame comes, is nothing."""
    files = episodes["files"]
    store = FrameStore(files, 8, Path(episodes["root"]) / "cache", 1.0)
    texts = [text for file in files for text in file.instructions]
    change = Augmentation(0.3, 0.3, 0.3, 0.7, 2, 0.5)
    signs = np.float32([1, -1, -1])
    made = BatchAssembler(
        files, store, InstructionTable(tokenize, texts), 4, 2, "random", 5, None, change, signs
    )
    found: dict[tuple[str, int], Any] = {}
    for rows, steps in rule.batches(LENGTHS, np.random.default_rng(0)):
        pending = made[Plan(3, rows, steps)]
        batch = augmented(pending)
        assert len(batch.frames) == len(pending.frames) == len(set(map(bytes, pending.frames.numpy())))
        found |= unpack(batch)
    everything = made[
        Plan(3, np.repeat(np.arange(5), LENGTHS), np.concatenate([np.arange(n) for n in LENGTHS]))
    ]
    assert everything.mirrored is not None
    assert everything.mirrored.any()
    assert not everything.mirrored.all()
    assert found == unpack(augmented(everything))
    assert found != unpack(augmented(made[Plan(4, *rule.batches(LENGTHS, None)[0])]))


def test_instructions_are_tokenised_once_and_trimmed() -> None:
    asked: list[str] = []

    def counting(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        asked.extend(texts)
        return tokenize(texts)

    table = InstructionTable(counting, ["abc", "a", "abc", "abcdef"])
    for _ in range(3):
        ids, mask = table.rows(["a", "abc"])
    assert sorted(asked) == ["a", "abc", "abcdef"]
    assert ids.tolist() == [[97, 1, 1], [97, 98, 99]]  # padded with the tokeniser's own padding
    assert mask.tolist() == [[True, False, False], [True] * 3]


def test_a_left_padding_tokeniser_is_refused() -> None:
    def left(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = tokenize(texts)
        return ids.flip(1), mask.flip(1)

    with pytest.raises(ProjectError, match="padded on the right only"):
        InstructionTable(left, ["a", "abc"])
