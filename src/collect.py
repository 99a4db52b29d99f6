"""Entry point: record demonstrations in the simulator.  python -m src.collect suite=full1 episodes=800

Flows in: conf/collect.yaml and the command line. Flows out: a folder of HDF5 episodes with `dataset.json`.
"""

import time

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("collect")
def main(cfg: DictConfig) -> None:
    from src.core.config import build

    begun = time.monotonic()
    dataset = build(cfg)
    seconds = time.monotonic() - begun
    print(
        f"{dataset['episodes']} episodes, {dataset['frames']} frames in {cfg.out} "
        f"({dataset['kept']} were there already, {dataset['dropped_attempts']} failed drives "
        f"dropped, {len(dataset['left_out'])} left out), {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
