"""Lightning callbacks of a training run. One that names `record` or `stop` in its signature is given the run's."""

import inspect
from typing import Any

from omegaconf import DictConfig

from src.core.annotations import locate
from src.core.config import build


def build_parts(group: DictConfig | None, **context: Any) -> list[Any]:
    """Build every node of a group (callbacks, loggers) in order, handing each the context it asks for by name.

    Entries set to null are left out, so that `callbacks.progress=null` switches one off.
    """
    parts = []
    for name, node in (group or {}).items():
        if node is not None:
            wanted = inspect.signature(locate(node["_target_"], str(name))).parameters
            parts.append(build(node, **{key: value for key, value in context.items() if key in wanted}))
    return parts
