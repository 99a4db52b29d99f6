"""What a person only declared, or a file name said, stays so through every conversion."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.check import files as file_checks
from src.data.check.finding import Facts
from src.data.episode import Episode, EpisodeFile, open_episode, write_episode
from src.data.layouts import PROVENANCE, LabOptions
from src.data.lerobot.convert import convert
from src.data.lerobot.foreign import ForeignOptions
from src.data.lerobot.layout import EXTRA, INFO, PROVENANCE_KEY
from src.data.scan import scan
from tests.data.builders import NAMES, SPACE, UNITS, make_episode, make_folder, write_lab_file, write_lab_v6

LAB = LabOptions(colour_order="bgr", rotation_sign=-1)
ASSUMED = (
    "colour_order=bgr",
    "rotation_sign=-1",
    "lateral_sign=+1",
    "axis_order=linear_x/linear_y/angular_z",
    "control_period=0.4",
)


def lab_files(root: Path) -> list[EpisodeFile]:
    """One file whose scenario is in its name, one whose scenario is in its attributes."""
    root.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    write_lab_file(root / "episode_1box_hori_left_core_far.h5", frames, text="Go left.")
    path = write_lab_v6(root / "plain.h5", frames)
    with h5py.File(path, "a") as file:
        file.create_dataset("language_instruction", data=["Go on."], dtype=h5py.string_dtype())
    return scan(root, SPACE, LAB)


def test_lab_to_lerobot_to_own_keeps_what_was_only_assumed(tmp_path: Path) -> None:
    source = lab_files(tmp_path / "in")
    assert [one.meta.assumed for one in source] == [ASSUMED] * 2
    convert(tmp_path / "in", tmp_path / "lr", lab=LAB, progress=False)
    stated = json.loads((tmp_path / "lr" / INFO).read_text())[PROVENANCE_KEY]
    assert stated == {"assumed": sorted(ASSUMED), "from_name": ["distance", "id", "pattern", "scenario"]}
    folders = [tmp_path / "back", tmp_path / "again"]
    convert(tmp_path / "lr", folders[0], format="mobile_vla", progress=False)
    convert(folders[0], tmp_path / "lr2", progress=False)
    convert(tmp_path / "lr2", folders[1], format="mobile_vla", progress=False)
    for folder in folders:
        back = scan(folder, SPACE)
        for one, two in zip(source, back, strict=True):
            assert (two.meta.assumed, two.meta.from_name) == (one.meta.assumed, one.meta.from_name)
        assert "scenario" in back[0].meta.from_name and "scenario" not in back[1].meta.from_name
        # A copy made in Python keeps it as well, and the check goes on asking a person.
        write_episode(folder / "copy/c.h5", back[0].load())
        assert open_episode(folder / "copy/c.h5").meta.assumed == ASSUMED
        found = {one.code: one for one in file_checks.assumed_meaning(Facts(folder, SPACE, back))}
        assert "scenario (1)" in found["from_file_name"].reason


def test_it_survives_the_loss_of_our_own_file_in_the_lerobot_folder(tmp_path: Path) -> None:
    lab_files(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", lab=LAB, progress=False)
    (tmp_path / "lr" / EXTRA).unlink()
    facts = ForeignOptions(action_names=list(NAMES), action_units=list(UNITS))
    convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", foreign=facts, progress=False)
    for episode in scan(tmp_path / "back", SPACE):
        assert set(episode.meta.assumed) == set(ASSUMED) and episode.meta.from_name == ()
    info = json.loads((tmp_path / "lr" / INFO).read_text())
    (tmp_path / "lr" / INFO).write_text(json.dumps({**info, PROVENANCE_KEY: ["colour"]}))
    with pytest.raises(
        ProjectError, match=r"info\.json: mobile_vla\.provenance is .*expected lists of words"
    ):
        convert(tmp_path / "lr", tmp_path / "x", format="mobile_vla", foreign=facts, progress=False)


def test_what_states_its_meaning_itself_gets_no_such_attribute(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", [3])
    convert(tmp_path / "in", tmp_path / "lr", progress=False)
    convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", progress=False)
    (episode,) = scan(tmp_path / "back", SPACE)
    assert (episode.meta.assumed, episode.meta.from_name, episode.attributes) == ((), (), {})
    assert json.loads((tmp_path / "lr" / INFO).read_text())[PROVENANCE_KEY] == {
        "assumed": [],
        "from_name": [],
    }


def test_a_broken_attribute_is_named(tmp_path: Path) -> None:
    episode: Episode = make_episode(attributes={PROVENANCE["assumed"]: 3})
    write_episode(tmp_path / "e.h5", episode)
    with pytest.raises(ProjectError, match=r"e\.h5: attribute 'provenance\.assumed' is 3, expected words"):
        open_episode(tmp_path / "e.h5")
