"""The heads' statistics of the training actions, their options, and their configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from src.core.cli import CONF
from src.core.config import build, check
from src.core.errors import ProjectError
from src.model.heads.bins import BinsHead
from src.model.heads.classes import ClassesHead
from src.model.heads.encoder import WindowEncoder
from tests.model.head_cases import (
    HEADS,
    SMALL,
    D,
    Q,
    S,
    codec_of,
    directions,
    every_head,
    inputs,
    make,
    targets,
)

NEED_FIT = ("classes", "hybrid", "bins")
CONFIGS = sorted(path.stem for path in (CONF / "model" / "head").glob("*.yaml"))

# ---------------------------------------------------------------- statistics


def test_a_class_decodes_to_its_mean_and_a_key_to_its_action() -> None:
    codec = codec_of("lab_keys")
    head = ClassesHead(Q * D, 1, 1, codec, **SMALL)
    keys = directions(codec)
    head.fit(torch.cat([keys] * 7))
    assert torch.equal(head.values, keys) and torch.equal(codec.classify(head.values), torch.arange(11))
    physical = torch.tensor([[0.2, 0.0, 0.1], [0.8, 0.0, -0.3]])
    head.fit(codec.normalize(physical))
    forward = codec.space.class_names.index("forward")
    torch.testing.assert_close(codec.denormalize(head.values[forward]), physical.mean(dim=0))
    assert head.counts.tolist() == [2 if row == forward else 0 for row in range(11)]


@pytest.mark.parametrize("name", ["classes", "hybrid"])
def test_a_class_without_training_data_is_never_chosen_and_costs_no_infinity(name: str) -> None:
    codec = codec_of("omni3d", low=[-0.5, -1.15, -1.15])
    head = HEADS[name][0](Q * D, 1, 1, codec, class_weights="balanced", **SMALL)
    names, nominal = codec.space.class_names, directions(codec)
    head.fit(nominal[:2])  # stop, forward
    backward, seen = names.index("backward"), torch.ones(1, 1, dtype=torch.bool)
    head.output.bias.data[backward] = 50.0
    prediction = head(torch.ones(1, 1, Q, D), seen)
    assert prediction[0, 0, : head.classes].argmax() == backward
    assert int(head.choose(prediction)) in (0, 1)
    limited = codec.denormalize(head.values[backward])  # full speed, within the limits
    torch.testing.assert_close(limited, torch.tensor([-0.5, 0.0, 0.0]), rtol=0, atol=1e-6)
    rare = head.loss(prediction, nominal[backward].view(1, 1, -1), seen)["loss"]
    common = head.loss(prediction, nominal[1].view(1, 1, -1), seen)["loss"]
    assert rare.isfinite() and rare < 1 < common


def test_a_hybrid_without_magnitudes_is_a_classes_head() -> None:
    head = make("hybrid")
    prediction = head(*inputs(head))
    prediction[..., head.classes :] = 0.0
    assert torch.equal(head.decode(prediction), head.values[head.choose(prediction)])


@settings(max_examples=60, deadline=None)
@given(
    bins=st.integers(2, 300),
    low=st.floats(-3, 3),
    spread=st.floats(0, 5),
    share=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_a_bin_is_off_by_half_its_width_at_most(
    bins: int, low: float, spread: float, share: list[float]
) -> None:
    head = BinsHead(1, 1, 1, codec_of("diff_drive"), 1, 1, [1], bins=bins)
    ends = torch.tensor([[low, 0.3], [low + spread, 0.3]])  # the second axis never moves
    head.fit(ends)
    actions = ends[0] + torch.tensor(share)[:, None] * (ends[1] - ends[0])
    index = head.to_bins(actions)
    assert index.min() >= 0 and index.max() < bins
    half = (ends[1] - ends[0]) / (bins - 1) / 2
    assert ((head.from_bins(index) - actions).abs() <= half + 2e-6).all()
    assert torch.equal(head.from_bins(head.to_bins(ends)), ends)  # the extremes come back exactly
    torch.testing.assert_close(head.from_bins(head.to_bins(ends + torch.tensor([[-9.0], [9.0]]))), ends)


@every_head
def test_a_checkpoint_brings_weights_and_statistics(name: str) -> None:
    trained, fresh = make(name, seed=0), make(name, seed=1, fit=False)
    states, mask = inputs(trained)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(fresh.decode(fresh(states, mask)), trained.decode(trained(states, mask)))
    batch = targets(trained)
    loss = [head.loss(head(states, mask), *batch)["loss"] for head in (fresh, trained)]
    assert torch.equal(*loss)


@pytest.mark.parametrize("name", NEED_FIT)
def test_without_statistics_a_head_stops(name: str) -> None:
    head, empty = make(name), make(name, fit=False)
    for _ in range(2):  # the second time a fitted head that was given an empty checkpoint
        prediction = empty(*inputs(empty))
        with pytest.raises(
            ProjectError, match=r"^model\.head: .* without statistics of the training actions"
        ):
            empty.decode(prediction)
        with pytest.raises(ProjectError, match="without statistics"):
            empty.loss(prediction, *targets(empty))
        head.decode(prediction)
        head.load_state_dict(make(name, fit=False).state_dict())
        empty, head = head, make(name)


@pytest.mark.parametrize("name", NEED_FIT)
@pytest.mark.parametrize(
    "actions", [torch.zeros(0, 3), torch.zeros(5, 2), torch.zeros(3), torch.full((4, 3), float("nan"))]
)
def test_statistics_of_what_are_no_actions_are_refused(name: str, actions: Tensor) -> None:
    with pytest.raises(ProjectError, match=r"^model\.head: found .*training actions"):
        make(name, fit=False).fit(actions)


# ---------------------------------------------------------------- options and configs


@pytest.mark.parametrize("name", ["classes", "hybrid"])
@pytest.mark.parametrize("classes", [{}, {"stop": [0, 0, 0]}])
def test_heads_that_choose_directions_need_some(name: str, classes: dict[str, Any]) -> None:
    with pytest.raises(ProjectError, match=r"^data\.action\.classes: found \d, expected at least two"):
        HEADS[name][0](Q * D, 1, 1, codec_of("omni3d", classes=classes), **SMALL)


LSTM_LIKE = ("lstm", "classes", "hybrid", "bins", "flow")
BAD: list[tuple[tuple[str, ...], str, Any]] = [
    ((*LSTM_LIKE, "gpt"), "layers", 0),
    ((*LSTM_LIKE, "gpt"), "hidden_size", 0),
    ((*LSTM_LIKE, "mlp"), "mlp", [8, 0]),
    (tuple(HEADS), "dropout", 1.5),
    (tuple(HEADS), "dropout", -0.1),
    (LSTM_LIKE, "dropout", 0.1),  # with one layer it would act nowhere
    (("lstm", "mlp", "gpt", "hybrid"), "huber_delta", 0.0),
    (("gpt",), "attention_heads", 3),
    (("gpt",), "attention_heads", 0),
    (("classes", "hybrid"), "class_weights", "rare"),
    (("classes", "hybrid"), "label_smoothing", 1.0),
    (("hybrid",), "magnitude_weight", float("nan")),
    (("bins",), "bins", 1),
    (("bins",), "quantile", 0.5),
    (("flow",), "steps", 0),
    (("flow",), "draws", 0),
    (("flow",), "field", []),
    (("flow",), "field", [0]),
]


@pytest.mark.parametrize(("names", "option", "value"), BAD)
def test_a_bad_option_is_refused_under_its_key(names: tuple[str, ...], option: str, value: Any) -> None:
    for name in names:
        with pytest.raises(ProjectError, match=rf"^model\.head\.{option}\b.*found .*, expected .*\.$"):
            make(name, fit=False, **{option: value})


ACTING: list[tuple[str, str, Any]] = [
    ("lstm", "huber_delta", 0.1), ("mlp", "huber_delta", 0.1), ("gpt", "huber_delta", 0.1),
    ("hybrid", "huber_delta", 0.1), ("hybrid", "magnitude_weight", 3.0), ("hybrid", "label_smoothing", 0.2),
    ("classes", "label_smoothing", 0.2), ("classes", "class_weights", "balanced"), ("bins", "quantile", 0.3),
    ("mlp", "dropout", 0.5), ("gpt", "dropout", 0.5), ("flow", "steps", 1), ("flow", "draws", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "value"), ACTING)
def test_an_option_acts(name: str, option: str, value: Any) -> None:
    def figures(**more: Any) -> Tensor:
        head = make(name, fit=False, **more)
        head.fit(directions(head.codec)[[1] * 9 + list(range(9))])
        head.train()
        torch.manual_seed(0)
        prediction = head(*inputs(head))
        total = head.loss(prediction, *targets(head))["loss"]
        return torch.cat([total[None], head.decode(prediction).flatten()])

    assert torch.equal(figures(), figures())
    assert not torch.equal(figures(), figures(**{option: value}))


def composed(option: str) -> Any:
    """The head's node as a composed config holds it, without the rest of the config (which takes half a second)."""
    with initialize_config_dir(str(CONF / "model" / "head"), version_base="1.3"):
        return OmegaConf.create({"model": {"head": compose(option)}}).model.head


@pytest.mark.parametrize("option", CONFIGS)
def test_every_config_builds_and_works(option: str) -> None:
    node = composed(option)
    check(node)
    codec = codec_of("lab_keys")
    if option.endswith("_tiny"):
        head = build(node)(state_size=Q * D, window=4, horizon=3, codec=codec)
        head.fit(directions(codec))
        prediction = head(*inputs(head))
        assert head.loss(prediction, *targets(head))["loss"].isfinite()
        assert head.decode(prediction).shape == (S, 3, 3)
        return
    with torch.device("meta"):
        head = build(node)(state_size=2048, window=8, horizon=5, codec=codec)
    assert 15e6 < sum(p.numel() for p in head.parameters()) < 60e6


def test_configs_compare_heads_and_not_their_encoders() -> None:
    assert {f"{name}{size}" for name in HEADS for size in ("", "_tiny")} <= set(CONFIGS)
    for size in ("", "_tiny"):
        nodes = [composed(f"{name}{size}") for name in LSTM_LIKE]
        for key in ("layers", "hidden_size", "mlp", "dropout"):
            assert len({str(node[key]) for node in nodes}) == 1, key


def test_the_encoder_is_the_lstm_head_without_its_last_layer() -> None:
    torch.manual_seed(0)
    encoder = WindowEncoder(Q * D, 2, 16, [8], 0.0)
    head = make("lstm", layers=2, mlp=[8], seed=0)
    states, mask = inputs(head)
    assert torch.equal(head.mlp[-1](encoder(states, mask)), head(states, mask))
