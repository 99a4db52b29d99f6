"""What a run writes about itself: run.json, its lock, the code version, metrics.csv, W&B files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.experiment import provenance, run_record
from src.experiment.callbacks.guard import describe_keys
from src.experiment.csv_logger import CsvLogger, read_metrics, rewind
from src.experiment.run_record import RunRecord, read_record
from src.experiment.signals import Interrupted

ROOT = Path(__file__).resolve().parents[2]
CFG = OmegaConf.create({"name": "x", "seed": 3, "data": {"window": 2}})


# ---------------------------------------------------------------- run.json


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "finished"), (Interrupted(15), "interrupted"), (KeyboardInterrupt(), "interrupted"),
     (ProjectError("no."), "failed"), (ValueError("bug"), "failed")],
)  # fmt: skip
def test_the_record_says_how_the_run_ended(tmp_path: Path, error: BaseException | None, state: str) -> None:
    def go() -> None:
        with RunRecord(tmp_path, CFG) as record:
            assert read_record(tmp_path)["state"] == "running"
            record.note("training", steps=5)
            if error is not None:
                raise error

    if error is None:
        go()
    else:
        with pytest.raises(type(error)):
            go()
    fields = read_record(tmp_path)
    assert fields["state"] == state and fields["training"] == {"steps": 5}
    assert (fields["error"] is None) == (error is None)
    assert fields["starts"][0]["state"] == state


def test_a_resumed_run_keeps_its_record_and_adds_up_its_time(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), RunRecord(tmp_path, CFG) as record:
        record.note("checkpoints", last={"step": 4})
        raise Interrupted(15)
    first = read_record(tmp_path)
    with RunRecord(tmp_path, CFG, resumed=True):
        pass
    fields = read_record(tmp_path)
    assert fields["state"] == "finished" and fields["error"] is None and len(fields["starts"]) == 2
    assert fields["started"] == first["started"] and fields["wall_s"] >= first["wall_s"]
    assert fields["checkpoints"]["last"] == {"step": 4}


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with RunRecord(tmp_path, CFG), pytest.raises(ProjectError, match="another process is writing"):
        RunRecord(tmp_path, CFG, resumed=True)
    with pytest.raises(ProjectError, match="holds a run already"):
        RunRecord(tmp_path, CFG)


def test_a_run_whose_process_is_gone_reads_as_killed(tmp_path: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from omegaconf import OmegaConf;"
        "from src.experiment.run_record import RunRecord;"
        "RunRecord(Path(sys.argv[1]), OmegaConf.create({'name': 'x'})).__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "running"
    assert read_record(tmp_path)["state"] == "killed"


def test_a_damaged_or_missing_record_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="not found"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text('{"state": ')
    with pytest.raises(ProjectError, match="cannot be read as JSON"):
        read_record(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="cannot be written"):
        RunRecord(tmp_path / "file" / "run", CFG)


# ---------------------------------------------------------------- code version


def test_code_version_sees_commits_edits_and_new_files_and_leaves_the_index_alone(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        )  # fmt: skip
        return done.stdout.strip()

    assert provenance.code_version(tmp_path / "nowhere") == (None, "")
    git("init", "-q")
    (tmp_path / "a.py").write_text("one\n")
    git("add", "."), git("commit", "-qm", "first")
    state, diff = provenance.code_version(tmp_path)
    assert (
        state is not None and state["sha"] == git("rev-parse", "HEAD") and not state["dirty"] and diff == ""
    )
    (tmp_path / "a.py").write_text("two\n")
    (tmp_path / "new.py").write_text("fresh\n")
    before = git("status", "--porcelain")
    state, diff = provenance.code_version(tmp_path)
    assert state is not None and state["dirty"] and "+two" in diff and "+fresh" in diff
    assert git("status", "--porcelain") == before


def test_outside_a_repository_a_run_records_no_code_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_record, "_REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with RunRecord(tmp_path / "run", CFG) as record:
        assert record.fields["code"] is None and record.about()["code"] is None


# ---------------------------------------------------------------- metrics.csv


def logger(folder: Path) -> CsvLogger:
    return CsvLogger(SimpleNamespace(folder=folder))  # type: ignore[arg-type]


def test_columns_may_come_later_and_rows_survive_a_new_logger(tmp_path: Path) -> None:
    first = logger(tmp_path)
    first.log_metrics({"train/loss": 1.0, "epoch": 0}, 0)
    first.log_metrics({"val/loss": 2.0, "epoch": 0}, 0)
    logger(tmp_path).log_metrics({"train/loss": 0.5, "epoch": 1}, 1)
    assert read_metrics(tmp_path) == [
        {"step": 0, "epoch": 0, "train/loss": 1.0},
        {"step": 0, "epoch": 0, "val/loss": 2.0},
        {"step": 1, "epoch": 1, "train/loss": 0.5},
    ]


def test_rewinding_drops_what_will_be_logged_again_and_a_cut_line(tmp_path: Path) -> None:
    written = logger(tmp_path)
    for step in range(4):
        written.log_metrics({"train/loss": float(step)}, step)
        if step % 2:
            written.log_metrics({"val/loss": float(step)}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,")
    rewind(tmp_path, 2)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1], "the validation after step 1 is repeated, so its row goes"
    rewind(tmp_path / "nothing", 2)


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["train/loss", "val/loss"])), max_size=12),
       st.integers(0, 21))  # fmt: skip
def test_a_rewound_file_holds_exactly_the_rows_before_the_step(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], step: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    written = logger(folder)
    for at, key in rows:
        written.log_metrics({key: 1.0}, at)
    rewind(folder, step)
    kept = (
        [(int(row["step"]), key) for row in read_metrics(folder) for key in row if "/" in key] if rows else []
    )
    assert kept == [(at, key) for at, key in rows if at < step - (key == "val/loss")]


# ---------------------------------------------------------------- W&B


def test_wandb_is_offline_silent_inside_the_folder_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from src.experiment import wandb_logger

    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for name in ("one", "two"):
        with RunRecord(tmp_path / name, CFG) as record:
            made = wandb_logger.RunWandbLogger(record, "p", None, "g", ["t"], "auto")
            made.log_metrics({"train/loss": 1.0}, 0)
            wandb_logger.summarise({"score": 2.0})
            ids.append(made.experiment.id)
            wandb_logger.finish(0)
        files = list((tmp_path / name / "wandb").glob("offline-run-*/run-*.wandb"))
        assert len(files) == 1 and ids[-1] in files[0].name
    assert len(set(ids)) == 2, "the second run of a process must not go on in the first"
    seen = capfd.readouterr()
    assert seen.out == "" and seen.err == ""


def test_auto_is_online_only_with_a_login_and_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    from src.experiment import wandb_logger

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert wandb_logger.choose_mode("auto") == "offline", "a server, but no login"
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password key\n")
        assert wandb_logger.choose_mode("auto") == "online"
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert wandb_logger.choose_mode("auto") == "offline", "the user's word counts"
        monkeypatch.delenv("WANDB_MODE")
    assert wandb_logger.choose_mode("auto") == "offline", "a login, but no server"
    assert wandb_logger.choose_mode("online") == "online"


# ---------------------------------------------------------------- words


def test_samples_are_named_by_episode_and_frames() -> None:
    assert describe_keys([("a", 3), ("a", 5), ("b", 0)]) == "a frames 3-5, b frame 0"
    assert describe_keys([]) == "it names none"
    assert describe_keys([(f"e{i}", 0) for i in range(20)]).endswith("and 12 more episodes")
