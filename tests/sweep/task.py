"""A light program that searches like src.train does: the same sweeper, the same reports, no training.

In: conf/ of this folder and the project's conf/ on Hydra's search path. Out: figures of a parabola. One line per start
and per finished run in <sweep>/log.txt, by which tests see what was really run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

import src  # noqa: F401  puts the project's plugins on the path


@hydra.main(version_base="1.3", config_path="conf", config_name="task")
def main(cfg: Any) -> dict[str, float]:
    """(x - 0.3)² + (k - 3)², after `steps` reports of `seconds` each; fails where k is `fail_at`."""
    from src.core.config import build
    from src.sweep.reporter import Reporter

    output = Path(HydraConfig.get().runtime.output_dir)
    log = output.parent / "log.txt"
    _note(log, f"start {output.name} {cfg.x!r} {cfg.k}")
    if cfg.fail_at == cfg.k:
        raise ValueError(f"k is {cfg.k}")
    trial = cfg.trial
    loss = (cfg.x - 0.3) ** 2 + (cfg.k - 3) ** 2
    if trial.metric is not None:
        reporter = Reporter(trial.storage, trial.study, trial.number, build(trial.pruner))
        for step in range(1, cfg.steps + 1):
            time.sleep(cfg.seconds)
            if reporter.report(loss + 1 / step, step):
                reporter.close()
                _note(log, f"pruned {output.name}")
                return {"pruned": 1.0}
        reporter.close()
    else:
        time.sleep(cfg.seconds * cfg.steps)
    _note(log, f"end {output.name}")
    return {"best/val/loss": loss, "cost": float(cfg.k)}


def _note(log: Path, line: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


if __name__ == "__main__":
    main()
