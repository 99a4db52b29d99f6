"""Owns how long one control step takes: one camera frame in, one command out, by the very object that a robot uses.

In: an arm of the workshop (policy, data). Out: quantiles of the step in milliseconds, beside the bound that reading the
weights from memory sets (src/deploy/floor.py).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from src.deploy.floor import bandwidth, bytes_per_step, floor_seconds
from src.deploy.predictor import Predictor
from src.evaluation.latency import QUANTILES, quantile
from src.speed.training import Arm, device_of


def measure(arm: Arm, steps: int, warmup: int) -> dict[str, Any]:
    """Section `inference` of the result.

    Args:
        arm: whose policy drives; its weights are as they are, for time does not depend on them.
        steps: control steps that are timed.
        warmup: steps before them that are not.
    """
    device = device_of(arm.cfg)
    policy = arm.policy.to(device)
    predictor = Predictor(policy, arm.datamodule.image_size)
    episode = arm.datamodule.episodes("train")[0]
    frames = episode.frames()
    predictor.reset(episode.instructions[0])
    half = str(arm.cfg.trainer.precision).startswith("bf16")
    milliseconds = []
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        for step in range(warmup + steps):
            frame = frames[step % len(frames)]
            began = time.perf_counter()
            predictor.step(frame)  # gives a NumPy array, so a GPU has finished
            if step >= warmup:
                milliseconds.append(1000 * (time.perf_counter() - began))
    times = np.array(milliseconds)
    return {
        **{name: quantile(times, share).to_dict() for name, share in QUANTILES.items()},
        "steps": steps,
        "frames_per_step": 1,
        "floor_ms": 1000 * floor_seconds(policy, device),
        "floor_bytes": bytes_per_step(policy),
        "floor_source": bandwidth(device).source,
        "control_period_ms": 1000 * arm.datamodule.action_space.control_period,
    }
