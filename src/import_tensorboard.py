"""Entry point: make runs of old TensorBoard folders.  python -m src.import_tensorboard source=<folder with version_*>

Flows in: conf/import_tensorboard.yaml and the command line. Flows out: a run folder for each, and a table. Exit code 1
if one of them could not be read.
"""

import sys

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("import_tensorboard")
def main(cfg: DictConfig) -> None:
    from src.core.config import build
    from src.experiment.tensorboard_import import show

    done = build(cfg)
    show(done)
    if any(one.outcome == "refused" for one in done):
        raise SystemExit(1)


if __name__ == "__main__":
    from src.comparison.listing.words import as_hydra_reads

    sys.argv[1:] = as_hydra_reads(sys.argv[1:])
    main()
