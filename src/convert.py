"""Entry point: episodes to and from LeRobot's format.  python -m src.convert source=<folder> to=<folder>

Flows in: conf/convert.yaml and the command line. Flows out: a LeRobotDataset v3.0, or a folder of HDF5 episodes.
"""

import time

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("convert")
def main(cfg: DictConfig) -> None:
    from src.core.config import build

    begun = time.monotonic()
    result = build(cfg)
    seconds = time.monotonic() - begun
    print(f"{result['episodes']} episodes, {result['frames']} frames in {cfg.to}, {seconds:.0f} s")
    if result["psnr_db"] is not None:
        print(
            "the video is lossy: PSNR {mean} dB on average, {min} dB in the worst episode".format(
                **result["psnr_db"]
            )
        )
    for bad in result["skipped"]:
        print(f"left out {bad['file']}: {bad['reason']}")


if __name__ == "__main__":
    main()
