"""Owns the sweeper of comparisons: the arms × seeds that an experiment's `comparison` node names, one job each.

In: `python -m src.train --multirun experiment=<name> [seed=0,1] [arm=a,b] [other overrides for all arms]`. Out: jobs
for the launcher, each in multirun/<name>/<arm>-seed<seed>/. Hydra finds this file by its place: a module of the
namespace `hydra_plugins`, which src/__init__.py puts on the path, so that nothing has to be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ComparisonSweeper(Sweeper):
    """Runs every arm of the experiment with every seed; what is finished is not run again (the task sees to it)."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch what `arguments` (the overrides as typed) and the experiment's node ask for.

        Raises:
            ProjectError: the experiment compares nothing, a key other than `seed` and `arm` is swept, a seed is no
                number, or an arm cannot be composed. Nothing has been written then.
        """
        from src.comparison.definition import subfolder
        from src.core.config import build
        from src.core.errors import ProjectError
        from src.core.overrides import try_out

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        if self.config.get("comparison") is None:
            raise ProjectError(
                "hydra/sweeper=comparison: this config has no `comparison` node, expected an experiment that names "
                "arms; choose one, e.g. experiment=lora_placement, or leave the sweeper out for a plain grid."
            )
        # The node alone: the rest of the config is only known once an arm has been composed.
        node: Any = OmegaConf.create(OmegaConf.to_container(self.config.comparison, resolve=True))
        comparison = build(node)
        chosen: dict[str, list[str]] = {}
        shared: list[str] = []
        for override in OverridesParser.create().parse_overrides(arguments):
            key = override.get_key_element()
            if key in ("seed", "arm"):
                chosen[key] = _values(override)
            elif override.is_sweep_override():
                raise ProjectError(
                    f"{override.input_line}: a comparison's arms stand in its experiment, so only seed and arm can be "
                    f"listed here; give one value of {key}, or add an arm to the file."
                )
            else:
                shared.append(str(override.input_line))
        for arm in chosen.get("arm", []):
            comparison.arm(arm)
        seeds = [_seed(text) for text in chosen["seed"]] if "seed" in chosen else None
        jobs = list(comparison.jobs(chosen.get("arm"), seeds))
        for overrides in {
            arm: overrides for arm, _, overrides in jobs
        }.values():  # seeds differ in nothing else
            try_out(self.config, [*shared, *overrides], self.hydra_context.config_loader)
        OmegaConf.save(self.config, _prepared(self.config) / "multirun.yaml")
        print(f"{comparison.question} {len(jobs)} runs: {_count(jobs)}.")
        batch = [
            [*shared, *overrides, f"hydra.sweep.subdir='{subfolder(arm, seed)}'"]
            for arm, seed, overrides in jobs
        ]
        self.validate_batch_is_legal(batch)
        return [self.launcher.launch(batch, initial_job_idx=0)]


def _values(override: Override) -> list[str]:
    """`seed=0,1`, `seed=range(5)` and `arm=text` alike."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.value())]


def _seed(text: str) -> int:
    from src.core.errors import ProjectError

    try:
        return int(text)
    except ValueError as error:
        raise ProjectError(
            f"seed: found {text}, expected whole numbers, as in seed=0,1; correct it."
        ) from error


def _prepared(config: DictConfig) -> Any:
    from pathlib import Path

    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _count(jobs: Sequence[tuple[str, int, list[str]]]) -> str:
    arms, seeds = dict.fromkeys(job[0] for job in jobs), dict.fromkeys(job[1] for job in jobs)
    return f"arms {', '.join(arms)}; seeds {', '.join(map(str, seeds))}"
