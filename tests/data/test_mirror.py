"""Left and right exchanged: in words, in actions, in frames, and all three together; twice is the identity."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.assemble import BatchAssembler, InstructionTable
from src.data.augment import Augmentation, augmented
from src.data.batch import Batch
from src.data.episode import Episode, open_episode, write_episode
from src.data.frames import FrameStore
from src.data.mirror import mirror_signs, mirror_text
from src.data.sampler import Plan
from src.sim.instructions import corpus, mirrored
from tests.data.builders import SPACE, make_episode
from tests.data.modules import detokenize, tokenize

PAIRS = [
    ("Pass the box on the left.", "Pass the box on the right."),
    ("LEFT, then Right; left-hand side", "RIGHT, then Left; right-hand side"),
    ("the leftmost of the upright boxes, leftwards", "the rightmost of the upright boxes, rightwards"),
    ("1box_hori_left bright rightful leftover", "1box_hori_right bright rightful leftover"),
    ("the box on the left next to the door", "the box on the right next to the door"),
    ("상자를 왼쪽으로 지나 오른편 길로", "상자를 오른쪽으로 지나 왼편 길로"),
    ("왼 쪽 상자의 좌측으로 우회전하세요", "오른 쪽 상자의 우측으로 좌회전하세요"),
    ("좌로 가세요", "우로 가세요"),
    # not sides: we, mail, a detour, in case, to both sides, very, "climbed"
    ("우리는 우편 차로 우회하고 그런 경우로 좌우로 매우 산에 오른 로봇", None),
    ("go to the red ball", None),
]


@pytest.mark.parametrize(("text", "other"), PAIRS)
def test_sides_are_exchanged_and_nothing_else(text: str, other: str | None) -> None:
    assert mirror_text(text) == (other or text)
    assert mirror_text(other or text) == text


@pytest.mark.parametrize(
    "text",
    [
        "go right now", "stop right in front of it", "you have left the room", "turn counter-clockwise",
        "시계 방향으로 도세요", "go lEFT",
    ],
)  # fmt: skip
def test_what_cannot_be_mirrored_is_refused(text: str) -> None:
    with pytest.raises(ProjectError, match="cannot be mirrored because of"):
        mirror_text(text)


FRAGMENTS = [
    "left", "Right", "LEFT", "most", "hand", "up", "side", " ", "-", "_", ".", "the ", "now", "왼", "오른", "쪽", "편",
    "좌", "우", "측", "회전", "로", "으로", "상자", "손", "box", "clock", "1",
]  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join) | st.text(max_size=20))
def test_mirrored_twice_a_sentence_is_itself(text: str) -> None:
    try:
        once = mirror_text(text)
    except ProjectError:
        return
    assert mirror_text(once) == text


def test_the_simulator_s_sentences_mirror_as_the_simulator_says() -> None:
    for text in corpus():
        assert mirror_text(text) == mirrored(text)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_left_and_right_maps_of_the_lab_are_mirror_images(language: str) -> None:
    table = OmegaConf.load(f"conf/data/instruction/lab_{language}.yaml").scenarios
    for scenario, texts in table.items():
        assert [mirror_text(text) for text in texts] == list(table[mirror_text(str(scenario))])


# ---------------------------------------------------------------- actions


def test_signs_follow_the_declared_axes() -> None:
    assert mirror_signs(SPACE, ["linear_y", "angular_z"]).tolist() == [1, -1, -1]
    drive = ActionSpace(("v", "steering"), ("m/s", "rad"), (0, -0.5), (2, 0.5), 0.1)
    assert mirror_signs(drive, ["steering"]).tolist() == [1, -1]
    with pytest.raises(
        ProjectError, match=r"mirror_axes is \['linear_y', 'angular_z'\].*\['v', 'steering'\]"
    ):
        mirror_signs(drive, ["linear_y", "angular_z"])
    with pytest.raises(ProjectError, match="mirror_axes is"):
        mirror_signs(drive, [])
    with pytest.raises(ProjectError, match="has v, whose limits in data.action are 0 to 2"):
        mirror_signs(drive, ["v"])


# ---------------------------------------------------------------- all three together


TEXTS = {"e0": ("left", "right"), "e1": ("to the right", "to the left"), "e2": ("왼쪽", "오른쪽")}
SIGNS = np.float32([1, -1, -1])
PLAN_STEPS = (np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Episode], FrameStore]]:
    """The same three episodes as recorded, and recorded in a mirror (turned by hand)."""
    root = tmp_path_factory.mktemp("mirror")
    found = {}
    for column, kind in enumerate(("plain", "turned")):
        made = [make_episode(name, 4, instructions=(texts[column],)) for name, texts in TEXTS.items()]
        if kind == "turned":
            for episode in made:
                episode.frames = episode.frames[:, :, ::-1].copy()
                episode.actions = episode.actions * SIGNS
        for episode in made:
            write_episode(root / kind / f"{episode.id}.h5", episode)
        files = [open_episode(root / kind / f"{episode.id}.h5") for episode in made]
        found[kind] = (made, FrameStore(files, 8, root / "cache", 1.0))
    return found


def batch_of(store: FrameStore, epoch: int, seed: int, augmentation: Augmentation | None) -> Batch:
    table = InstructionTable(tokenize, [text for pair in TEXTS.values() for text in pair])
    assembler = BatchAssembler(
        store.episodes, store, table, 2, 2, "first", seed, None, augmentation, SIGNS
    )  # fmt: skip
    batch = assembler[Plan(epoch, *PLAN_STEPS)]
    batch.validate()
    return batch


@settings(max_examples=25)
@given(epoch=st.integers(0, 99), seed=st.integers(0, 9))
def test_frames_actions_and_words_are_mirrored_together(worlds: Any, epoch: int, seed: int) -> None:
    made, store = worlds["plain"]
    pending = batch_of(store, epoch, seed, Augmentation(mirror=0.5))
    assert pending.mirrored is not None
    batch = augmented(pending)
    for row, (episode, flip) in enumerate(zip(made, pending.mirrored.tolist(), strict=True)):
        picture = episode.frames[:, :, ::-1] if flip else episode.frames
        frames = batch.frames[batch.episode == row]
        np.testing.assert_array_equal(frames.permute(0, 2, 3, 1).numpy(), picture)
        text = detokenize(batch.instruction_ids[row], batch.instruction_mask[row])
        assert text == TEXTS[episode.id][int(flip)]
        for t in range(4):
            action = batch.actions[4 * row + t, 0].numpy()
            np.testing.assert_array_equal(action, episode.actions[t] * (SIGNS if flip else 1))


@settings(max_examples=25)
@given(epoch=st.integers(0, 99), seed=st.integers(0, 9))
def test_the_mirror_of_a_mirror_image_is_the_recording(worlds: Any, epoch: int, seed: int) -> None:
    """Frames, actions and words at once: mirrored by hand, then by the augmentation."""
    found = augmented(batch_of(worlds["turned"][1], epoch, seed, Augmentation(mirror=1.0)))
    recorded = batch_of(worlds["plain"][1], epoch, seed, None)
    for field in ("frames", "actions", "instruction_ids", "instruction_mask", "windows", "action_mask"):
        assert torch.equal(getattr(found, field), getattr(recorded, field)), field


def test_mirroring_without_signs_is_a_bug_of_the_caller(worlds: Any) -> None:
    store = worlds["plain"][1]
    table = InstructionTable(tokenize, ["left"])
    with pytest.raises(ValueError, match="signs"):
        BatchAssembler(store.episodes, store, table, 2, 2, "first", 0, None, Augmentation(mirror=0.5))
