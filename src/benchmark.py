"""Entry point: how fast is this project on this machine, and against the slower ways.  python -m src.benchmark

Flows in: conf/benchmark.yaml and the command line. Flows out: tables, a JSON file under outputs/benchmarks/, and
the same JSON as the last line.
"""

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("benchmark")
def main(cfg: DictConfig) -> None:
    from src.core.config import build

    build(cfg.benchmark).run()


if __name__ == "__main__":
    main()
