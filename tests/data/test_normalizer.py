"""Normalisers: exact inverses, constant axes, strict loading into a fresh object."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.data.normalizer import (
    IdentityNormalizer,
    MeanStdNormalizer,
    MinMaxNormalizer,
    Normalizer,
    QuantileNormalizer,
)

KINDS = [MinMaxNormalizer, QuantileNormalizer, MeanStdNormalizer, IdentityNormalizer]


def loaded(path: Path | str) -> Any:
    """What the YAML at `path` builds."""
    tree = OmegaConf.load(path)
    assert isinstance(tree, DictConfig)
    return build(tree)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(actions=arrays(np.float32, (7, 3), elements=st.floats(-5, 5, width=32)))
def test_denormalize_inverts_normalize(kind: type[Normalizer], actions: np.ndarray) -> None:
    normalizer = kind()
    normalizer.fit(actions)
    there = normalizer.normalize(torch.from_numpy(actions))
    assert torch.isfinite(there).all()
    torch.testing.assert_close(normalizer.denormalize(there), torch.from_numpy(actions), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    actions=arrays(np.float32, (9, 2), elements=st.floats(-5, 5, width=32)),
    others=arrays(np.float32, (4, 2), elements=st.floats(-50, 50, width=32)),
    low=st.floats(0, 0.4), high=st.floats(0.6, 1), constant=st.booleans(),
)  # fmt: skip
def test_actions_it_was_not_fitted_on_come_back_too(
    kind: type[Normalizer], actions: np.ndarray, others: np.ndarray, low: float, high: float, constant: bool
) -> None:
    """No kind clips: whatever a validation drive or another robot commands survives the way there and back."""
    if constant:
        actions[:, 1] = actions[0, 1]
    normalizer = QuantileNormalizer(low, high) if kind is QuantileNormalizer else kind()
    normalizer.fit(actions)
    there = normalizer.normalize(torch.from_numpy(others))
    if constant:  # shifted, never scaled
        assert normalizer.scale[1] == 1
    # Float32 resolves the shifted action to 50 * 2^-23, which the way back does not make larger.
    back = normalizer.denormalize(there)
    torch.testing.assert_close(back, torch.from_numpy(others), atol=5e-5, rtol=0)


@settings(max_examples=40)
@given(
    actions=arrays(np.float64, (31, 2), elements=st.floats(-5, 5)),
    low=st.floats(0, 0.45), high=st.floats(0.55, 1),
)  # fmt: skip
def test_quantiles_equal_a_slow_reference(actions: np.ndarray, low: float, high: float) -> None:
    normalizer = QuantileNormalizer(low, high)
    normalizer.fit(actions)
    for axis in range(2):
        ordered = sorted(actions[:, axis].tolist())
        ends = []
        for share in (low, high):
            place = share * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            ends.append(ordered[below] + (place - below) * (ordered[above] - ordered[below]))
        if ends[1] - ends[0] <= 2.1e-6:
            continue
        scaled = normalizer.normalize(torch.tensor(ends)[:, None].float().expand(2, 2))[:, axis]
        assert scaled.tolist() == pytest.approx([-1, 1], abs=1e-3 + 1e-6 / (ends[1] - ends[0]))


def test_one_outlier_moves_minmax_and_not_the_quantiles() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (1000, 1))
    actions[3] = 100.0
    minmax, quantile = MinMaxNormalizer(), QuantileNormalizer()
    minmax.fit(actions)
    quantile.fit(actions)
    assert minmax.scale.item() > 50
    assert quantile.scale.item() == pytest.approx(0.98, abs=0.02)
    assert quantile.normalize(torch.tensor([100.0])).item() > 90  # kept, not clipped


def test_an_axis_that_moves_less_often_than_the_quantile_stays_in_si_units() -> None:
    actions = np.zeros((1000, 1))
    actions[:4] = 1.15
    normalizer = QuantileNormalizer()
    normalizer.fit(actions)
    assert normalizer.normalize(torch.tensor([1.15])).item() == pytest.approx(1.15)


def test_zero_and_one_are_minmax() -> None:
    actions = np.random.default_rng(0).normal(size=(50, 3))
    quantile, minmax = QuantileNormalizer(0, 1), MinMaxNormalizer()
    quantile.fit(actions)
    minmax.fit(actions)
    assert torch.equal(quantile.scale, minmax.scale)
    assert torch.equal(quantile.offset, minmax.offset)


@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.9), (0.1, 1.1), (float("nan"), 0.9)]
)
def test_shares_are_checked(low: float, high: float) -> None:
    with pytest.raises(ProjectError, match=r"data\.normalizer has low .* expected shares"):
        QuantileNormalizer(low, high)


def test_every_kind_has_a_yaml() -> None:
    paths = sorted(Path("conf/data/normalizer").glob("*.yaml"))
    built = {path.stem: loaded(path) for path in paths}
    assert {type(normalizer) for normalizer in built.values()} == set(KINDS)
    assert (built["quantile"].low, built["quantile"].high) == (0.01, 0.99)


def test_statistics_are_what_the_names_say() -> None:
    actions = np.random.default_rng(0).normal(3.0, 2.0, (500, 2))
    actions[:, 1] = 0.7  # an axis that never moves: shifted, not blown up
    tensor = torch.from_numpy(actions).float()
    minmax, meanstd = MinMaxNormalizer(), MeanStdNormalizer()
    minmax.fit(actions)
    meanstd.fit(actions)
    scaled = minmax.normalize(tensor)
    assert scaled[:, 0].min().item() == pytest.approx(-1, abs=1e-6)
    assert scaled[:, 0].max().item() == pytest.approx(1, abs=1e-6)
    standard = meanstd.normalize(tensor)
    assert standard[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert standard[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    for result in (scaled, standard):
        torch.testing.assert_close(result[:, 1], torch.zeros(500), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_one_loads_a_checkpoint_strictly(kind: type[Normalizer]) -> None:
    fitted = kind()
    fitted.fit(np.random.default_rng(0).normal(size=(20, 3)))
    fresh = torch.nn.ModuleDict({"normalizer": kind()})
    fresh.load_state_dict(
        {f"normalizer.{key}": value for key, value in fitted.state_dict().items()}, strict=True
    )
    loaded = fresh["normalizer"]
    assert isinstance(loaded, Normalizer)
    assert loaded.fitted
    x = torch.randn(4, 5, 3)
    assert torch.equal(loaded.normalize(x), fitted.normalize(x))
    other = kind()
    other.fit(np.zeros((2, 2)))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(fitted.state_dict())


def test_misuse_is_explained() -> None:
    normalizer = MinMaxNormalizer()
    assert not normalizer.fitted
    with pytest.raises(ProjectError, match="no statistics yet"):
        normalizer.normalize(torch.zeros(3))
    for bad in (np.zeros((0, 3)), np.zeros(3)):
        with pytest.raises(ProjectError, match="expected"):
            normalizer.fit(bad)
    with pytest.raises(ProjectError, match="NaN"):
        normalizer.fit(np.array([[np.nan, 0.0]]))
    normalizer.fit(np.zeros((2, 3)))
    with pytest.raises(ProjectError, match="knows 3 axes, the actions have 2"):
        normalizer.denormalize(torch.zeros(2))
