"""Entry point: finished runs to the paper table.  python -m src.compare experiment=<name>

Flows in: conf/compare.yaml and the command line. Flows out: Markdown, LaTeX, CSV, figure and page of the table.
"""

import sys

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("compare")
def main(cfg: DictConfig) -> None:
    from src.core.config import build

    build(cfg)


if __name__ == "__main__":
    # conf/experiment is a group of training; Hydra would look for its options here too, so the key has another name.
    sys.argv[1:] = [
        "comparison" + word[10:] if word.startswith("experiment=") else word for word in sys.argv[1:]
    ]
    main()
