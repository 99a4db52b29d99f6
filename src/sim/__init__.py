"""The simulator: tasks, world, renderer, expert, instructions. Importing it registers the Gymnasium environments.

Flows in: suite, split, index. Flows out: tasks, worlds to drive, pictures, outcomes; see each module's docstring.
"""

from gymnasium.envs.registration import register, registry

from src.sim.expert import Expert
from src.sim.outcome import Outcome
from src.sim.renderer import Renderer
from src.sim.stage import CONTROL_PERIOD, Stage
from src.sim.tasks import MAX_STEPS, SPLITS, SUITE_VERSION, SUITES, Task, sample_task
from src.sim.world import COMMAND_LIMIT, World

__all__ = [
    "COMMAND_LIMIT",
    "CONTROL_PERIOD",
    "ENVIRONMENTS",
    "MAX_STEPS",
    "SPLITS",
    "SUITES",
    "SUITE_VERSION",
    "Expert",
    "Outcome",
    "Renderer",
    "Stage",
    "Task",
    "World",
    "sample_task",
]

ENVIRONMENTS = {suite: f"MobileVLA/{suite.capitalize()}-v0" for suite in SUITES}

for _suite, _name in ENVIRONMENTS.items():
    if _name not in registry:
        register(id=_name, entry_point="src.sim.env:MobileVLAEnv", kwargs={"suite": _suite})
