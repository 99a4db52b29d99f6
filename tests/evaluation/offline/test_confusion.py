"""The confusion matrix against plain counting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.evaluation.offline.confusion import confusion, shares
from tests.deploy.standins import SPACE
from tests.evaluation.offline.recordings import collected, recorded

VECTORS = np.array(list(SPACE.classes.values())) * SPACE.scale


def test_counts_recall_and_precision_equal_plain_counting() -> None:
    truth, predicted = collected()
    found = confusion(predicted, truth, SPACE)
    names = SPACE.class_names
    assert found["classes"] == list(names)
    pairs = [
        (names[int(SPACE.classify(a))], names[int(SPACE.classify(p))])
        for a, p in zip(truth.actions[:, 0], predicted[:, 0], strict=True)
    ]
    for i, recorded_name in enumerate(names):
        for j, predicted_name in enumerate(names):
            assert found["counts"][i][j] == pairs.count((recorded_name, predicted_name))
    for name in names:
        of, called = [p for p in pairs if p[0] == name], [p for p in pairs if p[1] == name]
        assert (name in found["recall"]) == bool(of) and (name in found["precision"]) == bool(called)
        if of:
            assert found["recall"][name].value == pytest.approx(of.count((name, name)) / len(of))
            assert found["recall"][name].n == len(of)
        if called:
            assert found["precision"][name].value == pytest.approx(called.count((name, name)) / len(called))


def test_rows_are_recorded_and_columns_predicted() -> None:
    truth = recorded([VECTORS[[1, 1, 2]]])
    found = confusion(VECTORS[[1, 2, 2]][:, None], truth, SPACE)
    counts = np.array(found["counts"])
    assert counts[1].tolist() == [0, 1, 1, 0, 0, 0] and counts[2].tolist() == [0, 0, 1, 0, 0, 0]
    rows = shares(found["counts"])
    assert rows[1] == [0, 0.5, 0.5, 0, 0, 0] and rows[2] == [0, 0, 1, 0, 0, 0] and rows[0] == [None] * 6


def test_a_space_without_classes_is_refused() -> None:
    truth, predicted = collected()
    with pytest.raises(ProjectError, match="classes is empty"):
        confusion(predicted, truth, dataclasses.replace(SPACE, classes={}))
