"""Every choice of `model/lora`: exactly the listed weights train, on full and on quantised weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.config import build
from src.core.errors import ProjectError
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.lora import FullPlacement, LoraPlacement, NonePlacement
from src.model.policy import Policy
from tests.model.conftest import INSTRUCTIONS, episode_batch, frames

ROOT = Path(__file__).resolve().parents[2]
MakePolicy = Callable[..., Policy]
DEEP = TinySizes(
    image_size=32, patch_size=8, vision_width=32, vision_layers=2, text_width=32, text_layers=9, latents=4,
    max_tokens=128,
)  # fmt: skip
"""Deep enough for `text_top8` to leave a layer out."""

TEXT = r"text_model\.model\.layers\.{layers}\.{part}\..*lora_.*"
ATTENTION = TEXT.format(layers=r"\d", part="self_attn")
MLP = TEXT.format(layers=r"\d", part="ffn")
VISION = r"vision_model\.model\.encoder\.layers\.\d\.(self_attn|mlp)\..*lora_.*"
PROJECTOR = r"image_to_text_projection\..*lora_.*"
QUERIES = r"backbone\.queries"
TRAINED = {
    "none": [QUERIES],
    "head_only": [],
    "full": [r"backbone\..*"],
    "text_attention": [QUERIES, ATTENTION],
    "text_all": [QUERIES, ATTENTION, MLP],
    "text_all_tiny": [QUERIES, ATTENTION, MLP],
    "text_top8": [QUERIES, TEXT.format(layers="[1-8]", part="(self_attn|ffn)")],
    "text_dora": [QUERIES, ATTENTION, MLP],
    "text_rslora": [QUERIES, ATTENTION, MLP],
    "vision": [QUERIES, VISION],
    "projector": [QUERIES, PROJECTOR],
    "all": [QUERIES, ATTENTION, MLP, VISION, PROJECTOR],
}
"""Choice -> patterns of the weights that must move, beside the head's; written without looking at the sites."""


@pytest.fixture(scope="session")
def deep_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    build_tiny(folder, [*INSTRUCTIONS, "An image of a robot"], DEEP)
    return folder


def choices() -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / "model" / "lora").glob("*.yaml"))


def moved_by_three_steps(policy: Policy) -> set[str]:
    """Names of the parameters that three optimizer steps change, to the bit."""
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = policy.configure_optimizers()
    for step in range(3):
        optimizer.zero_grad()
        policy.compute_loss(episode_batch(policy, seed=step))[0]["loss"].backward()
        optimizer.step()
    return {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("choice", choices())
def test_exactly_the_listed_weights_move(
    choice: str, make_policy: MakePolicy, deep_checkpoint: Path, compose: Any
) -> None:
    placement = build(compose("train", "model=kosmos_lora", f"model/lora={choice}").model.lora)
    policy = make_policy(placement, backbone=Kosmos2Backbone(str(deep_checkpoint))).train()
    moved = moved_by_three_steps(policy)
    patterns = [
        r"head\..*",
        *(p if p.startswith("backbone") else rf"backbone\.network\.{p}" for p in TRAINED[choice]),
    ]
    sizes = {name: p.numel() for name, p in policy.named_parameters()}
    expected = {name for name in sizes if any(re.fullmatch(pattern, name) for pattern in patterns)}
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == expected
    # An embedding row that no instruction used has no gradient, so full fine-tuning need not move every tensor.
    assert moved <= expected and len(moved) >= 0.95 * len(expected)
    if choice != "full":
        assert moved == expected
    reported = sum(row.trainable for row in policy.placement_report)
    assert reported == sum(sizes[name] for name in expected if not name.startswith("head."))


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ({"arm": "all"}, "text_attention"),
        ({"text_mlp": 9}, "1 to 2"),
        ({"projector": 1}, "no layers"),
        ({}, "lora=none"),
        ({"vision": None}, "lora=none"),
    ],
)
def test_lora_sites_that_make_no_sense(make_policy: MakePolicy, sites: dict[str, Any], words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        make_policy(LoraPlacement(sites, 2, 4, 0.0))


@pytest.mark.parametrize("alpha", [0.0, -16.0, float("nan"), float("inf")])
def test_an_adapter_that_is_scaled_to_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ProjectError, match=r"model\.lora\.alpha: found"):
        LoraPlacement({"text_mlp": "all"}, 4, alpha, 0.0)


def test_full_fine_tuning_of_bfloat16_weights_is_refused(
    make_policy: MakePolicy, tiny_checkpoint: Path
) -> None:
    with pytest.raises(ProjectError, match="found full with bfloat16 weights.*dtype=float32"):
        make_policy(FullPlacement(), backbone=Kosmos2Backbone(str(tiny_checkpoint), dtype="bfloat16"))


@pytest.mark.parametrize(
    "rates", [{"lr": -1.0}, {"lr": 0.0}, {"lr": 1e-3, "head_lr": -1.0}, {"lr": float("nan")}]
)
def test_learning_rates_that_cannot_be(make_policy: MakePolicy, rates: dict[str, float]) -> None:
    from src.model.optim import adamw

    with pytest.raises(ProjectError, match=rf"optimizer\.{list(rates)[-1]}: found .*above 0"):
        adamw(make_policy().parameter_groups(), **rates)


def test_a_site_that_matches_nothing_is_an_error(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.backbone.sites = {"vision": r"vision_model\.encodr\.(\d+)"}
    with pytest.raises(ProjectError, match="matches no module"):
        LoraPlacement({"vision": "all"}, 2, 4, 0.0).apply(policy.backbone)


def test_adapter_and_head_have_their_own_learning_rates_and_queries_no_decay(make_policy: MakePolicy) -> None:
    from src.model.optim import adamw

    policy = make_policy()
    optimizer = adamw(policy.parameter_groups(), lr=1e-4, head_lr=1e-3, weight_decay=0.1)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": 1e-4, "queries": 1e-4, "head": 1e-3}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(policy.backbone.queries)] == 0.0
    assert decays.keys() == {id(p) for p in policy.parameters() if p.requires_grad}


# ---------------------------------------------------------------- other number formats


def test_adapters_of_a_bfloat16_model_train_in_float32(tiny_checkpoint: Path) -> None:
    """Small steps would vanish in bfloat16; the frozen base may stay in it."""
    backbone = Kosmos2Backbone(str(tiny_checkpoint), dtype="bfloat16")
    LoraPlacement({"text_attention": "all"}, 2, 4, 0.0).apply(backbone)
    assert {p.dtype for p in backbone.parameters() if p.requires_grad} == {torch.float32}
    assert backbone.embeddings.weight.dtype == torch.bfloat16


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a multiple of 64 values, the block of 4-bit quantisation."""
    sizes = TinySizes(
        image_size=32, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=2, latents=4,
        max_tokens=96,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wide")
    build_tiny(folder, [*INSTRUCTIONS, "An image of a robot"], sizes)
    return folder


@pytest.mark.parametrize(("quantization", "tolerance"), [("nf4", 0.4), ("int8", 0.05)])
@pytest.mark.filterwarnings("ignore:.*MatMul8bitLt.*")
def test_quantised_weights_stay_and_adapters_train(
    make_policy: MakePolicy, wide_checkpoint: Path, quantization: str, tolerance: float
) -> None:
    """QLoRA: states near the full ones (relative error; 4 bits on 64 values a row are coarse), base bits untouched."""
    plain = Kosmos2Backbone(str(wide_checkpoint), query_init="<object>").eval()
    backbone = Kosmos2Backbone(str(wide_checkpoint), query_init="<object>", quantization=quantization).eval()
    with torch.no_grad():
        arguments = (frames(3), *plain.tokenize(INSTRUCTIONS))
        expected, found = plain(*arguments), backbone(*arguments)
    assert (found - expected).norm() / expected.norm() < tolerance
    policy = make_policy(
        LoraPlacement({"text_attention": "all", "vision": "all"}, 2, 4, 0.0), backbone=backbone
    )
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    moved = moved_by_three_steps(policy)
    assert moved == {name for name, p in policy.named_parameters() if p.requires_grad}


def test_quantised_weights_cannot_be_fine_tuned(make_policy: MakePolicy, wide_checkpoint: Path) -> None:
    backbone = Kosmos2Backbone(str(wide_checkpoint), quantization="nf4")
    with pytest.raises(ProjectError, match="quantization=null"):
        make_policy(FullPlacement(), backbone=backbone)


def test_without_bitsandbytes_quantisation_is_one_sentence(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest),
    )
    with pytest.raises(ProjectError, match=r"needs the package bitsandbytes.*\[qlora\]"):
        Kosmos2Backbone(str(tiny_checkpoint), quantization="nf4")


def test_the_backbones_own_module_is_frozen_with_none(make_policy: MakePolicy) -> None:
    policy = make_policy(NonePlacement())
    assert not any(p.requires_grad for p in policy.backbone.network.parameters())
    assert not policy.train().backbone.network.text_model.training, "a frozen part keeps no dropout"
