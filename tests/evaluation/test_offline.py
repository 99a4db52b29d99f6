"""Offline figures against plain loops, and the probes on policies that are blind or deaf by construction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.evaluation import offline, probes
from src.evaluation.baselines import BASELINES, fit_baselines
from src.evaluation.offline import Labels, Truth
from src.evaluation.probes import Thresholds
from tests.deploy.standins import SPACE, toy_policy

H = 3
LENGTHS = {"a": 9, "b": 6, "c": 7, "d": 5}
WORDS = {"a": "left of the box", "b": "right of the box", "c": "left of the box", "d": "to the ball"}
LABELS = {e: Labels(scenario="box" if e != "d" else "ball", group="g" + e) for e in LENGTHS}
RNG = np.random.default_rng(0)
FRAMES = {e: RNG.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for e, n in LENGTHS.items()}
ACTIONS = {e: RNG.uniform(-1.15, 1.15, (n, 3)).astype(np.float32) for e, n in LENGTHS.items()}


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
        out = Batch(
            torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
            torch.repeat_interleave(
                torch.arange(len(episodes)), torch.tensor([LENGTHS[e] for e in episodes])
            ),
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
    policy = toy_policy(window=3, horizon=H)
    return offline.collect(policy, Loader(policy), LABELS)


def test_collect_sorts_and_scores_equal_plain_loops() -> None:
    truth, predicted = collected()
    rows = list(zip(truth.episode.tolist(), truth.t.tolist(), strict=True))
    assert rows == [(e, t) for e in "abcd" for t in range(LENGTHS[e])]
    scores = offline.score(predicted, truth, SPACE, tolerance=0.3)
    for axis, name in enumerate(SPACE.names):
        now = [predicted[i, 0, axis] - ACTIONS[e][t, axis] for i, (e, t) in enumerate(rows)]
        whole = [
            predicted[i, h, axis] - ACTIONS[e][t + h, axis]
            for i, (e, t) in enumerate(rows)
            for h in range(H)
            if t + h < LENGTHS[e]
        ]
        assert scores["mae"][name].value == pytest.approx(np.mean(np.abs(now)), rel=1e-5)
        assert scores["rmse"][name].value == pytest.approx(math.sqrt(np.mean(np.square(now))), rel=1e-5)
        assert scores["mae_horizon"][name].value == pytest.approx(np.mean(np.abs(whole)), rel=1e-5)
        assert scores["rmse_horizon"][name].value == pytest.approx(
            math.sqrt(np.mean(np.square(whole))), rel=1e-5
        )
    right = SPACE.classify(predicted[:, 0]) == SPACE.classify(truth.actions[:, 0])
    assert scores["direction_accuracy"].value == pytest.approx(right.mean())
    assert scores["direction_accuracy"].n == 27 and scores["direction_accuracy"].clusters == 4
    within = np.all(np.abs(predicted[:, 0] - truth.actions[:, 0]) <= 0.3 * 1.15, axis=1)
    assert scores["within_tolerance"].value == pytest.approx(within.mean())
    assert scores["scenarios"]["ball"]["n"] == LENGTHS["d"]


def test_macro_f1_equals_the_definition() -> None:
    rng = np.random.default_rng(4)
    true, called, cluster = rng.integers(0, 4, 200), rng.integers(0, 5, 200), rng.integers(0, 9, 200)
    f1 = []
    for c in range(4):
        hits = np.sum((true == c) & (called == c))
        precision, recall = hits / max(1, np.sum(called == c)), hits / np.sum(true == c)
        f1.append(0.0 if hits == 0 else 2 * precision * recall / (precision + recall))
    estimate = offline.macro_f1(called, true, cluster, 5)
    assert estimate.value == pytest.approx(np.mean(f1))
    assert estimate.low < estimate.value < estimate.high


def test_a_perfect_policy_scores_perfectly_and_padding_never_counts() -> None:
    truth, _ = collected()
    dirty = np.where(truth.mask[..., None], truth.actions, 99.0)
    scores = offline.score(dirty, truth, SPACE, 0.1)
    assert scores["mae_horizon"]["linear_x"].value == 0 and scores["macro_f1"].value == 1
    assert scores["within_tolerance"].value == 1


def test_a_frame_served_twice_is_refused() -> None:
    policy = toy_policy(window=3, horizon=H)
    batch = Loader(policy).batch(["a"])
    with pytest.raises(ProjectError, match="twice"):
        offline.collect(policy, [batch, batch], LABELS)
    with pytest.raises(ProjectError, match="no frames"):
        offline.collect(policy, [], LABELS)


def test_baselines_predict_what_their_names_say() -> None:
    truth, _ = collected()
    train = [np.array([[1.0, 0, 0], [1.0, 0.1, 0], [0, 1.0, 0]]), np.array([[0.8, 0, 0], [1.0, -0.1, 0]])]
    fitted = {b.name: b.predict(truth) for b in fit_baselines(list(BASELINES), train, SPACE)}
    assert all(guess.shape == truth.actions.shape for guess in fitted.values())
    np.testing.assert_allclose(fitted["mean"][5, 1], np.concatenate(train).mean(0))
    np.testing.assert_allclose(fitted["majority"][0, 0], [0.95, 0, 0])  # the four forward actions
    np.testing.assert_allclose(fitted["straight"][0, 2], [np.concatenate(train)[:, 0].mean(), 0, 0])
    np.testing.assert_allclose(fitted["clock"][0], [[0.9, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(fitted["clock"][8], [[0, 1, 0]] * 3)  # beyond the end: the last one
    np.testing.assert_allclose(fitted["repeat_last"][0], [[0.9, 0, 0]] * 3)
    np.testing.assert_allclose(fitted["repeat_last"][4, 2], ACTIONS["a"][3])
    assert np.abs(fitted["random"]).max() <= 1.15 and fitted["random"].std() > 0.5
    again = {b.name: b.predict(truth) for b in fit_baselines(["random"], train, SPACE)}
    np.testing.assert_array_equal(fitted["random"], again["random"])
    with pytest.raises(ProjectError, match="no baseline is called 'cloc'"):
        fit_baselines(["cloc"], train, SPACE)


def recorded_by(policy: object) -> tuple[Truth, np.ndarray]:
    """Truth as if the policy itself had driven the recordings, plus a little noise: its inputs then matter."""
    truth, predicted = offline.collect(policy, Loader(policy), LABELS)  # type: ignore[arg-type]
    noise = np.random.default_rng(1).normal(0, 0.01, predicted.shape)
    return Truth(
        truth.episode, truth.t, predicted + noise, truth.mask, truth.group, truth.scenario
    ), predicted


def offline_verdicts(policy: object) -> tuple[str, str]:
    truth, before = recorded_by(policy)
    loader = Loader(policy)
    blind = offline.without_image(offline.mean_frame(loader))
    other = probes.other_instruction({e: (text,) for e, text in WORDS.items()}, policy.tokenize)  # type: ignore[attr-defined]
    answers = []
    # One group per frame: four groups are too few for any paired test to reach p < 0.05.
    many = Truth(truth.episode, truth.t, truth.actions, truth.mask, np.arange(27).astype(str), truth.scenario)
    for change in (other, blind):
        _, after = offline.collect(policy, loader, LABELS, change)  # type: ignore[arg-type]
        too_few = probes.action_figures(before, after, truth, SPACE)
        assert probes.by_action("it", too_few, Thresholds()).answer == "not measured"
        figures = probes.action_figures(before, after, many, SPACE)
        answers.append(probes.by_action("it", figures, Thresholds()).answer)
    return answers[0], answers[1]


def test_deaf_and_blind_policies_are_found_out_offline() -> None:
    assert offline_verdicts(toy_policy(window=3, horizon=H)) == ("yes", "yes")
    deaf = toy_policy(window=3, horizon=H)
    torch.nn.init.zeros_(deaf.backbone.network["read"].weight)
    assert offline_verdicts(deaf) == ("no", "yes")
    blind = toy_policy(window=3, horizon=H)
    torch.nn.init.zeros_(blind.backbone.network["look"].weight)
    blind.backbone.network["read"].weight.data *= 3  # all it has left to go by
    assert offline_verdicts(blind) == ("yes", "no")


def test_mean_frame_is_the_mean_of_every_frame() -> None:
    every = np.concatenate([FRAMES[e] for e in "abcd"]).astype(float).mean(0)
    mean = offline.mean_frame(Loader(toy_policy())).permute(1, 2, 0).numpy()
    assert np.abs(mean - every).max() <= 0.5 + 1e-9


def test_other_instruction_changes_the_meaning_of_every_episode_or_says_it_cannot() -> None:
    heard: list[str] = []

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        heard.extend(texts)
        return toy_policy().tokenize(texts)

    policy = toy_policy(window=3, horizon=H)
    change = probes.other_instruction({e: (text, text + " please") for e, text in WORDS.items()}, tokenize)
    assert change is not None
    change(Loader(policy).batch(["a", "b", "c", "d"])).validate()
    assert all(said != own for said, own in zip(heard, WORDS.values(), strict=True))
    assert probes.other_instruction({"a": ("go",), "b": ("go",)}, tokenize) is None
