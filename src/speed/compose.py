"""Owns composing a run's config inside another command, as the command line would.

In: overrides of conf/train.yaml. Out: the checked config.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.cli import CONF
from src.core.config import check
from src.core.errors import ProjectError
from src.core.overrides import explain, register_resolvers, root_keys

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(name: str, overrides: Sequence[str], run_folder: Path) -> "DictConfig":
    """conf/<name>.yaml with these overrides, for a run in `run_folder`.

    Raises:
        ProjectError: an override that is none, or a key or value that does not fit.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    GlobalHydra.instance().clear()  # that of the benchmark's own command line has done its work
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(name, overrides=[*overrides, f"run_folder={run_folder}"])
    except (HydraException, OmegaConfBaseException) as error:
        raise ProjectError(f"benchmark.train: {explain(error, CONF, name, overrides)}") from error
    check(cfg, root_keys(CONF, name))
    return cfg
