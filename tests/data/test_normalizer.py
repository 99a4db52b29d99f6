"""Normalisers: exact inverses, constant axes, strict loading into a fresh object."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.core.errors import ProjectError
from src.data.normalizer import IdentityNormalizer, MeanStdNormalizer, MinMaxNormalizer, Normalizer

KINDS = [MinMaxNormalizer, MeanStdNormalizer, IdentityNormalizer]


@pytest.mark.parametrize("kind", KINDS)
@given(actions=arrays(np.float32, (7, 3), elements=st.floats(-5, 5, width=32)))
def test_denormalize_inverts_normalize(kind: type[Normalizer], actions: np.ndarray) -> None:
    normalizer = kind()
    normalizer.fit(actions)
    there = normalizer.normalize(torch.from_numpy(actions))
    assert torch.isfinite(there).all()
    torch.testing.assert_close(normalizer.denormalize(there), torch.from_numpy(actions), atol=1e-5, rtol=1e-5)


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
