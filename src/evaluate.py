"""Entry point: measure a finished run again.  python -m src.evaluate run=outputs/<name>

Flows in: conf/evaluate.yaml and the command line. Flows out: a report in the run folder, and its figures on the screen.
"""

from pathlib import Path

from omegaconf import DictConfig

from src.core.cli import entry_point


@entry_point("evaluate")
def main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from src.evaluation.evaluator import require_whole
    from src.evaluation.repeat import evaluate_run
    from src.evaluation.report.screen import show

    overrides = list(HydraConfig.get().overrides.task)
    report, folder = evaluate_run(cfg.run, cfg.checkpoint, cfg.device, cfg.name, cfg.evaluation, overrides)
    show(report, folder, Path(cfg.run))
    require_whole(report, Path(cfg.run))


if __name__ == "__main__":
    main()
