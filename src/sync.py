"""Entry point: send runs to W&B that it has not got yet.  python -m src.sync [runs=[…]] [dry_run=true]

Flows in: conf/sync.yaml, run folders. Flows out: the runs in W&B, a table of what became of each; exit code 1 if one of
them could not be sent.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.core.cli import entry_point


def sync(patterns: list[str], dry_run: bool, timeout_s: float) -> int:
    """Send what is missing of these runs; returns how many failed.

    Raises:
        ProjectError: not logged in, the server does not answer, or a folder that is not there.
    """
    from src.core.errors import ProjectError
    from src.experiment import wandb_server, wandb_sync
    from src.experiment.quiet import silence

    silence()
    folders = wandb_sync.find(patterns)
    if not folders:
        print(f"No run that used W&B in {', '.join(patterns)}.")
        return 0
    if not dry_run:
        if not wandb_server.is_logged_in():
            raise ProjectError(
                f"W&B: nobody is logged in, so {len(folders)} runs stay offline; run `wandb login` (or set "
                "WANDB_API_KEY), then this again."
            )
        if not wandb_server.is_reachable():
            raise ProjectError(
                "W&B: the server does not answer, expected a connection; try again when the network is back."
            )
    outcomes = []
    for folder in folders:
        outcomes.append(wandb_sync.push(folder, _shown, timeout_s, dry_run))
        print(f"{len(outcomes)}/{len(folders)}  {folder}: {outcomes[-1].did}", flush=True)
    _show(outcomes)
    return sum(outcome.did == "failed" for outcome in outcomes)


def _shown(folder: Path) -> Any:
    """What W&B shows of the run's report, if it has one."""
    from src.evaluation.report import media, record

    return media.gather(record.read(folder), folder) if (folder / record.FILE).is_file() else None


def _show(outcomes: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "sent", "where, or why not")
    for outcome in outcomes:
        table.add_row(str(outcome.folder), outcome.did, outcome.words)
    Console().print(table)


@entry_point("sync")
def main(cfg: DictConfig) -> None:
    if sync([str(pattern) for pattern in cfg.runs], bool(cfg.dry_run), float(cfg.timeout_s)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
