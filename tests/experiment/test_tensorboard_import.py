"""Old version_* folders, made with Lightning's own loggers, become runs: every value as it was, nothing beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from src.comparison.listing.command import find
from src.comparison.run import from_folder
from src.core.errors import ProjectError
from src.experiment.csv_logger import read_metrics
from src.experiment.run_record import RunRecord, read_record
from src.experiment.tensorboard_import import Imported, import_runs, show

HPARAMS = {"lr": 1e-3, "seed": 7, "sizes": (3, 4), "model": {"window": 8, "head": None}}
LOSSES = [0.9, 0.4, 0.5, 0.7]


def log(logger: Any, factor: float = 1.0) -> None:
    """Four epochs of two steps, a validation after each epoch."""
    for step in range(8):
        logger.log_metrics({"train_loss": factor / (step + 1), "epoch": step // 2}, step)
        if step % 2:
            logger.log_metrics({"val_loss": factor * LOSSES[step // 2], "epoch": step // 2}, step)
    logger.save()
    logger.finalize("success")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """lightning_logs with version_0 and version_1, and a CSV of the same values for each."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    for version in (0, 1):
        written = TensorBoardLogger(tmp_path, version=version)
        written.log_hyperparams({**HPARAMS, "seed": 7 + version})
        log(written, 1.0 + version)
        log(CSVLogger(tmp_path / "csv", version=version), 1.0 + version)
    (tmp_path / "lightning_logs" / "version_0" / "checkpoints").mkdir()
    (tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "epoch=1.ckpt").touch()
    return tmp_path / "lightning_logs"


def bring(source: Path, to: Path, **options: Any) -> list[Imported]:
    plain = {"names": None, "arms": None, "of": None, "rename": None}
    return import_runs(str(source), str(to), **{**plain, **options})


def outcomes(done: list[Imported]) -> list[str]:
    return [one.outcome for one in done]


def test_every_value_comes_over_exactly_and_nothing_else(old: Path, tmp_path: Path) -> None:
    to = tmp_path / "imported"
    assert outcomes(
        bring(old, to, arms={"version_1": "text"}, of="lab", rename={"val_loss": "val/loss"})
    ) == [
        "imported",
        "imported",
    ]
    for version in (0, 1):
        folder, factor = to / f"version_{version}", 1.0 + version
        csv = read_metrics(tmp_path / "csv" / "lightning_logs" / f"version_{version}")
        ours = read_metrics(folder)
        for here, there in (("train_loss", "train_loss"), ("val/loss", "val_loss"), ("epoch", "epoch")):
            # Event files keep 32 bits, Lightning's CSV all of them.
            expected = {int(row["step"]): float(np.float32(row[there])) for row in csv if there in row}
            assert {int(row["step"]): row[here] for row in ours if here in row} == expected
        record = read_record(folder)
        assert record["state"] == "imported" and record["seed"] == 7 + version
        assert record["config"] == {**HPARAMS, "seed": 7 + version, "sizes": [3, 4]}
        assert record["metrics"] == {
            "train_loss": float(np.float32(factor / 8)),
            "epoch": 3.0,
            "val/loss": float(np.float32(factor * 0.7)),
            "best/val/loss": float(np.float32(factor * 0.4)),
            "best/step": 3,
            "best/epoch": 1,
        }
        assert record["arm"] == (None, "text")[version] and record["experiment"] == "lab"
        for unknown in ("code", "data", "packages", "machine", "wall_s", "command", "verdict", "cost"):
            assert record[unknown] is None
    assert read_record(to / "version_0")["imported_from"]["checkpoints"] == ["checkpoints/epoch=1.ckpt"]


def test_lists_and_tables_read_an_imported_run(old: Path, tmp_path: Path) -> None:
    bring(old, tmp_path / "imported", rename={"val_loss": "val/loss"})
    entries = list(find([tmp_path / "imported"]))
    assert [entry["state"] for entry in entries] == ["imported", "imported"]
    assert [entry.headline for entry in entries] == ["best/val/loss"] * 2
    assert entries[0].config is not None and entries[0].config["model.window"] == 8
    run = from_folder(tmp_path / "imported" / "version_1")
    assert run.state == "imported" and run.seed == 8 and run.metrics["best/step"] == 3 and run.code == {}


def test_importing_again_changes_nothing_and_growth_or_options_update(old: Path, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    to = tmp_path / "imported"
    bring(old, to)
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()}
    assert outcomes(bring(old, to)) == ["there already"] * 2
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()} == before
    assert outcomes(bring(old, to, names={"version_0": "again"}))[0] == "there already", (
        "the same files are one run"
    )
    assert not (to / "again").exists()
    more = TensorBoardLogger(tmp_path, version=1)
    more.log_metrics({"val_loss": 0.125}, 9)
    more.finalize("success")
    assert outcomes(bring(old, to)) == ["there already", "updated"]
    assert read_record(to / "version_1")["metrics"]["best/val_loss"] == 0.125
    assert outcomes(bring(old, to, rename={"val_loss": "val/loss"})) == ["updated"] * 2


def test_a_damaged_file_is_a_sentence_and_the_others_go_on(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (events,) = (old / "version_0").glob("events*")
    content = bytearray(events.read_bytes())
    content[len(content) // 2] ^= 0xFF
    events.write_bytes(content)
    done = bring(old, tmp_path / "imported")
    assert outcomes(done) == ["refused", "imported"] and "checksum is wrong" in done[0].note
    assert not (tmp_path / "imported" / "version_0").exists()
    show(done)
    seen = capsys.readouterr().out
    assert "refused" in seen and "version_0: " in seen and "src.runs state=imported" in seen


def test_a_file_cut_by_a_kill_gives_what_it_holds_and_says_so(old: Path, tmp_path: Path) -> None:
    (events,) = (old / "version_0").glob("events*")
    events.write_bytes(events.read_bytes()[:-7])
    done = bring(old, tmp_path / "imported")
    assert outcomes(done) == ["imported", "imported"] and "cut at its end" in done[0].note
    record = read_record(tmp_path / "imported" / "version_0")
    assert record["imported_from"]["cut_files"] == [events.name]
    assert record["metrics"]["val_loss"] == float(np.float32(0.7)), "only the last epoch's number is lost"


def test_python_objects_in_hparams_are_words_and_are_not_made(old: Path, tmp_path: Path) -> None:
    (old / "version_0" / "hparams.yaml").write_text(
        f"lr: !!python/object/apply:os.mkdir ['{tmp_path}/made']\nsizes: !!python/tuple [1, 2]\nx: .nan\nseed: 1\n"
    )
    (old / "version_1" / "hparams.yaml").write_text("- a\n- list\n")
    done = bring(old, tmp_path / "imported")
    assert outcomes(done) == ["imported", "refused"] and "expected a mapping" in done[1].note
    assert not (tmp_path / "made").exists()
    record = read_record(tmp_path / "imported" / "version_0")
    assert record["config"] == {"lr": "!!python/object/apply:os.mkdir", "sizes": [1, 2], "x": None, "seed": 1}
    assert record["imported_from"]["unread_hparams"] == ["object/apply:os.mkdir"]


def test_without_hparams_or_validation_it_stays_unknown(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    written = TensorBoardLogger(tmp_path, version=0)
    written.log_metrics({"train_loss": 1.0}, 0)
    written.finalize("failed")
    bring(tmp_path / "lightning_logs" / "version_0", tmp_path / "imported")
    record = read_record(tmp_path / "imported" / "version_0")
    assert record["seed"] is None and record["config"] == {} and record["config_hash"] is None
    assert record["metrics"] == {"train_loss": 1.0} and record["training"]["monitor"] is None


def test_what_cannot_be_meant_is_refused(old: Path, tmp_path: Path) -> None:
    to = tmp_path / "imported"
    for options, sentence in (
        ({"names": {"version_2": "x"}}, "names.version_2.*did you mean version_"),
        ({"names": {"version_0": "version_1"}}, "named twice"),
        ({"rename": {"val_los": "val/loss"}}, "did you mean val_loss"),
    ):
        with pytest.raises(ProjectError, match=sentence):
            bring(old, to, **options)
    with pytest.raises(ProjectError, match="expected a folder with version_"):
        bring(tmp_path / "nowhere", to)
    assert outcomes(bring(old, tmp_path / "c", rename={"val_loss": "train_loss"})) == ["refused"] * 2
    from omegaconf import OmegaConf

    with RunRecord(tmp_path / "d" / "version_0", OmegaConf.create({"name": "x"})):
        pass
    done = bring(old, tmp_path / "d")
    assert outcomes(done) == ["refused", "imported"] and "was trained here" in done[0].note
    assert read_record(tmp_path / "d" / "version_0")["state"] == "finished"


def test_record_and_hparams_are_plain_files(old: Path, tmp_path: Path) -> None:
    bring(old, tmp_path / "imported")
    text = (tmp_path / "imported" / "version_0" / "run.json").read_text()
    assert json.loads(text)["format"] == 2 and "NaN" not in text
    assert yaml.safe_load((old / "version_0" / "hparams.yaml").read_text())["lr"] == 1e-3, (
        "the old folder is as it was"
    )
