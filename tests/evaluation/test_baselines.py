"""Opponents: what they remember, that they cheat nowhere, and the section that says who is not beaten."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.augment import Augmentation
from src.data.datamodule import EpisodeDataModule
from src.evaluation.baselines import features as looking
from src.evaluation.baselines.features import FrozenFeatures, Neighbours, without_adapters
from src.evaluation.baselines.nearest import Memory, Nearest, encode, pieces
from src.evaluation.baselines.part import NAMES, Baselines, corrected, not_beaten, too_few
from src.evaluation.driving.closed_loop import Suite, drive
from src.evaluation.statistics import Estimate, PairedTest, paired
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.heads.lstm import LSTMHead
from src.model.history import PerFrame
from src.model.lora import LoraPlacement
from src.model.policy import Policy
from src.model.senses import Senses
from src.sim import sample_task
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.benches import demonstrations, small_bench

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return demonstrations(tmp_path_factory.mktemp("data"))


def memory_of(data: EpisodeDataModule, policy: Any = None) -> Memory:
    return Memory(FrozenFeatures(policy or toy_policy()), data.episodes("train"), data.train_dataloader())


@pytest.fixture(scope="module")
def memory(data: EpisodeDataModule) -> Memory:
    return memory_of(data)


@pytest.fixture(scope="module")
def scored(
    data: EpisodeDataModule, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Any]:
    folder = tmp_path_factory.mktemp("run")
    part = shipped(episodes=2)
    bench = small_bench(data, folder)
    return folder, part.measure(bench), bench


def shipped(**changes: object) -> Baselines:
    """conf/evaluation/part/baselines.yaml with changes."""
    cfg = OmegaConf.merge(OmegaConf.load(CONF / "evaluation" / "part" / "baselines.yaml"), changes)
    check(cfg)
    built: Baselines = build(cfg)
    return built


# ---------------------------------------------------------------- nearest neighbour


def by_force(stored: np.ndarray, query: np.ndarray, rows: list[int]) -> int:
    """Every distance by itself, each feature in standard deviations, in float64."""
    deviation = stored.astype(np.float64).std(axis=0)
    distances = []
    for row in rows:
        total = 0.0
        for d in range(stored.shape[1]):
            if deviation[d] > 0:
                total += ((float(stored[row, d]) - float(query[d])) / deviation[d]) ** 2
        distances.append(total)
    return rows[int(np.argmin(distances))]


def test_the_nearest_is_the_one_that_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    stored = (rng.normal(size=(60, 7)) * np.array([1, 50, 0.01, 1, 1, 3, 1]) + 5).astype(np.float32)
    stored[:, 3] = 2.5  # constant: cannot tell one from another
    queries = (stored[rng.integers(60, size=300)] + rng.normal(0, 0.6, (300, 7))).astype(np.float32)
    found = Neighbours(stored)
    assert found.find(queries).tolist() == [by_force(stored, query, list(range(60))) for query in queries]
    among = [np.sort(rng.choice(60, size=rng.integers(1, 30), replace=False)) for _ in queries]
    expected = [by_force(stored, query, rows.tolist()) for query, rows in zip(queries, among, strict=True)]
    assert found.find(queries, among).tolist() == expected
    assert found.find(stored).tolist() == list(range(60))  # every stored one finds itself


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10_000), st.floats(0.01, 100))
def test_scale_and_shift_of_a_feature_change_no_neighbour(
    count: int, dim: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    stored, queries = rng.normal(size=(count, dim)), rng.normal(size=(9, dim))
    other = scale * rng.uniform(0.5, 2, dim)
    first = Neighbours(stored.astype(np.float32)).find(queries.astype(np.float32))
    second = Neighbours((stored * other + 1).astype(np.float32)).find(
        (queries * other + 1).astype(np.float32)
    )
    distance = ((stored[:, None] - queries) / np.maximum(stored.std(axis=0), 1e-9)) ** 2
    total = distance.sum(axis=-1)
    rows = np.arange(9)
    np.testing.assert_allclose(total[first, rows], total[second, rows], rtol=1e-2, atol=1e-2)


def test_a_training_frame_finds_itself_and_so_its_own_chunk(data: EpisodeDataModule, memory: Memory) -> None:
    for episode in data.episodes("train")[:3]:
        pixels = torch.from_numpy(episode.frames()).permute(0, 3, 1, 2)
        chunk = memory.chunk(memory.neighbours.find(memory.features(pixels)), 4)
        for t in range(episode.length):
            ahead = [episode.actions[min(t + h, episode.length - 1)] for h in range(4)]
            np.testing.assert_allclose(chunk[t], ahead, rtol=1e-6)


def test_it_knows_every_training_frame_once_and_none_of_the_others(
    data: EpisodeDataModule, memory: Memory
) -> None:
    assert len(memory.row) == sum(e.length for e in data.episodes("train"))
    served = encode(memory.features, data.train_dataloader())
    assert {episode for episode, _ in served} == {e.id for e in data.episodes("train")}
    assert not {episode for episode, _ in served} & {e.id for e in data.episodes("val")}
    with pytest.raises(ProjectError, match="were not served"):
        Memory(memory.features, data.episodes("train"), list(data.train_dataloader())[:1])
    with pytest.raises(ProjectError, match=r"data\.split\.train"):
        Memory(memory.features, [], [])


def test_an_augmented_training_leaves_the_recorded_pictures(data: EpisodeDataModule, memory: Memory) -> None:
    mirrored = EpisodeDataModule(
        str(data.root), SPACE, type(data.normalizer)(), data.sampler, data.split_rule, 3, 4, 16, paraphrase="random",
        augmentation=Augmentation(
            mirror=0.5, mirror_axes=["linear_y", "angular_z"], brightness=0.3, contrast=0.3, saturation=0.3,
            crop=0.8, shift=1,
        ),
    )  # fmt: skip
    mirrored.bind(toy_policy().tokenize)
    mirrored.setup("fit")
    other = memory_of(mirrored)
    np.testing.assert_allclose(other.neighbours.stored, memory.neighbours.stored, atol=1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(other.actions, memory.actions, strict=True))


def test_only_equal_words_count_where_they_were_trained_on(memory: Memory) -> None:
    sentence = memory.sentences[2][0]
    frames = memory.said_alike("  " + sentence.upper())
    speakers = [i for i, texts in enumerate(memory.sentences) if sentence in texts]
    assert sorted({int(memory.row[i]) for i in frames}) == speakers and memory.knows(sentence)
    assert len(frames) == sum(len(memory.actions[i]) for i in speakers)
    # Unknown words: the sentences that have most of it, here all but one word.
    words = sentence.split()
    unknown = " ".join([*words[:-1], "zeppelin"])
    assert not memory.knows(unknown)
    like = {int(memory.row[i]) for i in memory.said_alike(unknown)}
    ends = [texts for i, texts in enumerate(memory.sentences) if i in like]
    assert ends and all(any(words[:-1] == text.split()[:-1] for text in texts) for texts in ends)


def test_the_order_of_words_makes_another_sentence() -> None:
    one = "pass the first box on the left and the second on the right"
    two = "pass the first box on the right and the second on the left"
    assert pieces(one) != pieces(two) and pieces("a b") & pieces("b a") == {("a",), ("b",)}


def test_it_predicts_and_drives_alike_and_hears_words(
    data: EpisodeDataModule, memory: Memory, tmp_path: Path
) -> None:
    bench = small_bench(data, tmp_path)
    seen = encode(memory.features, bench.loader())
    spoken = {e.id: e.instructions[0] for e in bench.episodes}
    for words in (False, True):
        driver = Nearest(memory, words)
        predicted = driver.predict(bench.truth, seen, spoken)
        episode = bench.episodes[0]
        rows = np.flatnonzero(bench.truth.episode == episode.id)
        driver.reset([replace(sample_task("full1", "val", 0), instruction=episode.instructions[0])])
        for t, row in enumerate(rows):
            action = driver.act([], episode.frames(t, t + 1), np.ones(1, dtype=bool))
            np.testing.assert_allclose(action[0], predicted[row, 0], atol=1e-6)
    assert driver.known_words({"a": memory.sentences[0][0], "b": "zeppelin"}).value == 0.5
    idle = driver.act([], np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1, dtype=bool))
    assert idle.shape == (1, 3) and not idle.any()


def test_it_drives_the_same_whatever_the_batch(memory: Memory) -> None:
    tasks = Suite("full1", "layout", 4).tasks()
    for words in (False, True):
        whole, single = (drive(Nearest(memory, words), tasks, 16, batch_size=size) for size in (50, 1))
        for first, second in zip(whole, single, strict=True):
            assert first.outcome.to_dict().keys() == second.outcome.to_dict().keys()
            np.testing.assert_allclose(first.actions, second.actions, atol=1e-5)


# ---------------------------------------------------------------- frozen features


def lora_policy(folder: Path) -> Policy:
    """A small real Kosmos-2 with adapters on its vision side."""
    toy = toy_policy()
    torch.manual_seed(0)
    sites = LoraPlacement({"vision": "all", "projector": "all"}, 4, 8, 0.0)
    head = partial(LSTMHead, layers=1, hidden_size=8, mlp=(8,))
    return Policy(Kosmos2Backbone(str(folder)), sites, PerFrame(), head, SPACE, toy.normalizer, 3, 4).eval()


def test_features_are_those_before_the_adapters(small_kosmos: Path) -> None:
    policy = lora_policy(small_kosmos)
    pictures = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    before = FrozenFeatures(policy)(pictures)
    latents = policy.backbone.latents_per_frame
    assert before.shape[1] == latents * policy.backbone.hidden_size  # small enough to keep every latent
    trains = {name: p.requires_grad for name, p in policy.named_parameters()}
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
        moved = policy.backbone.encode_images(policy.backbone.preprocess(pictures))
        frozen = FrozenFeatures(policy)
        after = frozen(pictures)
        again = policy.backbone.encode_images(policy.backbone.preprocess(pictures))
    np.testing.assert_array_equal(before, after)
    assert np.abs(_by_place(moved).numpy() - after).max() > 1e-3, "or the case shows nothing"
    assert torch.equal(moved, again) and not frozen.trained
    assert trains == {name: p.requires_grad for name, p in policy.named_parameters()}
    with pytest.raises(KeyError), without_adapters(policy.backbone.network):
        raise KeyError
    assert trains == {name: p.requires_grad for name, p in policy.named_parameters()}


def test_a_trained_vision_tower_is_said_to_be_one() -> None:
    assert FrozenFeatures(toy_policy()).trained  # FullPlacement


def test_a_blind_policy_does_not_blind_its_opponent() -> None:
    blind = toy_policy()
    blind.senses = Senses(["words"])
    pictures = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    np.testing.assert_array_equal(FrozenFeatures(blind)(pictures), FrozenFeatures(toy_policy())(pictures))


@pytest.mark.parametrize(
    ("latents", "width", "left"),
    [(16, 128, 16), (64, 2048, 1), (144, 96, 16), (10, 128, 10), (50, 256, 4), (1, 4096, 1)],
)
def test_pooling_keeps_places_as_long_as_they_fit(latents: int, width: int, left: int) -> None:
    frozen = FrozenFeatures(toy_policy())
    given_latents = torch.randn(2, latents, width, generator=torch.Generator().manual_seed(0))
    pooled = frozen._pool(given_latents)
    assert (frozen.pooled, pooled.shape) == (left, (2, left * width))
    assert pooled.shape[1] <= max(looking.MOST_NUMBERS, width)
    torch.testing.assert_close(
        pooled.view(2, width, left).mean(2),
        given_latents.mean(1),
        rtol=0,
        atol=0.5 if latents == 50 else 1e-5,
    )


def _by_place(latents: torch.Tensor) -> torch.Tensor:
    """(N, P, C) -> (N, C · P), every latent kept."""
    return latents.transpose(1, 2).flatten(1)


# ---------------------------------------------------------------- the part


def figures(node: object, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [found for key, item in node.items() for found in figures(item, f"{path}/{key}")]
    return [(path, node)] if isinstance(node, (Estimate, PairedTest)) else []


def test_the_section_holds_every_opponent_on_the_policy_s_frames_and_tasks(
    scored: tuple[Path, dict[str, Any], Any],
) -> None:
    folder, section, bench = scored
    assert list(section["offline"]) == list(NAMES) == list(section["advantage"]["offline"])
    assert list(section["closed_loop"]) == ["full1/layout", "reach/layout"]
    for suite in section["closed_loop"]:
        assert (
            list(section["closed_loop"][suite])
            == list(NAMES)
            == list(section["advantage"]["closed_loop"][suite])
        )
        for name in NAMES:
            assert section["closed_loop"][suite][name]["success"].n == 2
            assert [r.task for r in bench.rollouts[suite][name]] == [
                r.task for r in bench.rollouts[suite]["policy"]
            ]
    assert all(section["offline"][name]["error"].n == len(bench.truth.t) for name in NAMES)
    assert section["features"]["of"].endswith("as this run trained it")
    assert section["features"]["known_words"].n == len(bench.episodes)
    assert len(figures(section)) > 100
    assert section["files"]["baseline_rollouts"] == [
        "rollouts/full1-layout-baselines.csv", "rollouts/reach-layout-baselines.csv",
    ]  # fmt: skip
    rows = list(csv.DictReader((folder / "rollouts/full1-layout-baselines.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(NAMES) and {row["controller"] for row in rows} == set(NAMES)


def test_who_is_not_beaten_is_corrected_for_the_number_of_opponents(
    scored: tuple[Path, dict[str, Any], Any],
) -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    tests = {str(i): paired(rng.normal(0.5 + 0.1 * i, 1, 14), np.zeros(14)) for i in range(6)}
    holm = multipletests([test.p_value for test in tests.values()], method="holm")
    assert [t.p_value for t in corrected(tests).values()] == pytest.approx(holm[1].tolist())
    expected = [name for name, beaten in zip(tests, holm[0], strict=True) if not beaten]
    assert not_beaten(corrected(tests)) == expected and too_few(corrected(tests)) == []
    assert 0 < len(not_beaten(tests)) < len(expected), "or the case shows nothing"
    _, section, bench = scored
    part = shipped()
    by_suite = section["too_few"]["closed_loop"]
    assert by_suite["full1/layout"] == list(NAMES)  # of two tasks nothing can be told
    assert section["not_beaten"]["closed_loop"]["full1/layout"] == []
    assert part.verdict(section, bench) == {"not_beaten": [], "too_few": list(NAMES)}
    bench = replace(bench, suites=[])
    offline = {kind: section[kind]["offline"] for kind in ("not_beaten", "too_few")}
    assert offline == {"not_beaten": [], "too_few": list(NAMES)}  # 6 groups
    assert part.verdict(section, bench) == offline
    assert part.verdict(section, replace(bench, split=None)) == {}


@pytest.mark.parametrize("opponents", [1, 2, 8])
def test_who_could_not_be_beaten_by_anybody_is_told_apart(opponents: int) -> None:
    """The policy is better in every single pair: it is beaten from the first n on that is not called too few."""
    names = [str(i) for i in range(opponents)]
    for n in range(12):
        for arm in (np.ones(n), np.arange(1.0, n + 1)):  # outcomes, measurements
            tests = corrected({name: paired(arm, np.zeros(n)) for name in names})
            beaten = [name for name, test in tests.items() if test.better]
            assert too_few(tests) == [name for name in names if name not in beaten], n
            assert not_beaten(tests) == []
            worse = corrected({name: paired(np.zeros(n), arm) for name in names})
            assert (not_beaten(worse), too_few(worse)) == ((names, []) if beaten else ([], names))


def test_the_same_figures_again_and_only_what_was_asked_for(data: EpisodeDataModule, tmp_path: Path) -> None:
    part = Baselines(["nearest_words", "clock"], 2, 0.1)
    first, second = (part.measure(small_bench(data, tmp_path / name)) for name in "ab")
    assert repr(first) == repr(second) and list(first["offline"]) == ["nearest_words", "clock"]
    recorded = Baselines(["mean"], 2, 0.1).measure(small_bench(data, tmp_path, suites=()))
    assert recorded["closed_loop"] == {} and "files" not in recorded and "features" not in recorded
    driven = Baselines(["mean"], 2, 0.1).measure(small_bench(data, tmp_path, split=None))
    assert driven["offline"] == {} and list(driven["closed_loop"]["reach/layout"]) == ["mean"]


def test_settings_that_make_no_sense_are_refused_by_name(data: EpisodeDataModule) -> None:
    for changes, said in (
        ({"names": ["clok"]}, "no baseline is called 'clok'.*nearest_words"),
        ({"names": ["clock", "clock"]}, "twice"),
        ({"episodes": 0}, r"baselines\.episodes"),
    ):
        with pytest.raises(ProjectError, match=said):
            shipped(**changes)
    shipped().check(4, data)
    silent = replace(SPACE, classes={})
    for name in ("straight", "majority"):
        bare = type("Data", (), {"action_space": silent})()
        with pytest.raises(ProjectError, match=f"'{name}' needs"):
            Baselines([name], 2, 0.1).check(4, bare)
