"""Owns what a comparison is: its question, its arms, its seeds, and the figures that decide.

In: the node `comparison` of conf/experiment/<name>.yaml. Out: the jobs of a sweep (arms × seeds), for every arm the
config it stands for, and from these the *compared keys*: the leaves of the config in which the arms differ. Training
(the sweeper) and reporting (the table) read the same definition, so neither can drift from the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.core.cli import CONF
from src.core.config import build, did_you_mean
from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.core.overrides import register_resolvers

_ABSENT = "absent"
RUN_FOLDER = "RUN"
"""Stands for the run's own folder in a config that no run has."""
PLAN = (
    "comparison",
    "arm",
    "seed",
    "trial",
    "name",
    "run_folder",
    "resume",
    "logger",
    "callbacks.progress",
    "hydra",
)
"""Keys of a run's config that say where it belongs and what is shown of it, and not what was trained: two runs of one
arm may differ in them."""


class Comparison:
    """Arms × seeds and the figures to compare; one paper table."""

    def __init__(
        self,
        question: str,
        arms: dict[str, list[str]],
        reference: str,
        metrics: list[str],
        seeds: list[int],
        may_differ: list[str] | None = None,
    ) -> None:
        """
        Args:
            question: what the table answers, one sentence; it becomes the caption's first.
            arms: name in the table → overrides that make the arm, as on the command line.
            reference: the arm that the others are tested against.
            metrics: figures of run.json's `metrics`; the first one decides.
            seeds: training seeds; each arm is trained once with each.
            may_differ: facts of a run (`data.instruction.hash`, …) that differ between arms because of what is
                compared, beyond the compared keys themselves; stated under the table.

        Raises:
            ProjectError: no arms, no seeds, a name twice or unfit for a folder, or an unknown reference.
        """
        if len(arms) < 2:
            raise ProjectError(f"comparison.arms: found {len(arms)}, expected two or more to compare.")
        for name in arms:
            if not name or any(not (sign.isalnum() or sign in "_.+-") for sign in name):
                raise ProjectError(
                    f"comparison.arms: found the name {name!r}, expected letters, digits and _ . + - only, for it "
                    "names a folder."
                )
        if reference not in arms:
            raise ProjectError(
                f"comparison.reference: found {reference!r}, expected one of {', '.join(arms)}"
                f"{did_you_mean(reference, arms) or '.'}"
            )
        if not metrics:
            raise ProjectError(
                "comparison.metrics: found none, expected the figure that decides, and others after it."
            )
        if not seeds or len(set(seeds)) < len(seeds):
            raise ProjectError(f"comparison.seeds: found {seeds}, expected one or more different seeds.")
        self.question, self.reference = question, reference
        self.arms = {name: list(overrides) for name, overrides in arms.items()}
        self.metrics, self.seeds, self.may_differ = list(metrics), list(seeds), list(may_differ or [])

    def jobs(
        self, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[str, int, list[str]]]:
        """(arm, seed, overrides) of every run; `arms`, `seeds`: only these. All arms of a seed come before the next
        seed, so that an interrupted comparison has whole rows of arms."""
        for seed in self.seeds if seeds is None else seeds:
            for arm in self.arms if arms is None else arms:
                yield arm, seed, [*self.arm(arm), f"arm={arm}", f"seed={seed}"]

    def arm(self, name: str) -> list[str]:
        """The overrides of one arm."""
        if name not in self.arms:
            raise ProjectError(
                f"arm={name}: this comparison has no such arm{did_you_mean(name, self.arms) or '.'} "
                f"Arms: {', '.join(self.arms)}."
            )
        return self.arms[name]


def subfolder(arm: str, seed: int) -> str:
    """Where below multirun/<comparison>/ a run lies."""
    return f"{arm}-seed{seed}"


def load(experiment: str, overrides: Sequence[str] = ()) -> tuple[Comparison, dict[str, dict[str, Any]]]:
    """The comparison of conf/experiment/<experiment>.yaml, and arm → resolved config of its runs (seed: the first).

    Args:
        experiment: name of the file.
        overrides: what was changed on the command line for all arms, e.g. `trainer.max_epochs=1`.

    Raises:
        ProjectError: no such experiment, one that compares nothing, or an arm that cannot be composed.
    """
    comparison = read(experiment, overrides)
    return comparison, resolved(compose_arms(experiment, comparison, overrides))


def read(experiment: str, overrides: Sequence[str] = ()) -> Comparison:
    """The comparison of conf/experiment/<experiment>.yaml.

    From the file alone, for composing takes half a second, unless one of `overrides` changes the node itself
    (`comparison.metrics=[offline/error]`).

    Raises:
        ProjectError: no such experiment, or one that compares nothing or what cannot be.
    """
    from omegaconf import OmegaConf

    file: Any = OmegaConf.load(_file(experiment))
    if file.get("comparison") is None:
        raise ProjectError(
            f"experiment={experiment}: a single recipe that compares nothing, expected one with a `comparison` node; "
            "see conf/experiment/lora_placement.yaml."
        )
    node = file.comparison
    if any(word.lstrip("+~").startswith("comparison.") for word in overrides):
        node = OmegaConf.create(
            OmegaConf.to_container(compose_train(experiment, overrides).comparison, resolve=True)
        )
    comparison: Comparison = build(node)
    return comparison


def compose_arms(experiment: str, comparison: Comparison, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Arm → the config of its run with the first seed, interpolations as they are."""
    jobs = comparison.jobs(seeds=comparison.seeds[:1])
    return {name: compose_train(experiment, [*overrides, *changes]) for name, _, changes in jobs}


def resolved(composed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Configs as plain values."""
    from omegaconf import OmegaConf

    return {name: OmegaConf.to_container(one, resolve=True) for name, one in composed.items()}  # type: ignore[misc]


def followers(composed: Any) -> frozenset[str]:
    """Dotted leaves of a composed config that follow the seed (`data.seed: ${seed}`): those another seed changes."""
    from omegaconf import OmegaConf

    flat = []
    for seed in (int(composed.seed), int(composed.seed) + 1):
        other = composed.copy()
        other.seed = seed
        flat.append(dict(leaves(OmegaConf.to_container(other, resolve=True))))
    return frozenset(key for key in flat[0] if not is_plan(key) and flat[0][key] != flat[1][key])


def compose_train(experiment: str | None, overrides: Sequence[str] = ()) -> Any:
    """conf/train.yaml with this experiment, as a run of it gets it (run_folder stays a placeholder)."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if experiment is not None:
        _file(experiment)
    register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            chosen = [] if experiment is None else [f"experiment={experiment}"]
            return compose("train", overrides=[*chosen, f"run_folder={RUN_FOLDER}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = "" if experiment is None else f"experiment={experiment} "
        raise ProjectError(f"{where}{' '.join(overrides)}: {' '.join(lines[:2])}") from error


def _file(experiment: str) -> Path:
    path = CONF / "experiment" / f"{experiment}.yaml"
    options = sorted(one.stem for one in path.parent.glob("*.yaml"))
    if experiment not in options:
        raise ProjectError(
            f"experiment={experiment}: there is no conf/experiment/{experiment}.yaml"
            f"{did_you_mean(experiment, options) or '.'} Experiments: {', '.join(options)}."
        )
    return path


def compared_keys(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Dotted leaves in which the arms differ, `PLAN` left out, sorted."""
    flat = [dict(leaves(config)) for config in configs.values()]
    keys = sorted({key for one in flat for key in one})
    return [
        key
        for key in keys
        if not is_plan(key) and len({repr(one.get(key, _ABSENT)) for one in flat}) > 1  # 1 and 1.0 may differ
    ]


def is_plan(key: str) -> bool:
    """Does this dotted key say where a run belongs, and not what was trained?"""
    return any(key == name or key.startswith(f"{name}.") for name in PLAN)
