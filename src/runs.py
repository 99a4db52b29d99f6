"""Entry point: which runs are there, in which state, with which figure.  python -m src.runs state=failed

Flows in: conf/runs.yaml and run.json files below outputs/ and multirun/. Flows out: a table, or JSON lines; one run
with show=<run>; why two runs differ with diff=[<run>,<run>]. Nothing is written.
"""

import sys

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("runs")
def main(cfg: DictConfig) -> None:
    from src.core.config import build

    build(cfg)


if __name__ == "__main__":
    from src.comparison.listing.words import as_hydra_reads

    sys.argv[1:] = as_hydra_reads(sys.argv[1:])
    main()
