"""What the opponents that never look predict on recorded frames."""

from __future__ import annotations

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.evaluation.baselines.opponents import BASELINES, fit_baselines
from tests.deploy.standins import SPACE
from tests.evaluation.offline.recordings import ACTIONS, collected


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
