"""The data module as an entry point uses it: from YAML to batches, and what it says when something is missing."""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.augment import Augmentation
from src.data.datamodule import FINISHED, EpisodeDataModule
from src.data.episode import write_episode
from src.data.instruction import FromFile, ScenarioMap
from src.data.normalizer import IdentityNormalizer, MeanStdNormalizer, MinMaxNormalizer
from src.data.sampler import EpisodeSampler, WindowSampler
from src.data.split import SplitRule, load_or_make_split
from tests.data.builders import make_episode, make_folder, write_lab_file
from tests.data.modules import detokenize, make_module, tokenize

CONF = Path("conf").resolve()


def configured(name: str, *overrides: str) -> EpisodeDataModule:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"data/{name}", overrides=list(overrides))
    check(config)
    module = build(config.data)
    assert isinstance(module, EpisodeDataModule)
    module.bind(tokenize)
    return module


def test_batches_of_all_splits_cover_all_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    episodes = make_folder(tmp_path, [5, 3, 7, 4, 6, 2, 8, 5])
    module = make_module(tmp_path)
    with caplog.at_level(logging.INFO):
        module.prepare_data()
        module.setup("fit")
        module.setup("test")
    keys: list[tuple[str, int]] = []
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in loader:
            batch.validate()
            keys += batch.keys
    assert sorted(keys) == [(e.id, t) for e in episodes for t in range(len(e.frames))]
    manifest = module.manifest()
    assert sum(split["frames_used"] for split in manifest["splits"].values()) == 40
    assert json.loads(json.dumps(manifest)) == manifest
    assert "train: 4 episodes" in caplog.text
    assert "frames used (100.0 %)" in caplog.text


def test_validation_never_changes_and_uses_the_canonical_wording(tmp_path: Path) -> None:
    episodes = {episode.id: episode for episode in make_folder(tmp_path, [4] * 8)}
    module = make_module(tmp_path, paraphrase="random")
    module.setup("fit")
    loader = module.val_dataloader()
    for number in range(3):
        loader.set_epoch(number)
        for batch in loader:
            texts = [
                detokenize(i, m) for i, m in zip(batch.instruction_ids, batch.instruction_mask, strict=True)
            ]
            assert texts == [episodes[i].instructions[0] for i in dict.fromkeys(key[0] for key in batch.keys)]


def test_normaliser_knows_the_training_split_only(tmp_path: Path) -> None:
    for i in range(8):
        actions = np.full((3, 3), 0.1 * (i + 1), np.float32)
        write_episode(tmp_path / f"e{i}.h5", make_episode(f"e{i}", 3, actions=actions))
    module = make_module(tmp_path, normalizer=MinMaxNormalizer())
    assert not module.normalizer.fitted
    module.setup("fit")
    train = np.concatenate([episode.actions for episode in module.episodes("train")])
    scaled = module.normalizer.normalize(torch.from_numpy(train))
    assert scaled.min().item() == pytest.approx(-1, abs=1e-5)
    assert scaled.max().item() == pytest.approx(1, abs=1e-5)
    everything = np.concatenate([e.actions for s in ("train", "val", "test") for e in module.episodes(s)])
    assert module.normalizer.normalize(torch.from_numpy(everything)).abs().max() > 1.01 or (
        everything.min() == train.min() and everything.max() == train.max()
    )


def test_fewer_training_episodes_leave_the_other_splits_alone(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 16)
    whole, part = make_module(tmp_path), make_module(tmp_path, train_episodes=3)
    for module in (whole, part):
        module.setup()
    assert len(part.episodes("train")) == 3
    assert {e.id for e in part.episodes("train")} < {e.id for e in whole.episodes("train")}
    assert [e.id for e in part.episodes("val")] == [e.id for e in whole.episodes("val")]
    used = part.manifest()["splits"]["train"]
    assert (used["frames_used"], used["frames_present"]) == (12, 32)
    assert part.manifest()["split_hash"] == whole.manifest()["split_hash"]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 4), (0.25, 2), (0.125, 1), (1.0, 8), (0.4, 3), (0.49, 3)]
)
def test_a_share_of_the_training_episodes_is_rounded_down_to_whole_ones(
    tmp_path: Path, share: float, expected: int
) -> None:
    make_folder(tmp_path, [3] * 16)
    module, same = make_module(tmp_path, train_episodes=share), make_module(tmp_path, train_episodes=expected)
    for one in (module, same):
        one.setup()
    assert [e.id for e in module.episodes("train")] == [e.id for e in same.episodes("train")]
    assert len(module.episodes("train")) == expected
    assert module.manifest()["train_episodes"] == share


def test_a_share_of_less_than_one_training_episode_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 16)
    with pytest.raises(
        ProjectError, match=r"is 0\.12 \(0 of 8 episodes\), smaller than one episode; ask for more"
    ):
        make_module(tmp_path, train_episodes=0.12).setup()


@pytest.mark.parametrize("share", [0.0, 1.5, -0.5, 200.0])
def test_an_impossible_share_of_the_training_episodes_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ProjectError, match=f"data.train_episodes is {share}; expected a whole number"):
        make_module(tmp_path, train_episodes=share)


@pytest.mark.parametrize(("size", "resizes"), [(8, False), (4, True)])
def test_frames_are_resized_before_the_split_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, resizes: bool
) -> None:
    make_folder(tmp_path, [3] * 6)
    module = make_module(tmp_path, image_size=size)
    found: list[int] = []

    def count(*args: Any) -> Any:
        found.append(len(list((tmp_path / ".frames").rglob("*.npy"))))
        return load_or_make_split(*args)

    monkeypatch.setattr("src.data.datamodule.load_or_make_split", count)
    module.setup()
    assert found == [6 if resizes else 0]


def test_mirrored_actions_count_for_the_normaliser(tmp_path: Path) -> None:
    """Trained on one side only, an axis from 0 to 1 would be stretched so far that its mirror image is out of reach."""
    for i in range(8):
        actions = np.tile(np.float32([[0.5, 1.0, -0.25]]), (3, 1))
        actions[0] = 0
        write_episode(tmp_path / f"e{i}.h5", make_episode(f"e{i}", 3, actions=actions))
    module = make_module(tmp_path, augmentation=Augmentation(mirror=0.5))
    module.setup()
    assert len(module.training_actions()) == 2 * 12
    assert module.normalizer.normalize(torch.tensor([0.5, -1.0, 0.25])).tolist() == [1, -1, 1]
    plain = make_module(tmp_path)
    plain.setup()
    assert plain.normalizer.normalize(torch.tensor([0.5, -1.0, 0.25])).tolist() == [1, -3, 3]


def test_axes_that_the_robot_has_not_are_refused_only_if_it_mirrors(tmp_path: Path) -> None:
    odd = ["linear_y", "yaw"]
    make_module(tmp_path, augmentation=Augmentation(shift=1, mirror_axes=odd))
    with pytest.raises(ProjectError, match=r"mirror_axes is \['linear_y', 'yaw'\]"):
        make_module(tmp_path, augmentation=Augmentation(mirror=0.1, mirror_axes=odd))
    with pytest.raises(ProjectError, match="shift is 4 px"):
        make_module(tmp_path, augmentation=Augmentation(shift=4))


def test_the_source_makes_what_is_missing(tmp_path: Path) -> None:
    calls: list[Path] = []

    def source(root: Path) -> None:
        calls.append(root)
        if not (root / FINISHED).exists():
            make_folder(root, [4] * 8)
            (root / FINISHED).write_text("{}")

    root = tmp_path / "deep" / "made"
    module = make_module(root, source=source)
    with pytest.raises(ProjectError, match=r"data\.root=.*made holds no finished data set"):
        module.setup("fit")
    module.prepare_data()
    module.setup("fit")
    assert len(module.episodes("train")) == 4
    module.prepare_data()  # a finished folder is shown to the source again, which alone knows its settings
    assert calls == [root, root]


def test_a_source_that_fails_or_leaves_nothing_is_explained(tmp_path: Path) -> None:
    def refuse(root: Path) -> None:
        raise ProjectError(f"{root} holds a data set with noise 0.1 instead of 0.25; choose another out.")

    with pytest.raises(ProjectError, match=r"data\.source, with data\.root as its folder: .* noise 0\.1"):
        make_module(tmp_path / "a", source=refuse).prepare_data()
    with pytest.raises(ProjectError, match=f"left no {FINISHED}"):
        make_module(tmp_path / "b", source=lambda root: None).prepare_data()


def test_two_runs_at_once_make_the_data_once(tmp_path: Path) -> None:
    made: list[str] = []

    def source(root: Path) -> None:
        if (root / FINISHED).exists():
            return
        root.mkdir()  # fails if two are at it
        time.sleep(0.3)
        (root / FINISHED).write_text("{}")
        made.append("made")

    modules = [make_module(tmp_path / "d", source=source) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(module.prepare_data) for module in modules]:
            done.result(timeout=30)
    assert made == ["made"]


def test_an_empty_split_says_which_key(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 8)
    module = make_module(tmp_path, split=SplitRule(0.75, 0.25, 0.0))
    module.setup()
    assert module.episodes("test") == []
    with pytest.raises(ProjectError, match=r"test split is empty because data\.split\.test is 0"):
        module.test_dataloader()
    with pytest.raises(ProjectError, match="there is no split 'validation'"):
        module.episodes("validation")


def test_missing_data_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"data\.root=.*nowhere does not exist"):
        make_module(tmp_path / "nowhere").setup()
    with pytest.raises(ProjectError, match="holds no episode"):
        make_module(tmp_path).setup()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", 0), ("horizon", 0), ("image_size", 0), ("eval_episodes_per_batch", 0), ("memory_limit_gb", -1.0),
        ("num_workers", -1), ("seed", -1), ("paraphrase", "sometimes"),
    ],
)  # fmt: skip
def test_impossible_values_name_their_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ProjectError, match=f"data.{key} is {value!r}"):
        make_module(tmp_path, **{key: value})


def test_loaders_before_setup_or_bind_are_bugs_of_the_caller(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 4)
    module = make_module(tmp_path)
    with pytest.raises(RuntimeError, match="setup"):
        module.train_dataloader()
    with pytest.raises(RuntimeError, match="setup"):
        module.manifest()
    module.setup()
    module._tokenize = None
    with pytest.raises(RuntimeError, match="bind"):
        module.train_dataloader()


def test_memory_limit_is_shared_by_splits_and_workers(tmp_path: Path) -> None:
    make_folder(tmp_path, [4] * 8)
    for workers in (0, 2):
        module = make_module(tmp_path, memory_limit_gb=32 * 3 * 8 * 8 / 1e9, num_workers=workers)
        module.setup()
        limits = [
            loader.assembler.frames._free_bytes  # type: ignore[attr-defined]
            for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
        ]
        assert sum(limits) == pytest.approx(32 * 3 * 8 * 8 / max(1, workers), abs=3)


# ---------------------------------------------------------------- conf/data


def test_the_simulator_config_builds_and_names_its_folder(tmp_path: Path) -> None:
    module = configured("sim", "data.source.suite=route1", "data.source.episodes=12")
    assert module.root.name.startswith("sim-route1-train-en-96px-12-")
    assert (module.window, module.horizon, module.image_size) == (8, 5, 96)
    assert module.action_space.control_period == pytest.approx(1 / 3)
    assert callable(module.source)
    assert module.source.keywords["suite"] == "route1"  # type: ignore[attr-defined]


def test_the_lab_config_reads_lab_files_at_full_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = {"left": np.float32([1.15, 1.15, 0]), "right": np.float32([1.15, -1.15, 0])}
    for i in range(8):
        box, way, side = ("1box", "2box")[i % 2], ("hori", "vert")[i // 2 % 2], ("left", "right")[i // 4]
        block = rng.integers(0, 256, (2, 9, 16, 3), dtype=np.uint8).repeat(80, axis=1).repeat(80, axis=2)
        name = f"episode_2026012{i}_01042{i}_basket_{box}_{way}_{side}_core_medium.h5"
        write_lab_file(tmp_path / name, block, np.stack([keys[side], np.zeros(3, np.float32)]))
    module = configured(
        "mobile_vla",
        f"data.root={tmp_path}",
        "data.split.train=0.5",
        "data.split.val=0.25",
        "data.split.test=0.25",
    )
    module.prepare_data()
    module.setup("fit")
    for batch in module.train_dataloader():
        batch.validate()
        assert batch.frames.shape[1:] == (3, 224, 224)
        for row, (name, _) in enumerate(batch.keys):
            text = detokenize(
                *(
                    x[batch.episode[batch.windows[row, -1]]]
                    for x in (batch.instruction_ids, batch.instruction_mask)
                )
            )
            assert ("left" in name) == (" left " in text)
    classes = module.action_space.classify(np.concatenate([e.actions for e in module.episodes("train")]))
    assert {module.action_space.class_names[i] for i in classes} <= {"stop", "forward_left", "forward_right"}
    assert module.manifest()["from_file_name"] == ["distance", "id", "pattern", "scenario"]
    assert len(list((tmp_path / ".frames" / "224px").glob("*.npy"))) == 8


@pytest.mark.parametrize(
    ("override", "attribute", "kind"),
    [
        ("data/sampler=windows", "sampler", WindowSampler),
        ("data/sampler=episodes", "sampler", EpisodeSampler),
        ("data/normalizer=meanstd", "normalizer", MeanStdNormalizer),
        ("data/normalizer=none", "normalizer", IdentityNormalizer),
        ("data/action=diff_drive", "action_space", ActionSpace),
        ("data/instruction=from_file", "instruction", FromFile),
        ("data/instruction=lab_small", "instruction", ScenarioMap),
        ("data/instruction=lab_en", "instruction", ScenarioMap),
        ("data/instruction=lab_ko", "instruction", ScenarioMap),
        ("data/instruction=lab_small", "instruction", ScenarioMap),
        ("data/augmentation=none", "augmentation", Augmentation),
        ("data/augmentation=default", "augmentation", Augmentation),
        ("data/augmentation=mirror", "augmentation", Augmentation),
    ],
)
@pytest.mark.parametrize("name", ["sim", "mobile_vla"])
def test_every_group_member_fits_every_data_set(name: str, override: str, attribute: str, kind: type) -> None:
    assert isinstance(getattr(configured(name, override), attribute), kind)


@pytest.mark.parametrize(
    ("option", "active", "mirror"), [("none", False, 0), ("default", True, 0), ("mirror", True, 0.5)]
)
def test_the_strengths_of_the_options(option: str, active: bool, mirror: float) -> None:
    made = configured("sim", f"data/augmentation={option}").augmentation
    assert (made.active, made.mirror) == (active, mirror)
    assert not configured("sim").augmentation.active  # the default composes, and changes nothing


def test_options_of_the_command_line_reach_the_source() -> None:
    made = configured(
        "mobile_vla", "data/instruction=lab_ko", "data.instruction.held_out=2", "data.instruction.evaluate_on=held_out",
        "data.train_episodes=0.5",
    )  # fmt: skip
    assert (made.instruction.held_out, made.instruction.evaluate_on) == (2, "held_out")
    assert made.train_episodes == 0.5
    patterns = configured("sim", 'data.instruction.held_out=["go to *"]').instruction
    assert patterns.held_out == ("go to *",)


def test_the_lab_s_data_say_what_their_files_say_else_what_their_scenario_is() -> None:
    made = configured("mobile_vla").instruction
    assert isinstance(made, ScenarioMap)
    assert (made.origin, made.prefer_file) == ("conf/data/instruction/lab_en.yaml", True)
    korean = configured("mobile_vla", "data/instruction=lab_ko").instruction
    assert isinstance(korean, ScenarioMap) and not korean.prefer_file  # chosen for the language


def test_own_files_of_any_scenario_go_on_working_with_the_lab_s_data(tmp_path: Path) -> None:
    episodes = make_folder(tmp_path, [5, 3, 7, 4, 6, 2, 8, 5])
    module = configured("mobile_vla", f"data.root={tmp_path}", "data.split.train=0.5", "data.split.val=0.25",
                        "data.split.test=0.25")  # fmt: skip
    module.setup("fit")
    told = {e.id: e.instructions for name in ("train", "val", "test") for e in module.episodes(name)}
    assert told == {e.id: e.instructions for e in episodes}


def test_the_groups_of_a_run_s_episodes_are_those_of_the_split(tmp_path: Path) -> None:
    """Near-duplicates in files of different groups count as one drive in every interval."""
    drives = [make_episode(f"e{i}", 4, scenario="left") for i in range(12)]
    for i in range(0, 12, 2):  # each drive twice, the second camera a little noisier
        drives[i + 1].frames, drives[i + 1].actions = drives[i].frames ^ 1, drives[i].actions
    for episode in drives:
        write_episode(tmp_path / f"{episode.id}.h5", episode)
    for near, count in ((True, 6), (False, 12)):
        module = make_module(tmp_path, split=SplitRule(0.5, 0.25, 0.25, near_duplicates=near))
        module.setup()
        groups = {name: {e.group for e in module.episodes(name)} for name in ("train", "val", "test")}
        assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == count
        assert {n: len(g) for n, g in groups.items()} == {
            name: facts["groups"] for name, facts in module.manifest()["splits"].items()
        }
