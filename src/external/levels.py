"""Owns BabyAI's rooms: opening a level of MiniGrid, its bot, its words, and how our commands become its actions.

In: the name of a level and a seed. Out: a `Room`, which shows the robot's view, moves on a command, and says when the
mission is done. Levels, rewards, time-outs and the bot are those of the library `minigrid` (Chevalier-Boisvert et al.
2019, "BabyAI", arXiv:1810.08272; 2023, "Minigrid & Miniworld", arXiv:2306.13831); nothing of them is changed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace

LEVELS = {
    "GoToRedBallGrey": "BabyAI-GoToRedBallGrey-v0",
    "GoToRedBall": "BabyAI-GoToRedBall-v0",
    "GoToObj": "BabyAI-GoToObj-v0",
    "GoToLocal": "BabyAI-GoToLocal-v0",
}
"""The levels in one room whose missions are `go to …`, easiest first, and their ids in Gymnasium."""

VIEW = 7
"""Cells on each side of the square that the robot sees; it stands in the middle of the last row and looks up."""

CELL, PERIOD, TURN = 1.0, 1.0, math.pi / 2
"""One action of a level in our units: a cell is called 1 m and a step 1 s; a turn is a quarter circle, in rad."""

AXES, UNITS = ("linear_x", "angular_z"), ("m/s", "rad/s")
COMMANDS = {
    "stop": (0.0, 0.0),
    "forward": (CELL / PERIOD, 0.0),
    "rotate_left": (0.0, TURN / PERIOD),
    "rotate_right": (0.0, -TURN / PERIOD),
}
"""Direction class → (linear_x, angular_z) in m/s and rad/s. `stop` is the level's `done`, which moves nothing."""

VALIDATION_SEEDS = 900_000
"""Rooms below this seed may be recorded; from it on they serve glances during training."""
TEST_SEEDS = 1_000_000
"""Rooms from this seed on are driven by the evaluation and never recorded."""

Thing = tuple[str, str]
"""Colour and kind, e.g. ("red", "ball")."""


def require_minigrid(key: str) -> str:
    """The version of the library; a ProjectError with the fix where it is missing. `key` names who asks."""
    try:
        import minigrid  # noqa: F401 - asked whether it is there

        return importlib.metadata.version("minigrid")
    except ImportError as error:
        raise ProjectError(
            f"{key} needs the package minigrid, which is not installed here ({error}); install it with "
            "pip install -e '.[external]'."
        ) from error


def check_levels(key: str, levels: list[str] | tuple[str, ...]) -> None:
    """Refuse a level that is not among `LEVELS`, one named twice, and an empty list."""
    unknown = [level for level in levels if level not in LEVELS]
    if unknown or not levels or len(set(levels)) < len(levels):
        found = f"'{unknown[0]}'" if unknown else str(list(levels))
        raise ProjectError(
            f"{key}: found {found}, expected each at most once of {', '.join(LEVELS)}; correct it."
        )


def check_space(space: ActionSpace) -> None:
    """Refuse an action space whose classes do not mean what a level can do."""
    wanted = {name: np.array(command) for name, command in COMMANDS.items()}
    fits = tuple(space.names) == AXES and tuple(space.units) == UNITS and set(space.classes) == set(wanted)
    for name, direction in space.classes.items():
        fits = fits and bool(np.allclose(np.array(direction) * space.scale, wanted[name]))
    if not fits or space.control_period != PERIOD:
        raise ProjectError(
            f"data.action: found axes {', '.join(space.names)} and classes {', '.join(space.classes) or 'none'}, "
            "expected what a BabyAI level can do (a cell forward, a quarter turn, stop, once a second); choose "
            "data/action=babyai."
        )


class Room:
    """One level with one room at a time; the same object serves one seed after another.

    Args:
        level: a name of `LEVELS`.
        tile: px per cell; a frame is `VIEW * tile` px wide and high.
    """

    def __init__(self, level: str, tile: int = 8) -> None:
        require_minigrid("a BabyAI level")
        import gymnasium
        from minigrid.core.actions import Actions

        self.level, self.tile = level, tile
        # The checker would render and compare every observation; tests compare ours with the library's wrapper once.
        self.env: Any = gymnasium.make(LEVELS[level], disable_env_checker=True)
        self._codes = {
            "stop": Actions.done,
            "forward": Actions.forward,
            "rotate_left": Actions.left,
            "rotate_right": Actions.right,
        }
        self.names = {int(code): name for name, code in self._codes.items()}
        """Action code of the level → direction class; picking up, dropping and opening are none of a mobile base."""

    def reset(self, seed: int, target: Thing | None = None) -> None:
        """Build the room of `seed`; with `target`, its mission is to go to that thing instead of the level's own."""
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every layout that it rejects
            self.env.reset(seed=seed)
        self.done, self.reward, self.steps = False, 0.0, 0
        if target is not None and target != self.target:
            self._demand(target)

    def _demand(self, target: Thing) -> None:
        from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc

        colour, kind = target
        world = self.env.unwrapped
        world.instrs = GoToInstr(ObjDesc(kind, colour))
        world.instrs.reset_verifier(world)
        world.mission = world.instrs.surface(world)

    @property
    def mission(self) -> str:
        """What the level says, e.g. `go to the red ball`."""
        return str(self.env.unwrapped.mission)

    @property
    def target(self) -> Thing:
        """What the mission demands. Several such things may stand in the room; any of them counts."""
        wanted = self.env.unwrapped.instrs.desc
        return wanted.color, wanted.type

    def things(self) -> list[Thing]:
        """Every colour and kind in the room once, in alphabetical order."""
        cells = self.env.unwrapped.grid.grid
        return sorted({(cell.color, cell.type) for cell in cells if cell is not None and cell.type != "wall"})

    def frame(self) -> np.ndarray:
        """(S, S, 3) uint8 RGB, S = `VIEW * tile`: what `RGBImgPartialObsWrapper` of the library shows."""
        return np.asarray(self.env.unwrapped.get_frame(tile_size=self.tile, agent_pov=True), dtype=np.uint8)

    @property
    def pose(self) -> tuple[float, float, float]:
        """x m to the right, y m up the map, yaw rad counter-clockwise; a level's own rows run downwards."""
        world = self.env.unwrapped
        x, y = world.agent_pos
        return float(x) * CELL, -float(y) * CELL, -int(world.agent_dir) * TURN

    def step(self, name: str) -> None:
        """Carry out a direction class; `done`, `reward` and `steps` then tell how it went.

        `reward` is the level's own: 1 - 0.9 * steps / limit at the moment of success, else 0.
        """
        _, reward, terminated, truncated, _ = self.env.step(self._codes[name])
        self.reward, self.done, self.steps = float(reward), bool(terminated or truncated), self.steps + 1

    def digest(self) -> str:
        """16 hex digits of all that makes this episode: walls, things, where the robot stands, the mission."""
        world = self.env.unwrapped
        start = (*(int(v) for v in world.agent_pos), int(world.agent_dir), self.mission)
        content = world.grid.encode().tobytes() + repr(start).encode()
        return hashlib.sha256(content).hexdigest()[:16]


@dataclass(frozen=True)
class Advice:
    """How the bot's drive ended: direction classes, one per step, or why there is none."""

    steps: tuple[str, ...]
    problem: str | None


class Bot:
    """The library's expert, for the room as it stands; it knows the map that it has seen, and the mission."""

    def __init__(self, room: Room) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self.room = room
        self._bot = BabyAIBot(room.env)
        self._taken: int | None = None

    def advise(self) -> str | None:
        """The direction class that the bot would choose now; None where it asks for something no mobile base can do.

        It tells apart what it advised and what was done, so it recovers from being pushed (see `did`). Its failures
        (AssertionError and others on unlucky rooms) are not caught here.
        """
        return self.room.names.get(int(self._bot.replan(self._taken)))

    def did(self, name: str) -> None:
        """Tell it what was carried out."""
        self._taken = int(self.room._codes[name])


def bot_drive(room: Room) -> Advice:
    """Let the bot drive the room as it stands, to the end."""
    steps: list[str] = []
    try:
        bot = Bot(room)
        while not room.done:
            name = bot.advise()
            if name is None:
                return Advice(tuple(steps), "moves things out of the way")
            room.step(name)
            bot.did(name)
            steps.append(name)
    except Exception as error:  # whatever a third party's planner raises, the room is left out and counted
        return Advice(tuple(steps), f"raises {type(error).__name__}")
    return Advice(tuple(steps), None if room.reward > 0 else "runs out of time")
