"""Owns the way from run folders to the paper table, step by step: gather, refuse, compute, write, show.

In: the settings of conf/compare.yaml. Out: the files of the table in <folder>/table, the same table on the screen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from src.comparison import audit, definition, differences, gather, plan, trained
from src.comparison.assemble import require_rows, table
from src.comparison.caption import own_command
from src.comparison.plan import Plan
from src.comparison.run import UNREADABLE, Run
from src.comparison.table import Table
from src.core.cli import CONF
from src.core.errors import ProjectError

SOURCES = ("folders", "wandb")


def compare(
    comparison: str | None = None,
    source: str = "folders",
    folder: str | None = None,
    runs: list[str] | None = None,
    by: list[str] | None = None,
    metrics: list[str] | None = None,
    reference: str | None = None,
    arms: list[str] | None = None,
    overrides: list[str] | None = None,
    allow: list[str] | None = None,
    to: str | None = None,
    publish: bool = False,
    wandb: dict[str, str | None] | None = None,
) -> list[Path]:
    """Make the table of an experiment, or of any runs; return the files written.

    Args:
        comparison: name of an experiment with a `comparison` node; None: compare `runs` by the values of `by`.
        source: folders, or wandb.
        folder: where the runs lie; None: multirun/<name>.
        runs: run folders, `*` allowed: what is compared, or, beside an experiment, arms of their own.
        by: keys of the config whose values name the arms.
        metrics: figures, the deciding one first; None: the experiment's.
        reference: the arm to test against; None: the experiment's.
        arms: only these arms of the experiment.
        overrides: what was given for all arms on training's command line; None: as the runs recorded it.
        allow: differences that are accepted, and stated: keys, facts, `unknown`, `missing`.
        to: folder of the files; None: <folder>/table.
        publish: send table and files to W&B.
        wandb: project and entity, for source=wandb and publish.

    Raises:
        ProjectError: settings that contradict each other, runs that are missing or may not be compared.
    """
    allowed, places = list(allow or []), dict(wandb or {})
    if source not in SOURCES:
        raise ProjectError(f"source: found {source!r}, expected one of {', '.join(SOURCES)}.")
    if comparison is None:
        _refuse_alone(arms=arms, overrides=overrides)
        chosen, candidates, place = _from_runs(runs, by, metrics, reference, folder, source)
    else:
        if by:
            raise ProjectError(
                "by: found beside an experiment, expected one of them; an experiment names its arms."
            )
        place = Path(folder or f"multirun/{_folder_name(comparison)}")
        candidates = _candidates(comparison, source, place, places)
        words = _shared(candidates, overrides)
        chosen = plan.from_experiment(comparison, words, arms, reference)
        if metrics:
            chosen = replace(chosen, metrics=tuple(metrics))
        if runs:
            others = gather.with_arms(gather.named(runs))
            chosen, candidates = plan.add_arms(chosen, others), [*candidates, *others]
    found = gather.choose(chosen, candidates, allowed)
    if len(set(chosen.metrics)) < len(chosen.metrics):
        raise ProjectError(
            f"metrics: found {', '.join(chosen.metrics)}, expected each figure once; leave one out."
        )
    unequal = [*differences.differences(chosen, found.runs), *trained.differences(chosen, found.runs)]
    refused, accepted = differences.split(chosen, unequal, allowed)
    if refused:
        from src.comparison.screen import show_differences

        show_differences(refused)
        differences.refuse(refused)
    audited = audit.audit(chosen, found.runs, allowed)
    warnings = [
        *audited,
        *trained.sentences(chosen, found.runs),
        *audit.unused(allowed, accepted, ("missing", "unknown", *audit.ALLOWED)),
        *_words_differ(chosen, candidates),
        *accepted,
        *differences.changed_since(chosen, found.runs),
        *differences.machines(found.runs),
    ]
    again = own_command(experiment=comparison, source=None if source == "folders" else source, folder=folder,
                        runs=runs, by=by, metrics=metrics, reference=reference, arms=arms, overrides=overrides,
                        allow=allow)  # fmt: skip
    result = table(chosen, found, warnings, again)
    require_rows(result)
    return _write(result, Path(to) if to else place / "table", publish, places)


def _write(result: Table, folder: Path, publish: bool, places: Mapping[str, str | None]) -> list[Path]:
    from src.comparison.render import write_all
    from src.comparison.screen import show

    for library in (
        "fontTools",
        "matplotlib",
    ):  # they tell every glyph of a figure at the level that Hydra prints
        logging.getLogger(library).setLevel(logging.WARNING)
    files = write_all(result, folder)
    show(result, files)
    if publish:
        from src.comparison.publish import publish as send

        print(send(result, files, _project(places), places.get("entity")))
    return files


def _candidates(name: str, source: str, place: Path, places: Mapping[str, str | None]) -> list[Run]:
    """All runs that may belong to the comparison, those of other experiments left out."""
    if source == "wandb":
        project = _project(places)
        from src.comparison.wandb_source import load

        found = load(project, places.get("entity"), _folder_name(name))
    else:
        found = gather.below(place)
    mine = [run for run in found if run.experiment == name or run.state == UNREADABLE]
    if not any(run.experiment == name for run in mine):
        others = sorted({str(run.experiment) for run in found if run.state != UNREADABLE})
        raise ProjectError(
            f"experiment={name}: none of {len(found)} runs in {place if source == 'folders' else 'W&B'} belongs to it "
            f"(found: {', '.join(others) or 'none'}); run python -m src.train --multirun experiment={name}."
        )
    return mine


def _from_runs(
    runs: list[str] | None,
    by: list[str] | None,
    metrics: list[str] | None,
    reference: str | None,
    folder: str | None,
    source: str,
) -> tuple[Plan, list[Run], Path]:
    if not runs or not by:
        raise ProjectError(
            "compare: found no experiment, expected experiment=<name>, or runs=[<folders>] by=[<keys>] "
            "metrics=[<figures>] reference=<arm>."
        )
    if source != "folders":
        raise ProjectError(
            f"source={source}: found together with runs, expected run folders; give an experiment."
        )
    found = gather.named(runs)
    place = Path(folder) if folder else _common(Path(run.id).parent for run in found)
    chosen, arms_named = plan.by_values(place.name or "table", found, by, metrics or [], reference)
    return chosen, gather.with_arms(arms_named), place


def _refuse_alone(**settings: list[str] | None) -> None:
    for key, value in settings.items():
        if value is not None:
            raise ProjectError(f"{key}: found {value} without an experiment, which nothing reads; remove it.")


def _common(parents: Iterable[Path]) -> Path:
    folders = sorted(set(parents))
    if len(folders) > 1:
        raise ProjectError(
            f"folder: found runs in {len(folders)} folders, expected one that the table lies in; give folder=<it>."
        )
    return Path(folders[0])


def _shared(candidates: Sequence[Run], given: list[str] | None) -> list[str]:
    """What was typed for all arms: as given, else as the first run recorded it."""
    if given is not None:
        return given
    known = [run for run in candidates if run.state != UNREADABLE]
    return plan.shared_overrides(min(known, key=lambda run: run.id))


def _words_differ(chosen: Plan, candidates: Sequence[Run]) -> list[str]:
    if chosen.experiment is None:
        return []
    mine = [run for run in candidates if run.experiment == chosen.experiment and run.arm in chosen.expected]
    kinds = {tuple(plan.shared_overrides(run)) for run in mine}
    if len(kinds) < 2:
        return []
    listed = "; ".join(sorted(" ".join(words) or "nothing" for words in kinds))
    return [f"The runs were started with different words for all arms: {listed}."]


def _folder_name(experiment: str) -> str:
    """`name` in the experiment's file, which names the sweep's folder and its group in W&B."""
    import yaml

    definition.read(experiment)  # says what is wrong with the name
    path = CONF / "experiment" / f"{experiment}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if "name" not in content:
        raise ProjectError(f"{path.name}: found no `name`, expected one: it names the folder of the runs.")
    return str(content["name"])


def _project(places: Mapping[str, str | None]) -> str:
    project = places.get("project")
    if not project:
        raise ProjectError("wandb.project: found none, expected the W&B project; give wandb.project=<name>.")
    return project
