"""Owns the Weights & Biases side of a run: never a prompt, never a surprise, never the only copy.

In: the run record and conf/logger/wandb.yaml. Out: a W&B run whose files lie in <run>/wandb. Offline unless the user
is logged in and the server answers; `wandb sync <run>/wandb/offline-run-*` uploads it later.
"""

import hashlib
import netrc
import os
import socket
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger

from src.experiment.run_record import RunRecord

Mode = Literal["auto", "online", "offline"]


class RunWandbLogger(WandbLogger):
    """W&B with the run's folder, name and a stable id, so that a resumed run goes on in the same W&B run."""

    def __init__(
        self,
        record: RunRecord,
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
        mode: Mode,
    ) -> None:
        """
        Args:
            record: of the run.
            project: W&B project.
            entity: user or team; null: the default of the account.
            group: arms of one comparison share it.
            tags: labels.
            mode: `online`, `offline`, or `auto`: online when logged in and the server is reachable.
        """
        os.environ.setdefault("WANDB_SILENT", "true")
        chosen = choose_mode(mode)
        super().__init__(
            name=record.folder.name,
            save_dir=record.folder,
            project=project,
            id=hashlib.sha256(str(record.folder.resolve()).encode()).hexdigest()[:12],
            offline=chosen == "offline",
            log_model=False,
            entity=entity,
            group=group,
            tags=tags,
            resume="allow" if chosen == "online" else None,
            config=record.config,
            # Capturing the console would break the live progress line.
            settings=wandb.Settings(silent=True, console="off", mode=chosen),
        )
        self._wandb_init.pop("anonymous", None)  # Lightning still passes it; W&B 0.31 warns about it


def choose_mode(mode: Mode) -> Literal["online", "offline"]:
    """What `auto` means here and now. WANDB_MODE, where the user has set it, wins over `auto`."""
    if mode != "auto":
        return mode
    wish = os.environ.get("WANDB_MODE", "")
    if wish in ("offline", "online"):
        return "online" if wish == "online" else "offline"
    return "online" if is_logged_in() and is_reachable() else "offline"


def is_logged_in() -> bool:
    """Is there a key in the environment or in the netrc file? Never asks."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        path = os.environ.get("NETRC") or None
        return netrc.netrc(path).authenticators(_host()) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable(timeout_s: float = 2.0) -> bool:
    """Does the W&B server accept a connection within `timeout_s`?"""
    parts = urlsplit(_url())
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((_host(), port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def finish(exit_code: int) -> None:
    """Close the W&B run; otherwise the next run of this process would silently go on in it."""
    if wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def _url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _host() -> str:
    return urlsplit(_url()).hostname or "api.wandb.ai"


def summarise(metrics: dict[str, Any]) -> None:
    """Put final figures into the summary of the running W&B run, if there is one."""
    if wandb.run is not None:
        wandb.run.summary.update(metrics)
