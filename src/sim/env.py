"""The simulator as a Gymnasium environment: MobileVLA/Reach-v0, Route1-v0, Route2-v0, Full1-v0, Full2-v0.

Flows in: `reset(seed=..., options={"index": n})` and commands (3,). Flows out: observations
{"image": (S, S, 3) uint8 RGB, "instruction": str}, reward 1 at success else 0, and the Outcome as `info["outcome"]`.
The simulator's own time-out is reported as truncation; success, contact and a wrong object are termination.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from src.core.errors import ProjectError
from src.sim import instructions
from src.sim.renderer import Renderer
from src.sim.stage import CONTROL_PERIOD
from src.sim.tasks import sample_task
from src.sim.world import COMMAND_LIMIT, World

Observation = dict[str, Any]

_INDICES = 1_000_000  # a reset without an index draws one below this


class MobileVLAEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """One suite as an environment.

    Args: `suite`, `split`, `language` as in `sample_task`; `image_size` px; `render_mode` None or "rgb_array" (the
    robot's own view). Options of `reset`: `index` (int), the task's number; without it one is drawn from the seed.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD)}

    def __init__(
        self,
        suite: str,
        split: str = "train",
        language: str = "en",
        image_size: int = 96,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ProjectError(f"MobileVLAEnv: render_mode is {render_mode!r}, expected None or 'rgb_array'.")
        sample_task(suite, split, 0, language)  # a wrong name fails here, not at the first reset
        self.suite, self.split, self.language = suite, split, language
        self.render_mode = render_mode
        self._renderer = Renderer(image_size)
        self._world: World | None = None
        texts = instructions.corpus(language)
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "instruction": spaces.Text(
                    max_length=max(map(len, texts)), charset=frozenset("".join(texts)), min_length=1
                ),
            }
        )
        self.action_space = spaces.Box(-COMMAND_LIMIT, COMMAND_LIMIT, (3,), np.float32)

    @property
    def world(self) -> World:
        """The running episode, for experts and evaluation."""
        if self._world is None:
            raise ProjectError("MobileVLAEnv: no episode has begun; call reset() first.")
        return self._world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the task `options["index"]`, or one drawn from the seeded generator."""
        super().reset(seed=seed)
        options = options or {}
        unknown = set(options) - {"index"}
        if unknown:
            raise ProjectError(f"MobileVLAEnv.reset: options hold {sorted(unknown)}, expected only 'index'.")
        index = int(options["index"]) if "index" in options else int(self.np_random.integers(_INDICES))
        self._world = World(sample_task(self.suite, self.split, index, self.language))
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold the command (3,) SI for 1/3 s."""
        world = self.world
        world.step(action)
        info = self._info()
        reward = 0.0
        if world.done:
            outcome = world.outcome()
            info["outcome"] = outcome.to_dict()
            reward = float(outcome.success)
        return self._observe(), reward, world.done and not world.timeout, world.timeout, info

    def render(self) -> NDArray[np.uint8] | None:
        """The robot's view (S, S, 3), or None without a render mode."""
        return self._renderer.render(self.world) if self.render_mode == "rgb_array" else None

    def _observe(self) -> Observation:
        return {"image": self._renderer.render(self.world), "instruction": self.world.task.instruction}

    def _info(self) -> dict[str, Any]:
        task = self.world.task
        return {"index": task.index, "pose": self.world.pose, "steps": self.world.steps}
