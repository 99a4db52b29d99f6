"""Train a policy, then judge its best checkpoint: the whole story on one screen.

In: conf/train.yaml and its groups, composed and checked by the command line. Out: a run folder with run.json,
metrics.csv, checkpoints/, report.json and rollouts/; the figures of the report.
"""

from typing import TYPE_CHECKING

from src.core.cli import entry_point
from src.experiment.early import before_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(cfg: "DictConfig") -> dict[str, float]:
    """Run the experiment that `cfg` describes; return the figures of its report, or that its study gave it up."""
    from src.experiment.signals import Pruned

    try:
        return _train(cfg)
    except Pruned as reason:
        print(f"pruned  {reason}")
        return reason.figures


def _train(cfg: "DictConfig") -> dict[str, float]:
    # Heavy imports happen here, so that --help and a typo are answered at once.
    from src.core.config import build
    from src.evaluation.evaluator import require_whole
    from src.evaluation.glance import Glance
    from src.evaluation.report import media
    from src.evaluation.report.screen import show
    from src.experiment import stages
    from src.experiment.checkpoint import build_policy
    from src.experiment.run_record import RunRecord, facts_for_report
    from src.experiment.signals import StopRequest
    from src.model.features.cache import attached

    start = stages.begin(cfg)
    if start.finished:
        return stages.figures_of(start.folder)
    cfg = start.cfg
    resumed = start.checkpoint is not None
    with (
        StopRequest() as stop,
        RunRecord(start.folder, cfg, resumed) as record,
        stages.loggers_closed(record),
    ):
        datamodule = build(cfg.data)
        # The model first: what is wrong with it shows before minutes go into making data.
        policy = build_policy(cfg, datamodule.action_space, datamodule.normalizer)
        policy.backbone.require_image_size(datamodule.image_size)
        datamodule.prepare_data()
        datamodule.setup("fit")
        policy.fit_actions(datamodule.training_actions())
        datamodule.bind(policy.tokenize)
        evaluation = build(cfg.evaluation)
        if evaluation is not None:
            evaluation.check(policy.horizon, datamodule)  # before the training, not after it
        stages.announce(record, datamodule, policy)
        stages.start_weights(record, policy, start)

        watching = [Glance(evaluation, datamodule, start.folder)] if evaluation is not None else []
        watching += (
            [build(cfg.trial)] if cfg.trial is not None else []
        )  # after the glance, whose figures it may want
        trainer = stages.build_trainer(cfg, record, stop, watching)
        with stop.deferred(), attached(build(cfg.features), policy, datamodule, trainer) as kept:
            record.note("training", features=kept)
            stages.fit(trainer, policy, datamodule, start.checkpoint)

        best = stages.restore_best(policy, record, trainer.strategy.root_device)
        if evaluation is None:
            return stages.conclude(record, {})
        record.enter("evaluation")
        facts = facts_for_report(record.fields, best.name)
        report = evaluation.run(start.folder, policy, datamodule, facts, start.folder, best)
        show(report, start.folder)
        figures = stages.conclude(record, report["metrics"], report, media.gather(report, start.folder))
        require_whole(report, start.folder)
        return figures


@entry_point("train", first=before_imports)
def main(cfg: "DictConfig") -> dict[str, float]:
    """The command line: python -m src.train."""
    return train(cfg)


if __name__ == "__main__":
    main()
