"""Entry point: add a run's adapter to its base model.  python -m src.merge run=outputs/<name> to=<folder>

Flows in: conf/merge.yaml and the command line. Flows out: a Hugging Face folder that loads without peft.
"""

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("merge")
def main(cfg: DictConfig) -> None:
    from src.core.config import build
    from src.experiment.quiet import silence

    silence()
    build(cfg)


if __name__ == "__main__":
    main()
