"""A room shows, moves and ends as the library's own environment does; our commands are its actions."""

import gymnasium
import numpy as np
import pytest

pytest.importorskip("minigrid", reason="install it with pip install -e '.[external]'")

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.external.levels import COMMANDS, LEVELS, Bot, Room, bot_drive, check_levels, check_space

ACTIONS = {"rotate_left": 0, "rotate_right": 1, "forward": 2, "stop": 6}
"""As the library's documentation numbers them."""


@pytest.mark.parametrize("level", LEVELS)
def test_a_room_is_the_library_s_own_environment(level: str) -> None:
    """The reference: Gymnasium's environment behind the library's wrapper, driven with the library's action numbers."""
    from minigrid.wrappers import RGBImgPartialObsWrapper

    reference = RGBImgPartialObsWrapper(gymnasium.make(LEVELS[level]), tile_size=8)
    room = Room(level, tile=8)
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        seen, _ = reference.reset(seed=seed)
        room.reset(seed)
        assert room.mission == seen["mission"]
        over = False
        while not over:
            assert room.frame().dtype == np.uint8
            np.testing.assert_array_equal(room.frame(), seen["image"])
            name = str(rng.choice(list(ACTIONS)))
            seen, reward, terminated, truncated, _ = reference.step(ACTIONS[name])
            room.step(name)
            over = terminated or truncated
            assert (room.reward, room.done) == (reward, over)


def test_turning_left_is_counter_clockwise_and_forward_goes_where_the_robot_looks() -> None:
    room = Room("GoToObj")
    room.reset(0)
    x, y, yaw = room.pose
    room.step("rotate_left")
    assert room.pose[2] - yaw in (pytest.approx(np.pi / 2), pytest.approx(-3 * np.pi / 2))
    for _ in range(40):  # until it moved once: the way may be blocked
        x, y, yaw = room.pose
        room.step("forward")
        if room.pose[:2] != (x, y) or room.done:
            break
        room.step("rotate_right")
    assert room.pose[0] - x == pytest.approx(np.cos(yaw), abs=1e-9)
    assert room.pose[1] - y == pytest.approx(np.sin(yaw), abs=1e-9)


def test_every_command_is_its_own_class(space: ActionSpace) -> None:
    check_space(space)
    for name, command in COMMANDS.items():
        assert space.class_names[int(space.classify(np.array(command)))] == name


def test_another_action_space_is_refused(compose: object) -> None:
    with pytest.raises(ProjectError, match="choose data/action=babyai"):
        check_space(ActionSpace(("linear_x",), ("m/s",), (-1.0,), (1.0,), 1.0, {"stop": (0.0,)}))


@pytest.mark.parametrize("levels", [[], ["GoToDoor"], ["GoToObj", "GoToObj"]])
def test_levels_that_are_none_are_refused(levels: list[str]) -> None:
    with pytest.raises(ProjectError, match="GoToLocal"):
        check_levels("key", levels)


def test_another_mission_is_said_and_judged_as_the_level_would() -> None:
    room = Room("GoToLocal")
    room.reset(5)
    own = room.target
    other = next(thing for thing in room.things() if thing != own)
    room.reset(5, other)
    assert room.target == other
    assert room.mission in {f"go to {article} {' '.join(other)}" for article in ("the", "a")}
    drive = bot_drive(room)
    assert drive.problem is None and room.reward > 0
    front = room.env.unwrapped.grid.get(*room.env.unwrapped.front_pos)
    assert (front.color, front.type) == other


def test_the_bot_finds_back_after_being_pushed() -> None:
    room = Room("GoToRedBallGrey")
    rng = np.random.default_rng(1)
    for seed in range(5):
        room.reset(seed)
        bot = Bot(room)
        while not room.done:
            advice = bot.advise()
            assert advice is not None
            taken = str(rng.choice(["forward", "rotate_left"])) if rng.random() < 0.3 else advice
            room.step(taken)
            bot.did(taken)
        assert room.reward > 0


def test_the_digest_tells_rooms_and_missions_apart() -> None:
    room = Room("GoToLocal")
    digests = set()
    for seed in range(20):
        room.reset(seed)
        digests.add(room.digest())
    assert len(digests) == 20
    room.reset(7)
    first = room.digest()
    room.reset(7)
    assert room.digest() == first
    room.reset(7, next(thing for thing in room.things() if thing != room.target))
    assert room.digest() != first
