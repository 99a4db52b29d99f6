"""Owns the sample rule: every frame t of every episode is a sample, whatever the window W and the horizon H.

        window W = 4                 horizon H = 3
    t = 1:  [ -1  -1   0   1 ]  ->   [ a1  a2  a3 ]
    t = T-1:[T-4 T-3 T-2 T-1 ]  ->   [ aT-1  -   - ]      -1 and - are padding, masked everywhere

So two arms of a window or horizon ablation train and test on the same set of frames.
In: steps t and lengths. Out: index arrays. No files, no tensors.
"""

import numpy as np


def history(steps: np.ndarray, window: int) -> np.ndarray:
    """The frames each sample sees: steps (S,) -> (S, W) int64, oldest first, -1 before the start of the episode."""
    index = np.asarray(steps, np.int64)[:, None] + np.arange(1 - window, 1)
    return np.where(index < 0, -1, index)


def future(steps: np.ndarray, lengths: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The actions each sample is to predict.

    Args:
        steps: (S,) the step t of each sample.
        lengths: (S,) the length T of its episode.

    Returns:
        (S, H) int64 steps t … t+H-1, held at the last step of the episode, and (S, H) bool, false beyond it.
    """
    index = np.asarray(steps, np.int64)[:, None] + np.arange(horizon)
    last = np.asarray(lengths, np.int64)[:, None] - 1
    return np.minimum(index, last), index <= last
