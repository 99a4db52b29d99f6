"""Time is added up right, and ratios are taken within rounds."""

import pytest

from src.speed.stopwatch import PHASES, PhaseProfiler, Spread, StepTimer, ratios, rotated


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def one_step(profiler: PhaseProfiler, clock: FakeClock) -> None:
    """1 s data, 2 transfer, 4 encode, 8 head, 16 log, 32 backward, 64 optimizer, 128 loop with a callback's log."""
    for name, seconds in (
        ("[_TrainingEpochLoop].train_dataloader_next", 1),
        ("[Strategy]X.batch_to_device", 2),
    ):
        with profiler.profile(name):
            clock.now += seconds
    with profiler.profile("run_training_batch"):
        with profiler.profile("[Strategy]X.training_step"):
            clock.now += 4
            with profiler.profile("head"):
                clock.now += 8
            with profiler.profile("log"):
                clock.now += 16
        with profiler.profile("[Strategy]X.backward"):
            clock.now += 32
        with profiler.profile("[Callback]Y.on_before_optimizer_step"):
            clock.now += 64
    clock.now += 28
    with profiler.profile("log"):
        clock.now += 100


def test_phases_add_up_to_the_step() -> None:
    clock, settled = FakeClock(), []
    profiler = PhaseProfiler(lambda: settled.append(clock.now), clock)
    timer = StepTimer(1, 2, lambda: None, profiler, clock)
    for batch in range(1, 5):
        one_step(profiler, clock)
        timer.done(batch)
    assert timer.seconds == 2 * 255
    assert timer.phases == dict(zip(PHASES, (6, 8, 16, 64, 128, 2 * (128 + 16)), strict=True))
    assert sum(timer.phases.values()) == timer.seconds
    assert len(settled) == 4 * 14  # at both borders of the seven actions, and of no other


def test_too_short_a_fit_has_no_time() -> None:
    timer = StepTimer(1, 2, lambda: None, None, FakeClock())
    timer.done(1)
    timer.done(2)
    assert timer.seconds is None


def test_ratios_are_of_each_round() -> None:
    """A machine that is ten times as slow in the second round changes no ratio."""
    rates = {"slow": [1.0, 0.1, 2.0], "fast": [7.0, 0.7, 14.0], "other": [14.0, 1.4, 42.0]}
    found = ratios(rates, {"slow": "slow", "fast": "slow", "other": "fast"})
    assert found.keys() == {"fast", "other"}
    assert found["fast"] == Spread(pytest.approx(7), pytest.approx(7), pytest.approx(7), 3)
    assert found["other"] == Spread(pytest.approx(2), pytest.approx(2), pytest.approx(3), 3)


def test_every_way_is_once_in_a_round_and_begins_once() -> None:
    orders = [rotated(["a", "b", "c"], number) for number in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
