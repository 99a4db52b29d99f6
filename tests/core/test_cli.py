"""The command line as a user meets it: one sentence for each mistake, an instant help, honest exit codes.

Most cases call the program inside this process, with sys.argv replaced; a few start a real one.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from src.core.cli import CONF, _run
from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.core.help import group_options, help_text
from src.core.overrides import arm_name, root_keys
from src.experiment.signals import Interrupted

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = sorted(path.stem for path in CONF.glob("*.yaml"))


class Outcome(NamedTuple):
    """What a user sees of a program that has ended."""

    code: int
    out: str
    err: str


Program = Callable[..., Outcome]


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Program]:
    """`program(*argv, task=…)`: run conf/train.yaml around `task` (default: do nothing) in this process."""
    from hydra.core.global_hydra import GlobalHydra

    handlers = list(logging.getLogger().handlers)

    def call(*argv: str, task: Callable[[Any], Any] = lambda cfg: None) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        place = f"hydra.run.dir={tmp_path / 'run'}"
        argv = argv if any(part.startswith("hydra.") for part in argv) else (*argv, place)
        monkeypatch.setattr(sys, "argv", ["src.train", *argv])
        try:
            code = _run(task, "train")
        except SystemExit as ended:
            code = int(str(ended.code))
        seen = capsys.readouterr()
        return Outcome(code, seen.out, seen.err)

    yield call
    for handler in logging.getLogger().handlers:
        if handler not in handlers:
            handler.close()  # Hydra opened a log file in the run folder
    logging.getLogger().handlers[:] = handlers


def assert_sentence(outcome: Outcome, *parts: str) -> None:
    """Exit code 2 and one line on stderr that holds every part."""
    assert outcome.code == 2, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    for part in parts:
        assert part in lines[0]


def start(*command: str) -> Outcome:
    """A real Python process in the repository root."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=240)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_fits_two_screens_and_names_every_option(name: str) -> None:
    text = help_text(CONF, name)
    lines = text.splitlines()
    assert len(lines) <= 80 and max(map(len, lines)) <= 125
    assert f"python -m src.{name}" in text and ("Settings:" in text or "Groups (" in text)


def test_the_help_of_train_names_every_model() -> None:
    text = help_text(CONF, "train")
    assert all(option in text for option in group_options(CONF, "model"))
    assert "seed:" in text


def test_help_is_instant_because_it_imports_nothing_heavy() -> None:
    script = (
        "import runpy, sys; sys.argv = ['src.train', '--help']; runpy.run_module('src.train', run_name='__main__');"
        "bad = {'torch', 'lightning', 'transformers', 'hydra', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    assert start("-c", script).code == 0


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.windw=12", ("data.windw: there is no such key", "did you mean data.window?")),
        ("datta.window=12", ("did you mean data.window?",)),
        (
            "model=kosmos_lra",
            ("model: there is no option 'kosmos_lra'", "did you mean model=kosmos_lora?", "kosmos_tiny"),
        ),
        ("model.head.hiden_size=3", ("did you mean model.head.hidden_size?",)),
        ("evaluaton=none", ("did you mean evaluation?",)),
        ("data.window=[1", ("data.window",)),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, parts: tuple[str, ...], program: Program) -> None:
    assert_sentence(program(override), *parts)


def test_an_unknown_launcher_is_one_sentence_with_the_known_ones(tmp_path: Path, program: Program) -> None:
    outcome = program("-m", "hydra/launcher=jobib", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert_sentence(outcome, "hydra/launcher=jobib", "did you mean joblib?", "submitit_slurm")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "hydra/sweeper/sampler=tpee",
            ("did you mean tpe?", "Options: cmaes, gp, grid, nsga2, qmc, random, tpe."),
        ),
        ("hydra/sweeper/pruner=medain", ("did you mean median?", "Options: hyperband, median, none.")),
        ("hydra/launcher=procsses", ("did you mean processes?", "slurm_gpu", "joblib")),
    ],
)
def test_an_unknown_part_of_hydra_is_one_sentence_with_the_known_ones(
    override: str, parts: tuple[str, ...], tmp_path: Path, program: Program
) -> None:
    outcome = program("-m", "sweep=lora", override, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert_sentence(outcome, override, *parts)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("experiment=lora_placement", "seed=a"), ("seed: found a", "seed=0,1")),
        (("sweep=lora", "hydra.sweeper.n_trials=abc"), ("hydra.sweeper.n_trials: found 'abc'",)),
        (("sweep=lora", "hydra.sweeper.sampler=tpe"), ("choose it with hydra/sweeper/sampler=tpe.",)),
        (("sweep=lora", "hydra/sweeper/sampler=grid"), ("infinitely many",)),
        (("hydra/sweeper=optuna", "model.lora.rnk=1,2"), ("did you mean model.lora.rank?",)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # composes and checks one job after another
            for case in (
                (("experiment=lora_placement", "seed=0,b"), ("seed: found b",)),
                (("experiment=lora_placement", "+data.windw=3"), ("data.windw", "did you mean data.window?")),
                (("experiment=lora_placement", "+sed=3"), ("sed: nothing reads this key",)),
                (
                    ("sweep=lora", "+hydra.sweeper.params={model.lora.rnk: 'choice(1,2)'}"),
                    ("model.lora.rnk: there is no such key", "did you mean model.lora.rank?"),
                ),
                (("hydra/sweeper=optuna", "data.window=2,wide"), ("data.window: found 'wide'",)),
                (("hydra/sweeper=optuna", "model/head=mlp_tiny,lstm_tny"), ("lstm_tny", "did you mean")),
            )
        ),
    ],
)
def test_what_a_sweep_refuses_it_refuses_before_it_makes_a_folder(
    words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, program: Program
) -> None:
    outcome = program("-m", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert_sentence(outcome, *parts)
    assert not (tmp_path / "sweep").exists()


def test_a_launcher_without_its_package_names_the_extra(program: Program) -> None:
    from src.core.overrides import explain

    error = RuntimeError("In 'hydra/config': Could not find 'hydra/launcher/submitit_slurm'")
    assert "pip install -e '.[launchers]'" in explain(error, CONF, "train", [])


def test_a_key_added_with_plus_that_nothing_reads_is_refused(program: Program) -> None:
    assert_sentence(program("+sed=3"), "sed: nothing reads this key", "did you mean seed?")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("+data.windw=3", ("data.windw", "no such argument", "did you mean data.window?")),
        ("+trainer.thread=3", ("trainer.thread", "no such argument")),
        ("+model.head.foo=1", ("model.head.foo", "no such argument")),
        ("data.window=abc", ("data.window: found 'abc', expected an integer",)),
        ("data.window=0", ("data.window",)),
        ("optimizer.betas=[0.9,a]", ("optimizer.betas[1]: found 'a', expected a number",)),
        ("+callbacks.checkpoint.every=1", ("callbacks.checkpoint.every", "no such argument")),
        ("callbacks.checkpoint=null", ("callbacks.progress.monitor",)),
    ],
)
def test_a_wrong_value_is_one_sentence(override: str, parts: tuple[str, ...], program: Program) -> None:
    def build_data(cfg: Any) -> None:
        build(cfg.data)

    assert_sentence(program(override, task=build_data), *parts)


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, program: Program) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = program(f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert_sentence(outcome, str(tmp_path / "file"), "Not a directory", "hydra.run.dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path: Path, program: Program) -> None:
    tmp_path.chmod(0o500)
    assert_sentence(program(f"hydra.run.dir={tmp_path / 'run'}"), "Permission denied", "hydra.run.dir")


def test_hydra_full_error_shows_the_whole_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    outcome = start("-m", "src.train", "data.windw=12")
    assert outcome.code == 1 and "Traceback" in outcome.err and "ConfigCompositionException" in outcome.err


def test_a_python_without_the_packages_is_one_sentence() -> None:
    assert_sentence(start("-S", "-m", "src.train"), "No module named 'hydra'", "make setup")


def raising(error: BaseException) -> Callable[[Any], Any]:
    def task(cfg: Any) -> None:
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ProjectError("no."), 2, "no.\n"),
        (Interrupted(15), 143, ""),
        (Interrupted(2), 130, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, text: str, program: Program) -> None:
    outcome = program(task=raising(error))
    assert (outcome.code, outcome.err) == (code, text)


def test_a_full_disk_is_a_sentence_and_a_bug_a_traceback_of_our_frames(program: Program) -> None:
    assert_sentence(
        program(task=raising(OSError(28, "No space left on device", "x.bin"))), "No space left", "x.bin"
    )

    def bug(cfg: Any) -> None:
        atomic_write_json(None, {})  # type: ignore[arg-type]

    outcome = program(task=bug)
    assert outcome.code == 1 and "Traceback" in outcome.err and "bug of the program" in outcome.err
    assert "files.py" in outcome.err and "/hydra/" not in outcome.err


def test_a_failed_arm_does_not_stop_the_others(tmp_path: Path, program: Program) -> None:
    def task(cfg: Any) -> None:
        if cfg.seed == 1:
            raise ProjectError("seed is 1.")
        print("arm", cfg.seed, cfg.run_folder)

    outcome = program("-m", f"hydra.sweep.dir={tmp_path}", "seed=0,1,2", task=task)
    assert outcome.code == 2
    assert f"arm 0 {tmp_path / 'seed=0'}" in outcome.out and f"arm 2 {tmp_path / 'seed=2'}" in outcome.out
    assert outcome.err.count("seed is 1.") == 1


@pytest.mark.slow
def test_a_config_file_that_asks_for_a_sweep_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: Program
) -> None:
    """Not run as one run without a word."""
    conf = Path(shutil.copytree(CONF, tmp_path / "conf"))
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    monkeypatch.setattr("src.core.cli.CONF", conf)
    assert_sentence(program("experiment=mine"), "hydra.mode", "MULTIRUN", "--multirun")


def test_the_real_program_refuses_a_wrong_value_in_one_sentence(tmp_path: Path) -> None:
    place = f"hydra.run.dir={tmp_path / 'run'}"
    assert_sentence(start("-m", "src.train", "data.window=0", place), "data.window")


def test_arm_names_are_stable_short_and_safe() -> None:
    assert (
        arm_name(["seed=1", "data.window=4"])
        == arm_name(["data.window=4", "seed=1"])
        == "data.window=4,seed=1"
    )
    assert arm_name(["model/head=mlp", "+x.y=[1,2]"]) == "model.head=mlp,x.y=.1,2"
    assert arm_name(["experiment=table", "name=x"]) == "default"
    long = [f"data.key_{index}=value" for index in range(50)]
    assert len(arm_name(long)) < 140 and "/" not in arm_name(["a=../../b"])
    assert arm_name(long) != arm_name([*long[:-1], "data.key_49=other"])


def test_root_keys_are_settings_and_groups() -> None:
    keys = root_keys(CONF, "train")
    assert {"model", "data", "seed", "resume", "run_folder", "trainer"} <= set(keys)
