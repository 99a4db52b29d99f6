"""Owns reading the runs of a comparison from W&B, for those who were trained elsewhere.

In: project, entity and group. Out: the same Runs that their folders would give: the logger keeps the content of
run.json beside the nested config, because W&B drops empty values of that.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from src.comparison.run import Run, from_record, unreadable
from src.core.errors import ProjectError
from src.experiment import wandb_server
from src.experiment.wandb_facts import RECORD, REPORT

_OVER = {"crashed", "failed", "killed", "finished"}
"""States that W&B gives a run whose process is gone."""


def load(project: str, entity: str | None, group: str) -> list[Run]:
    """The runs of a group, sorted by id; `id` is `<entity>/<project>/<W&B id>`.

    Args:
        project: W&B project.
        entity: user or team; None: the default of the account.
        group: name of the comparison.

    Raises:
        ProjectError: not logged in, no answer, no such project, or nothing of that group in it.
    """
    require_login("source=wandb")
    place = f"wandb {entity or 'your account'}/{project}"
    with wandb_server.asking(
        place, "check wandb.project and wandb.entity, they may have another name by now"
    ) as api:
        owner = entity or api.default_entity
        found = list(api.runs(f"{owner}/{project}", filters={"$and": [{"group": group}]}))
    runs = sorted(
        (_run(one, f"{owner}/{project}/{one.id}") for one in found if RECORD in one.config), key=_id
    )
    if not runs:
        raise ProjectError(
            f"wandb {owner}/{project}: found no run of this project's logger in the group {group!r}, expected those "
            "of a comparison; check the group, or send them with python -m src.sync."
        )
    return runs


def require_login(what: str) -> None:
    """Refuse what needs the server where nobody is logged in, before W&B would ask for a key."""
    if not wandb_server.is_logged_in():
        raise ProjectError(f"{what}: nobody is logged in to W&B; run `wandb login`, or set WANDB_API_KEY.")
    if not wandb_server.is_reachable():
        raise ProjectError(f"{what}: the W&B server does not answer; try again when the network is back.")


def _run(one: Any, run_id: str) -> Run:
    try:
        record: dict[str, Any] = json.loads(one.config[RECORD])
        report: dict[str, Any] = json.loads(one.config.get(REPORT) or "{}")
        run = from_record(run_id, {**record, "wandb": run_id}, report)
    except (ValueError, TypeError, ProjectError) as error:
        return unreadable(run_id, f"{run_id}: {error}" if run_id not in str(error) else str(error))
    if record["state"] == "running" and one.state in _OVER:
        return replace(run, state="killed")  # it never came to say how it ended
    return run


def _id(run: Run) -> str:
    return run.id
