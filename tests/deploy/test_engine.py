"""The ways of running a step differ in speed alone: same actions, one new frame, nothing left of a warm-up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from src.core.errors import ProjectError
from src.deploy import engine
from src.deploy.engine import PAD_TOKENS, CompiledEngine, Engine, FixedEngine, make_engine
from src.deploy.predictor import BatchedPredictor, Predictor
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.heads.lstm import LSTMHead
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import FullPlacement
from src.model.policy import Policy
from tests.deploy.standins import SPACE, toy_policy

TEXTS = ["drive to the red ball", "pass the box on its left side and drive to the red ball", "ball"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def kosmos(folder: Path, window: int = 3, history: History | None = None) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = partial(LSTMHead, layers=1, hidden_size=16, mlp=(16,))
        backbone = Kosmos2Backbone(str(folder))
        normalizer = toy_policy().normalizer
        return Policy(
            backbone, FullPlacement(), history or PerFrame(), head, SPACE, normalizer, window, 4
        ).eval()


def pictures(robots: int, steps: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (steps, robots, size, size, 3), dtype=np.uint8)


def with_engine(
    policy: Policy, kind: Callable[[Policy], Engine], size: int, **how: object
) -> BatchedPredictor:
    predictor = BatchedPredictor(policy, size, **how)  # type: ignore[arg-type]
    predictor.engine = kind(policy)
    return predictor


def drive(
    predictor: BatchedPredictor, texts: list[str], frames: np.ndarray, seed: int | None = None
) -> np.ndarray:
    """Commands (steps, B, A); with a seed, some robots rest now and then."""
    rng = np.random.default_rng(seed)
    predictor.reset(texts)
    rest = [None if seed is None else rng.random(len(texts)) < 0.6 for _ in frames]
    return np.array([predictor.step(frame, active) for frame, active in zip(frames, rest, strict=True)])


def test_fixed_shapes_change_no_action(small_kosmos: Path) -> None:
    """Padded instructions, one batch for all robots, a ring in place: equal to plain calls, rests and all."""
    policy, frames = kosmos(small_kosmos), pictures(3, 7)
    plain, fixed = BatchedPredictor(policy, 32), with_engine(policy, FixedEngine, 32)
    for texts in (
        TEXTS,
        TEXTS[::-1],
        [TEXTS[2]],
    ):  # the second is of the same shape: its tensors are used again
        frames_now = frames[:, : len(texts)]
        expected = drive(plain, texts, frames_now, seed=3)
        np.testing.assert_allclose(drive(fixed, texts, frames_now, seed=3), expected, atol=1e-5)
        assert fixed.engine.ids.shape[1] % PAD_TOKENS == 0
    assert (
        np.abs(drive(plain, TEXTS[:1], frames[:, :1]) - drive(plain, TEXTS[1:2], frames[:, :1])).max() > 1e-3
    )


@pytest.mark.parametrize("how", [{"execute": 3}, {"temporal_ensemble": 0.1}], ids=str)
def test_fixed_shapes_carry_out_chunks_alike(how: dict[str, float]) -> None:
    policy, frames = toy_policy(), pictures(2, 9, 16)
    expected = drive(BatchedPredictor(policy, 16, **how), TEXTS[:2], frames, seed=1)  # type: ignore[arg-type]
    found = drive(with_engine(policy, FixedEngine, 16, **how), TEXTS[:2], frames, seed=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_larger_camera_in_the_middle_of_a_drive_keeps_the_memory() -> None:
    policy = toy_policy()
    small, large = pictures(1, 3, 16), pictures(1, 3, 24)
    plain, fixed = BatchedPredictor(policy), with_engine(policy, FixedEngine, 16)
    fixed.image_size = None
    for predictor in (plain, fixed):
        predictor.reset(TEXTS[:1])
    for frame in [*small, *large]:
        np.testing.assert_allclose(fixed.step(frame), plain.step(frame), atol=1e-6)


def test_work_per_step_grows_with_the_window_in_the_head_alone(small_kosmos: Path) -> None:
    encoding = set()
    for window in (2, 8, 32):
        policy = kosmos(small_kosmos, window).requires_grad_(
            False
        )  # the counter cannot stand leaves that learn
        predictor = BatchedPredictor(policy, 32)
        drive(predictor, TEXTS[:1], pictures(1, 2))
        with FlopCounterMode(display=False) as step:
            predictor.step(pictures(1, 1)[0])
        with FlopCounterMode(display=False) as head:
            predictor.engine.plan(np.array([0]))
        assert predictor.encoded_frames == 3
        encoding.add(step.get_total_flops() - head.get_total_flops())
    assert len(encoding) == 1 and encoding.pop() > 1e5


@pytest.mark.parametrize("kind", [Engine, FixedEngine])
def test_a_warm_up_leaves_nothing_behind(small_kosmos: Path, kind: Callable[[Policy], Engine]) -> None:
    policy, frames = kosmos(small_kosmos), pictures(1, 5)
    warm, fresh = with_engine(policy, kind, 32), with_engine(policy, kind, 32)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    warm.warm_up()
    assert warm.encoded_frames == 0
    with pytest.raises(ProjectError, match="before reset"):
        warm.step(frames[0])
    np.testing.assert_array_equal(drive(warm, TEXTS[:1], frames), drive(fresh, TEXTS[:1], frames))
    assert warm.engine.filled.tolist() == fresh.engine.filled.tolist() == [5]
    assert torch.equal(warm.engine.memories, fresh.engine.memories)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_reset_prepares_for_a_new_length_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[tuple[int, ...]] = []
    monkeypatch.setattr(FixedEngine, "prepare", lambda self: prepared.append(tuple(self.ids.shape)))
    predictor = with_engine(toy_policy(), FixedEngine, 16)
    predictor.warm_up()
    assert prepared == [(1, PAD_TOKENS)]
    predictor.reset(["go " * 5])
    assert len(prepared) == 1, "a sentence of the same length class needs nothing"
    predictor.reset(["go " * (PAD_TOKENS + 1)])
    assert prepared[1:] == [(1, 2 * PAD_TOKENS)]
    predictor.step(pictures(1, 1, 16)[0])
    assert len(prepared) == 2


def test_choices_that_cannot_run_are_a_sentence(small_kosmos: Path) -> None:
    policy = toy_policy()
    with pytest.raises(ProjectError, match="expected one of none, compile, cuda_graph"):
        make_engine(policy, "warp")
    if policy.low.device.type == "cpu":
        with pytest.raises(ProjectError, match="cuda_graph on cpu"):
            Predictor(policy, accelerate="cuda_graph")
    with pytest.raises(ProjectError, match="interleaved"):
        make_engine(kosmos(small_kosmos, history=Interleaved()), "compile")


@pytest.mark.filterwarnings("ignore")  # what the compiler says of itself is not ours
def test_steps_are_compiled_once(small_kosmos: Path) -> None:
    """What is compiled, and when; that the shipped compiler computes the same is the next test's."""
    from torch._dynamo.testing import CompileCounterWithBackend

    policy, frames = kosmos(small_kosmos), pictures(1, 6)
    counter = CompileCounterWithBackend("eager")
    compiled = BatchedPredictor(policy, 32, accelerate="compile")
    assert isinstance(compiled.engine, CompiledEngine)
    compiled.engine._encode = torch.compile(policy.encode_frames, backend=counter)
    compiled.engine._act = torch.compile(policy.act, backend=counter)
    compiled.warm_up()
    compiled.reset(TEXTS[:1])
    graphs = counter.frame_count
    assert graphs >= 2
    plain = BatchedPredictor(policy, 32)
    for text in (TEXTS[0], TEXTS[2], TEXTS[0]):
        expected = drive(plain, [text], frames)
        np.testing.assert_allclose(drive(compiled, [text], frames), expected, atol=1e-4)
    assert counter.frame_count == graphs, "neither a step nor a sentence of this length class compiles"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler says of itself is not ours
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_steps_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what others left half written is not read
    policy, frames = toy_policy(), pictures(1, 6, 16)
    plain = BatchedPredictor(policy, 16)
    compiled = BatchedPredictor(policy, 16, accelerate="compile")
    compiled.warm_up()
    for text in TEXTS[:2]:
        expected = drive(plain, [text], frames)
        np.testing.assert_allclose(drive(compiled, [text], frames), expected, atol=1e-4)
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"


@needs_gpu
def test_recorded_steps_are_equal_on_a_gpu(small_kosmos: Path) -> None:
    policy, frames = kosmos(small_kosmos).to("cuda"), pictures(2, 6)
    plain, graph = BatchedPredictor(policy, 32), BatchedPredictor(policy, 32, accelerate="cuda_graph")
    assert isinstance(graph.engine, engine.GraphEngine)
    graph.warm_up(2)
    for texts in (TEXTS[:2], TEXTS[1:], [TEXTS[0], "drive " * 20]):
        expected = drive(plain, texts, frames, seed=2)
        np.testing.assert_allclose(drive(graph, texts, frames, seed=2), expected, atol=1e-3)
