"""Launchers: real processes for joblib and submitit; for SLURM, which is not here, the script it would be given."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.experiment import preemption
from src.experiment.signals import Interrupted, StopRequest
from tests.scaling.conftest import ROOT, record_of, wait_for

Start = Callable[..., "subprocess.Popen[str]"]
TINY = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]


def launcher(*overrides: str) -> Any:
    """The node hydra.launcher as the command line composes it, --multirun included."""
    from hydra import compose, initialize_config_dir

    from src.core.overrides import register_resolvers

    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    return cfg.hydra.launcher


@pytest.mark.slow
def test_two_arms_side_by_side(start: Start, tmp_path: Path) -> None:
    process = start(
        "--multirun", *TINY, "hydra/launcher=processes", "hydra.launcher.n_jobs=2", "optimizer.lr=1e-3,1e-4",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output
    arms = [path for path in tmp_path.iterdir() if (path / "run.json").exists()]
    assert [record_of(arm)["state"] for arm in arms] == ["finished"] * 2
    rates = {record_of(arm)["config"]["optimizer"]["lr"] for arm in arms}
    assert rates == {1e-3, 1e-4}


@pytest.mark.slow
def test_a_job_that_the_cluster_takes_back_goes_on_when_it_starts_again(start: Start, tmp_path: Path) -> None:
    """As on a cluster: submitit's signal, its requeue code 122, the same job again."""
    command = [
        "--multirun", "trainer.max_epochs=20", "callbacks.checkpoint.every_n_steps=1",
        "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}", "optimizer.lr=1e-3,1e-4",
        "hydra.launcher.timeout_min=5",
    ]  # fmt: skip
    process = start(*command)

    def arms() -> list[Path]:
        return [path.parent for path in tmp_path.glob("*/run.json")]

    def jobs() -> list[int]:
        """The tasks; submitit names a job's folder after the process that started its task."""
        found: list[int] = []
        for folder in (tmp_path / ".submitit").glob("[0-9]*"):
            listed = subprocess.run(["pgrep", "-P", folder.name], capture_output=True, text=True, check=False)
            found += map(int, listed.stdout.split())
        return found

    def stepped() -> bool:
        return any((arm / "checkpoints" / "last.ckpt").exists() for arm in arms())

    wait_for(stepped, process)
    tasks = jobs()
    assert len(tasks) == 2
    for pid in tasks:
        os.kill(pid, signal.SIGUSR2)
    output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output
    records = [record_of(arm) for arm in arms()]
    assert [record["state"] for record in records] == ["finished"] * 2
    assert any(len(record["starts"]) > 1 for record in records)
    states = [start["state"] for record in records for start in record["starts"][:-1]]
    assert set(states) == {"interrupted"}


def test_processes_are_one_per_core() -> None:
    node = launcher("hydra/launcher=processes")
    assert node._target_.endswith("JoblibLauncher") and node.n_jobs == -1


def test_the_slurm_preset_is_the_script_that_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit.slurm import slurm

    node: Any = OmegaConf.to_container(launcher("hydra/launcher=slurm_gpu", f"hydra.sweep.dir={tmp_path}"))
    base = set(OmegaConf.structured(BaseQueueConf).keys())
    monkeypatch.setattr(slurm.SlurmExecutor, "affinity", classmethod(lambda cls: 2))  # no srun here
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    import submitit

    executor = submitit.AutoExecutor(
        cluster="slurm", folder=str(tmp_path), slurm_max_num_timeout=node["max_num_timeout"]
    )
    skip = {"_target_", "max_num_timeout", "submitit_folder", "name"}
    executor.update_parameters(
        **{key if key in base else f"slurm_{key}": value for key, value in node.items() if key not in skip}
    )
    text = executor._executor._make_submission_file_text("run", "id")  # type: ignore[attr-defined]
    for line in (
        "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=8", "--mem=48GB", "--time=720", "--nodes=1",
        "--ntasks-per-node=1", "--signal=USR2@180", "--requeue", "--open-mode=append",
    ):  # fmt: skip
        assert re.search(rf"^#SBATCH {re.escape(line)}$", text, re.MULTILINE), f"{line} not in\n{text}"


@pytest.mark.parametrize("name", ["submitit_slurm", "submitit_local", "joblib"])
def test_the_plugins_own_names_work(name: str) -> None:
    assert launcher(f"hydra/launcher={name}")._target_.startswith("hydra_plugins.")


# ---------------------------------------------------------------- a cluster's signal


@pytest.mark.parametrize("signum", preemption.SIGNALS)
def test_a_cluster_s_signal_asks_for_a_stop_and_is_handed_on(signum: int) -> None:
    heard: list[int] = []
    before = signal.signal(signum, lambda number, _: heard.append(number))
    try:
        stop = StopRequest()
        with preemption.heeded(stop):
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)  # a cluster may say it twice
            assert stop.requested == signum and heard == []
        preemption.hand_on(Interrupted(signum))
        assert heard == [signum]
        preemption.hand_on(Interrupted(signal.SIGTERM))
        preemption.hand_on(None)
        assert heard == [signum]
    finally:
        signal.signal(signum, before)


def test_where_nobody_waited_for_the_signal_nothing_is_handed_on() -> None:
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    preemption.hand_on(Interrupted(signal.SIGUSR1))
