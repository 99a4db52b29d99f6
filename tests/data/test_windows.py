"""The sample rule, for every window and horizon, against a slow loop written from the definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.data.windows import future, history


@given(st.integers(1, 12), st.integers(1, 10), st.integers(1, 15))
def test_rule_equals_a_slow_loop(length: int, window: int, horizon: int) -> None:
    steps = np.arange(length)
    past = history(steps, window)
    ahead, valid = future(steps, np.full(length, length), horizon)
    assert past.shape == (length, window)
    assert ahead.shape == valid.shape == (length, horizon)
    assert past.dtype == ahead.dtype == np.int64
    for t in range(length):
        seen = list(range(max(0, t - window + 1), t + 1))
        assert past[t].tolist() == [-1] * (window - len(seen)) + seen
        targets = [t + k for k in range(horizon) if t + k < length]
        assert ahead[t][valid[t]].tolist() == targets
        assert valid[t].tolist() == [True] * len(targets) + [False] * (horizon - len(targets))
        assert ahead[t].max() < length  # padding still points at something that exists


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=20), st.integers(1, 6))
def test_samples_of_several_episodes_do_not_disturb_each_other(
    samples: list[tuple[int, int]], horizon: int
) -> None:
    steps = np.array([min(t, length - 1) for length, t in samples])
    lengths = np.array([length for length, _ in samples])
    ahead, valid = future(steps, lengths, horizon)
    for i in range(len(samples)):
        one, one_valid = future(steps[i : i + 1], lengths[i : i + 1], horizon)
        np.testing.assert_array_equal(ahead[i], one[0])
        np.testing.assert_array_equal(valid[i], one_valid[0])
