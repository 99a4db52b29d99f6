"""Owns the TensorBoard side of a run: the curves of metrics.csv as event files in <run>/tensorboard.

In: metrics with their step, from Lightning; the run record. Out: event files, the config as text, and at the end the
run's figures for the HPARAMS page. `tensorboard --logdir outputs` shows every run. Needs the extra `tensorboard`.

A resumed run hides what it will log again: TensorBoard drops the events of earlier files from the writer's
`purge_step` on. That step is one before the checkpoint's, because the validation after it is repeated; what else was
logged at it comes back from metrics.csv, which was cut by the same rule.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src.core.errors import ProjectError
from src.core.leaves import leaves
from src.experiment.csv_logger import FILE as CURVES
from src.experiment.csv_logger import read_metrics
from src.experiment.run_record import RunRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger with the run's folder and config, and without doubled steps after a resume."""

    def __init__(self, record: RunRecord) -> None:
        """
        Raises:
            ProjectError: the package tensorboard is not installed.
        """
        require_tensorboard("logger=tensorboard")
        # The step of the checkpoint that the run goes on from; a new run has none.
        step = (record.fields["checkpoints"].get("last") or {}).get("step")
        super().__init__(
            save_dir=record.folder,
            name="",
            version=FOLDER,
            default_hp_metric=False,
            purge_step=None if step is None else max(int(step) - 1, 0),
        )
        self._step = None if step is None else int(step)
        # Now, before the first row of this start is in the file.
        self._again = _rows_at(record.folder, self._step - 1) if self._step is not None else []
        self.hparams = dict(record.config)

    @property
    @rank_zero_experiment
    def experiment(self) -> "SummaryWriter":
        """The writer; when it opens, it says what the run is, or takes up where the run stopped."""
        if self._experiment is not None:
            return self._experiment
        writer = TensorBoardLogger.experiment.fget(self)  # type: ignore[attr-defined]
        if self._step is None or self._step <= 1:  # purged from step 0 on, so the text too
            writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(self.hparams), sort_keys=False)}```", 0)
        for row in self._again:
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(key, value, int(row["step"]))
        return writer

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config stands there as text already."""


def summarise(folder: Path, config: Mapping[str, Any], figures: Mapping[str, Any], step: int) -> None:
    """Add the figures of a finished run as `final/<figure>` at `step`, and its config for the HPARAMS page.

    Call it after the training's own logger has closed; a run without <folder>/tensorboard is left alone.
    """
    if not (folder / FOLDER).is_dir():
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    final = {
        f"final/{key}": float(value) for key, value in figures.items() if isinstance(value, (int, float))
    }
    settings = {key: _plain(value) for key, value in leaves(config)}
    with SummaryWriter(str(folder / FOLDER)) as writer:
        for key, value in final.items():
            writer.add_scalar(key, value, step)
        for summary in hparams(settings, final):
            writer._get_file_writer().add_summary(summary)


def require_tensorboard(what: str) -> None:
    """
    Raises:
        ProjectError: the package is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ProjectError(
            f"{what}: needs the package tensorboard, which is not installed; run pip install -e '.[tensorboard]'."
        ) from error


def _rows_at(folder: Path, step: int) -> list[dict[str, float]]:
    rows = read_metrics(folder) if (folder / CURVES).exists() else []
    return [row for row in rows if row.get("step") == step]


def _plain(value: Any) -> bool | int | float | str:
    """The HPARAMS page knows numbers, words and switches."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
