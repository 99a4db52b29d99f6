"""Collecting: same bytes whoever does it, resumable after a kill, honest about what is in the folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.episode import open_episode
from src.sim import CONTROL_PERIOD, Expert, World, sample_task
from src.sim.collect import collect, read_dataset
from src.sim.recording import Settings, record, slot_task

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"suite": "reach", "image_size": 16, "workers": 1, "progress": False}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A clean data set of 12 episodes, made in one process."""
    folder = tmp_path_factory.mktemp("reference")
    collect(folder, episodes=12, **SMALL)
    return folder


def test_marker_describes_the_files(reference):
    dataset = read_dataset(reference)
    assert dataset["episodes"] == 12 == len(dataset["files"]) and not dataset["left_out"]
    assert set(dataset["files"]) == set(contents(reference))
    lengths = [open_episode(path).length for path in reference.glob("*.h5")]
    assert dataset["frames"] == sum(lengths)
    assert dataset["settings"]["noise"] == 0.25
    assert {path.name for path in reference.iterdir()} == {*dataset["files"], "dataset.json"}


def test_workers_do_not_change_the_bytes(reference, tmp_path):
    collect(tmp_path, episodes=12, **{**SMALL, "workers": 2})
    assert contents(tmp_path) == contents(reference)
    assert (tmp_path / "dataset.json").read_bytes() == (reference / "dataset.json").read_bytes()


def test_an_episode_says_what_it_is(tmp_path):
    collect(tmp_path, episodes=3, **{**SMALL, "suite": "full2"})
    episode = open_episode(tmp_path / "full2-train-000001.h5").load()
    task = sample_task("full2", "train", 1)
    assert episode.instructions == (task.instruction, *task.paraphrases)
    assert episode.id == "full2-train-000001" and episode.group == task.group
    assert episode.scenario == "-".join(("full2", *task.sides))
    assert episode.action_names == ("linear_x", "linear_y", "angular_z")
    assert episode.control_period == CONTROL_PERIOD
    assert episode.frames.shape == (len(episode.actions), 16, 16, 3)
    assert episode.poses.shape == (len(episode.actions), 3)
    assert np.allclose(np.diff(episode.timestamps), CONTROL_PERIOD)


def test_recorded_actions_are_the_experts_clean_answers():
    settings = Settings("full1", "train", 1, 16, 0.25, 0, "en", "none")
    episode, _ = record(settings, 0)
    world = World(sample_task("full1", "train", 0))
    for pose, action in zip(episode.poses, episode.actions, strict=True):
        world.place(tuple(pose))
        assert np.allclose(Expert(world).act(), action, atol=1e-6)
    # And the robot did not go where they point: the executed action was disturbed.
    world.reset(tuple(episode.poses[0]))
    world.step(episode.actions[0])
    assert np.linalg.norm(np.subtract(world.pose, episode.poses[1])) > 0.01


def test_noise_free_recording_replays_exactly():
    settings = Settings("full1", "train", 1, 16, 0.0, 0, "en", "none")
    episode, dropped = record(settings, 0)
    assert dropped == 0
    world = World(sample_task("full1", "train", 0))
    for pose, action in zip(episode.poses, episode.actions, strict=True):
        assert world.pose == tuple(pose)
        world.step(action)
    assert world.outcome().success


@pytest.mark.parametrize(
    ("suite", "twins", "variants"),
    [("full1", "side", 2), ("reach", "target", 2), ("full2", "both", 4), ("full1", "none", 1)],
)
def test_twins_share_the_layout_and_differ_in_the_demand(suite, twins, variants):
    settings = Settings(suite, "train", 8, 16, 0.25, 0, "en", twins)
    tasks = [slot_task(settings, slot) for slot in range(2 * variants)]
    assert len({settings.slot_id(slot) for slot in range(8)}) == 8
    for family in (tasks[:variants], tasks[variants:]):
        assert len({task.group for task in family}) == 1
        assert all(task.scene == family[0].scene for task in family)
        assert len({(task.target, task.sides) for task in family}) == variants
        assert len({task.instruction for task in family}) == variants
    assert tasks[0].group != tasks[variants].group


def test_seeds_share_no_layout():
    names = [
        {Settings("reach", "train", 50, 16, 0.25, seed, "en", "none").slot_id(i) for i in range(50)}
        for seed in (0, 1)
    ]
    assert not names[0] & names[1]


def test_a_finished_folder_is_left_alone_and_a_damaged_one_is_mended(reference, tmp_path):
    for name, data in contents(reference).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "dataset.json").write_bytes((reference / "dataset.json").read_bytes())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert collect(tmp_path, episodes=12, **SMALL)["kept"] == 12
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    victims = sorted(tmp_path.glob("*.h5"))
    damaged = bytearray(victims[0].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    victims[0].write_bytes(bytes(damaged))
    victims[1].write_bytes(victims[1].read_bytes()[:1000])
    victims[2].unlink()
    assert collect(tmp_path, episodes=12, **SMALL)["kept"] == 9
    assert contents(tmp_path) == contents(reference)


def test_more_episodes_extend_a_data_set(reference, tmp_path):
    collect(tmp_path, episodes=4, **SMALL)
    assert collect(tmp_path, episodes=12, **SMALL)["kept"] == 4
    assert contents(tmp_path) == contents(reference)


def test_other_settings_are_refused_unless_overwritten(tmp_path):
    collect(tmp_path, episodes=2, **SMALL)
    with pytest.raises(ProjectError, match="seed 0 instead of 1.*overwrite=true"):
        collect(tmp_path, episodes=2, seed=1, **SMALL)
    with pytest.raises(ProjectError, match="episodes 2 instead of 1"):
        collect(tmp_path, episodes=1, **SMALL)
    collect(tmp_path, episodes=2, seed=1, overwrite=True, **SMALL)
    assert set(contents(tmp_path)) == {"reach-train-100000.h5", "reach-train-100001.h5"}


def test_foreign_files_are_never_deleted(tmp_path):
    (tmp_path / "mine.h5").write_bytes(b"recorded on the robot")
    for overwrite in (False, True):
        with pytest.raises(ProjectError, match="unknown origin"):
            collect(tmp_path, episodes=2, overwrite=overwrite, **SMALL)
    assert (tmp_path / "mine.h5").read_bytes() == b"recorded on the robot"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "rech"}, "suite is 'rech'"),
        ({"twins": "side"}, "suite reach has no box"),
        ({"suite": "route1", "twins": "target"}, "route1 has one object"),
        ({"episodes": 0}, "episodes is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_wrong_settings_are_named(tmp_path, change, message):
    with pytest.raises(ProjectError, match=message):
        collect(tmp_path / "out", **{"episodes": 2, **SMALL, **change})
    assert not (tmp_path / "out").exists()


def test_resume_after_kill_9_gives_the_same_data_set(reference, tmp_path):
    words = ["suite=reach", "episodes=12", "image_size=16", "workers=2", "progress=false", f"out={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "src.collect", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("reach*.h5"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(ProjectError, match="not a finished data set"):
        read_dataset(tmp_path)
    assert json.loads((tmp_path / "collecting.json").read_text())["episodes"] == 12

    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if _alive(child)], "workers outlive a killed collector"

    dataset = collect(tmp_path, episodes=12, **SMALL)
    assert 2 <= dataset["kept"] < 12
    assert contents(tmp_path) == contents(reference)
    assert {path.name for path in tmp_path.iterdir()} == {*dataset["files"], "dataset.json"}


def _alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_command_line_reports_in_one_sentence(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "src.collect", "suite=rech", f"out={tmp_path / 'x'}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.strip() == (
        "suite is 'rech', expected one of reach, route1, route2, full1, full2; set suite."
    )
