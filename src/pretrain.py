"""Pre-train the tiny Kosmos-2 that ships in assets/:  python -m src.pretrain

In: conf/pretrain.yaml. Out: a folder that `from_pretrained` loads, with `pretrain.json`, the record of the run.
"""

from typing import TYPE_CHECKING

from src.core.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("pretrain")
def main(cfg: "DictConfig") -> None:
    from src.core.config import build
    from src.pretraining.run import show

    show(build(cfg))


if __name__ == "__main__":
    main()
