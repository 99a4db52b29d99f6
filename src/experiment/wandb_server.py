"""Owns how W&B and its server are met: is anybody logged in, does it answer, ask it, give up on it.

In: environment, netrc file, the server. Out: online or offline; answers of `wandb.Api`, each within a time limit; and
no process of W&B that goes on trying after we gave up. Never a prompt. Imports W&B only where it is asked something.
"""

from __future__ import annotations

import contextlib
import math
import netrc
import os
import socket
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from src.core.errors import ProjectError

Mode = Literal["auto", "online", "offline"]
ANSWER_S = 20.0
"""Longest wait for one answer of the server, in s; W&B's own default is 19 s."""


@contextlib.contextmanager
def asking(place: str, advice: str, timeout_s: float = ANSWER_S) -> Iterator[Any]:
    """`with asking("wandb lab/table", "try again") as api`: a `wandb.Api` of which no call waits for longer.

    Args:
        place: what is asked for, begins the sentence of the error.
        advice: what to do about an error, ends it.
        timeout_s: for one call, in s.

    Raises:
        ProjectError: whatever W&B raises, as one sentence; W&B's own process, which would go on trying, is ended.
    """
    import wandb

    try:
        yield wandb.Api(timeout=max(1, math.ceil(timeout_s)))
    except ProjectError:
        raise
    except Exception as error:
        abandon()
        raise ProjectError(f"{place}: no answer to use ({first_line(error)}); {advice}.") from error


def choose_mode(mode: Mode) -> Literal["online", "offline"]:
    """What `auto` means here and now. WANDB_MODE, where the user has set it, wins over `auto`.

    Raises:
        ProjectError: online was asked for without a login: W&B would stop and ask for a key.
    """
    wish = os.environ.get("WANDB_MODE", "") if mode == "auto" else mode
    if wish in ("offline", "dryrun"):
        return "offline"
    if wish == "online":
        if not is_logged_in():
            key = "logger.wandb.mode" if mode == "online" else "WANDB_MODE"
            raise ProjectError(
                f"{key}: found online, but nobody is logged in to {_url()}; run `wandb login`, or use "
                "logger.wandb.mode=offline."
            )
        return "online"
    return "online" if is_logged_in() and is_reachable() else "offline"


def is_logged_in() -> bool:
    """Is there a key in the environment or in the netrc file? Never asks."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
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


def _url() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _host() -> str:
    return urlsplit(_url()).hostname or "api.wandb.ai"


def abandon() -> None:
    """End W&B's own process and everything that waits for it; the next `wandb.init` starts a new one.

    W&B 0.31 has no public way to give up a process that hangs, and would wait for it when this program ends.
    """
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import module

    connection = getattr(wandb_setup._singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
        process.wait()
    # SystemExit: it passes on the exit code of the process that was killed.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
    if wandb.run is not None:
        module.unset_globals()
    os.environ.pop("WANDB_SERVICE", None)


def first_line(error: BaseException) -> str:
    """The first line of what it says, without its full stop; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
