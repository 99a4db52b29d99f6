"""A real process with a terminal: nothing ever asks a question, and the runs of one `-m` do not mix."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.wandb.runs import note, rows_kept, rows_sent
from tests.wandb.standin import Standin

ROOT = Path(__file__).resolve().parents[2]


def at_a_terminal(*arguments: str, limit_s: float) -> tuple[int | None, list[str]]:
    """Exit code of `python -m <arguments>` and the lines it showed; None: it waited, e.g. for an answer."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown, end = b"", time.monotonic() + limit_s
    try:
        while time.monotonic() < end:
            if select.select([screen], [], [], 0.2)[0]:
                try:
                    shown += os.read(screen, 4096)
                except OSError:  # Linux: nobody has the terminal open any more
                    break
            elif process.poll() is not None:
                break
        waits = time.monotonic() >= end
        if waits:
            process.kill()
        code = process.wait(30)
    finally:
        os.close(screen)
    return None if waits else code, shown.decode().replace("\r", "").splitlines()


@pytest.mark.slow
def test_at_a_terminal_nothing_asks_and_the_runs_of_one_process_do_not_mix(
    tmp_path: Path, server: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")  # so that `auto` decides
    code, shown = at_a_terminal(
        "tests.wandb.runs", "-m", "+name=one,two", "+login=false,true", "+rows=6", f"+folder={tmp_path}",
        f"hydra.sweep.dir={tmp_path}/sweep", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled",
        limit_s=120,
    )  # fmt: skip
    assert code == 0, shown
    sentence = "logger.wandb.mode: found online, but nobody is logged in to"
    assert len(shown) == 2 and all(line.startswith(sentence) for line in shown), shown
    online = [tmp_path / f"{name},login=True" for name in ("one", "two")]
    offline = [tmp_path / f"{name},login=False" for name in ("one", "two")]
    assert {run.id for run in server.runs()} == {note(folder)["init"]["id"] for folder in online}
    for folder in online:
        assert rows_sent(server.run(note(folder)["init"]["id"])) == rows_kept(folder)
    for folder in online + offline:
        (segment,) = note(folder)["segments"]
        assert segment.startswith("offline-run-" if folder in offline else "run-")
        assert len(rows_kept(folder)) == 7, "6 steps and a validation"
