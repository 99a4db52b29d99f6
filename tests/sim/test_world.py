"""The robot moves as commanded and every way an episode can end is judged as it should be."""

import math

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.sim import COMMAND_LIMIT, CONTROL_PERIOD, MAX_STEPS, SUITES, Expert, World, sample_task
from src.sim.route import opposite, shortest_path
from src.sim.scene import REACH_RADIUS, Box, Scene, Thing
from src.sim.tasks import Task


def build_task(boxes=(), things=((6.0, 4.0),), sides=(), target=0, start=(1.0, 4.0, 0.0)):
    """A task laid out by hand."""
    look = sample_task("reach", "train", 0).scene.look
    objects = tuple(Thing("red", "ball", x, y, 0.0, (0.9, 0.1, 0.1)) for x, y in things)
    scene = Scene(objects, tuple(Box(x, y, 0.0, 0.6, 0.8, 0.4) for x, y in boxes), look, start)
    return Task("full1", "train", 0, "en", scene, target, tuple(sides), "go", 0, ())


def drive(world, *points):
    """Drive straight through points (m) without turning until the episode ends or the last point is near."""
    for x, y in points:
        while not world.done and math.hypot(world.pose[0] - x, world.pose[1] - y) > 0.1:
            px, py, yaw = world.pose
            distance = math.hypot(x - px, y - py)
            speed = min(1.0, distance / CONTROL_PERIOD)
            angle = math.atan2(y - py, x - px) - yaw
            world.step(np.array([speed * math.cos(angle), speed * math.sin(angle), 0.0]))
    return world.outcome()


@pytest.mark.parametrize("yaw", [0.0, 1.0, -2.5])
@pytest.mark.parametrize(
    ("command", "axis"), [((1, 0, 0), "ahead"), ((0, 1, 0), "left"), ((0, 0, 1), "counter-clockwise")]
)
def test_each_axis_moves_the_body_the_way_it_says(yaw, command, axis):
    world = World(build_task(start=(4.0, 2.0, yaw)))
    for _ in range(3):
        world.step(np.array(command, float))
    x, y, new_yaw = world.pose
    ahead = math.cos(yaw) * (x - 4) + math.sin(yaw) * (y - 2)
    left = -math.sin(yaw) * (x - 4) + math.cos(yaw) * (y - 2)
    turned = math.remainder(new_yaw - yaw, 2 * math.pi)
    moved = {"ahead": ahead, "left": left, "counter-clockwise": turned}
    # One unit per second for one second, less the time constant of 0.1 s.
    assert moved.pop(axis) == pytest.approx(0.9, abs=0.02)
    assert np.abs(list(moved.values())).max() < 1e-3


def test_commands_beyond_the_limits_are_clipped():
    fast, limit = World(build_task()), World(build_task())
    fast.step(np.array([9.0, -9.0, 9.0]))
    limit.step(np.array([COMMAND_LIMIT, -COMMAND_LIMIT, COMMAND_LIMIT]))
    assert fast.pose == limit.pose


@pytest.mark.parametrize("action", [(np.nan, 0, 0), (0, np.inf, 0), (0, 0), ((0, 0, 0),)])
def test_impossible_commands_are_refused(action):
    with pytest.raises(ProjectError, match="expected three finite numbers"):
        World(build_task()).step(action)


def test_stepping_past_the_end_is_refused():
    world = World(build_task(things=((1.7, 4.0),)))
    drive(world, (2.0, 4.0))
    with pytest.raises(ProjectError, match="the episode is over"):
        world.step(np.zeros(3))


def test_success_without_a_box():
    outcome = drive(World(build_task()), (6.0, 4.0))
    assert outcome.success and outcome.right_object and not outcome.collision and not outcome.timeout
    assert outcome.right_side is None and outcome.side_passed == ()
    assert outcome.shortest_path == pytest.approx(5.0 - REACH_RADIUS)
    assert outcome.path_length == pytest.approx(outcome.shortest_path, abs=0.03)
    assert outcome.spl > 0.98


@pytest.mark.parametrize(("side", "y"), [("left", 5.2), ("right", 2.8)])
def test_side_is_judged_by_the_demand(side, y):
    way = ((2.5, y), (3.9, y), (6.0, 4.0))
    good = drive(World(build_task(boxes=((3.2, 4.0),), sides=(side,))), *way)
    assert good.success and good.right_side is True and good.side_passed == (side,)
    bad = drive(World(build_task(boxes=((3.2, 4.0),), sides=(opposite(side),))), *way)
    assert not bad.success and bad.right_side is False and bad.right_object and bad.spl == 0.0
    assert bad.side_passed == (side,)


def test_driving_back_and_passing_again_counts_the_last_pass():
    task = build_task(boxes=((2.2, 4.0),), things=((4.0, 4.0),), sides=("right",))
    outcome = drive(World(task), (1.5, 5.0), (2.4, 5.0), (1.5, 5.0), (1.5, 3.0), (2.8, 3.0), (4.0, 4.0))
    assert outcome.side_passed == ("right",) and outcome.success
    assert 0 < outcome.spl < 0.7


def test_collision_with_a_box_ends_the_episode():
    outcome = drive(World(build_task(boxes=((3.2, 4.0),), sides=("left",))), (6.0, 4.0))
    assert outcome.collision and not outcome.success and not outcome.timeout
    assert outcome.object_reached is None and outcome.right_side is False and outcome.side_passed == (None,)
    assert outcome.path_length == pytest.approx(3.2 - 0.3 - 0.2 - 1.0, abs=0.03)


def test_collision_with_a_wall_ends_the_episode():
    outcome = drive(World(build_task()), (1.0, 9.0))
    assert outcome.collision and outcome.path_length == pytest.approx(3.8, abs=0.03)


def test_wrong_object_ends_the_episode():
    outcome = drive(World(build_task(things=((6.0, 4.0), (4.0, 4.0)), target=0)), (6.0, 4.0))
    assert outcome.object_reached == 1 and not outcome.right_object and not outcome.success
    assert not outcome.collision and not outcome.timeout


def test_standing_still_times_out():
    world = World(build_task())
    while not world.done:
        world.step(np.zeros(3))
    outcome = world.outcome()
    assert outcome.timeout and outcome.steps == MAX_STEPS and not outcome.success and not outcome.right_object


def test_reaching_always_precedes_contact():
    for shape in ("ball", "cube", "can"):
        task = build_task()
        thing = Thing("red", shape, 3.0, 4.0, math.pi / 4, (0.9, 0.1, 0.1))  # a cube's corner first
        scene = Scene((thing,), (), task.scene.look, task.scene.start)
        world = World(Task("reach", "train", 0, "en", scene, 0, (), "go", 0, ()))
        while not world.done:
            world.step(np.array([COMMAND_LIMIT, 0.0, 0.0]))
        assert world.outcome().success


def test_reset_starts_over_exactly():
    world = World(sample_task("full1", "train", 0))
    commands = np.random.default_rng(0).uniform(-1, 1, (6, 3))

    def poses():
        world.reset()
        result = [world.pose]
        for command in commands:
            world.step(command)
            result.append(world.pose)
        return result

    assert poses() == poses()


def test_shortest_path_around_a_box_by_hand():
    task = build_task(boxes=((3.2, 4.0),), sides=("left",))
    # Over the two left corners of the box, grown by the robot's radius: (2.7, 4.6) and (3.7, 4.6).
    by_hand = math.hypot(1.7, 0.6) + 1.0 + math.hypot(2.3, 0.6) - REACH_RADIUS
    assert shortest_path(task.scene, ("left",), task.target_thing) == pytest.approx(by_hand, abs=2e-3)


@pytest.mark.parametrize("suite", SUITES)
def test_shortest_path_is_a_lower_bound_for_the_expert(suite):
    for i in range(4):
        task = sample_task(suite, "train", i)
        outcome, _ = _expert_drive(task)
        thing = task.target_thing
        direct = math.hypot(thing.x - task.scene.start[0], thing.y - task.scene.start[1]) - REACH_RADIUS
        assert direct - 1e-9 <= outcome.shortest_path <= outcome.path_length + 0.02


def _expert_drive(task):
    world = World(task)
    expert = Expert(world)
    commands = []
    while not world.done:
        commands.append(expert.act())
        world.step(commands[-1])
    return world.outcome(), np.array(commands)


def _success_rate(suite, split, count):
    outcomes = [_expert_drive(sample_task(suite, split, i))[0] for i in range(count)]
    assert all(outcome.steps <= MAX_STEPS for outcome in outcomes)
    return np.mean([outcome.success for outcome in outcomes])


@pytest.mark.parametrize("suite", SUITES)
def test_expert_succeeds(suite):
    assert _success_rate(suite, "train", 10) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_expert_succeeds_on_99_percent(suite):
    assert _success_rate(suite, "train", 500) >= 0.99
    assert _success_rate(suite, "wide", 100) >= 0.97


def test_expert_obeys_the_twin_and_stays_within_limits():
    for i in range(3):
        task = sample_task("full2", "train", i)
        (one, a), (other, b) = _expert_drive(task), _expert_drive(task.swapped())
        assert one.success and other.success
        assert one.side_passed == tuple(map(opposite, other.side_passed))
        assert max(np.abs(a).max(), np.abs(b).max()) <= COMMAND_LIMIT
        # The first sideways command already tells the twins apart.
        assert a[0, 1] * b[0, 1] < 0
        assert (a[0, 1] > 0) == (task.sides[0] == "left")
