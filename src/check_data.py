"""Entry point: look at a data folder before training.  python -m src.check_data data=mobile_vla data.root=<folder>

Flows in: conf/check_data.yaml with the same conf/data group as a training. Flows out: a table, check.html, check.json
and dataset_card.md. Exit code 1 if there is an error among the findings.
"""

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("check_data")
def main(cfg: DictConfig) -> None:
    from src.core.config import build
    from src.data.check.screen import show

    outcome = build(cfg)
    show(outcome)
    if outcome.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
