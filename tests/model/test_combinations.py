"""Every backbone × LoRA choice × head × history of conf/model: trains two steps and decodes, or is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.overrides import root_keys
from src.data.actions import ActionSpace
from src.data.normalizer import MinMaxNormalizer
from src.model.backbone.base import Backbone
from src.model.optim import adamw
from src.model.policy import Policy
from tests.model.conftest import INSTRUCTIONS, SIZES, episode_batch
from tests.model.twins import LAYERS, TWINS, build_twin

CONF = Path(__file__).resolve().parents[2] / "conf"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / "model" / group).glob("*.yaml"))


BACKBONES = {"kosmos2_tiny": "", "convnet": "", **{twin.preset: name for name, twin in TWINS.items()}}
"""Option of model/backbone -> its twin. Kosmos-2's own variants differ in number format alone."""
HEADS = [name for name in options("head") if name.endswith("_tiny")]


@pytest.fixture(scope="session")
def overrides(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Overrides that put a backbone of conf/ on its twin of 32 px."""

    def small(option: str) -> list[str]:
        if option == "convnet":
            return ["model=convnet", "model.backbone.image_size=32"]
        if option == "kosmos2_tiny":
            return ["model=kosmos_tiny", f"model.backbone.checkpoint={tiny_checkpoint}"]
        folder = tmp_path_factory.getbasetemp() / f"combination-{option}"
        if not folder.exists():
            build_twin(BACKBONES[option], folder, [*INSTRUCTIONS, "user assistant system"])
        fixed = build_yaml(option)["image_size"]
        size = [] if fixed is None else ["model.backbone.image_size=32"]
        return [
            f"model={option}",
            f"model.backbone.checkpoint={folder}",
            "model.backbone.dtype=float32",
            *size,
        ]

    return small


def build_yaml(option: str) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load((CONF / "model" / "backbone" / f"{option}.yaml").read_text())
    return content


def nonsense(backbone: str, lora: str, history: str) -> str | None:
    """A word of the sentence that must refuse this combination, or None where it makes sense."""
    if backbone == "convnet" and lora != "full":
        return "model/lora=full"
    if lora == "text_top8" and max(LAYERS, SIZES.text_layers) < 8:
        return "last layers"
    if backbone == "gemma3" and lora in ("projector", "all"):
        return (
            "vision, text_attention, text_mlp"  # its projector is a bare matrix, which adapters cannot wrap
        )
    if backbone == "convnet" and history == "interleaved":
        return "per_frame"
    return None


def train_two_steps(make: Callable[..., Policy], head: Any) -> None:
    policy = make(head=head).train()
    batch = episode_batch(policy, lengths=(4, 3))
    policy.fit_actions(batch.actions[batch.action_mask].numpy())
    before = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = policy.configure_optimizers()
    for _ in range(2):
        optimizer.zero_grad()
        loss = policy.compute_loss(batch)[0]["loss"]
        assert torch.isfinite(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = dict(policy.named_parameters())
    for group, members in policy.parameter_groups().items():
        names = [name for name in before if any(trained[name] is member for member in members)]
        assert not names or any(not torch.equal(trained[n], before[n]) for n in names), (
            f"{group} stands still"
        )
    with torch.no_grad():
        actions = policy.eval().predict(batch)
    assert actions.shape == (7, policy.horizon, 3) and bool(torch.isfinite(actions).all())
    assert bool((actions >= policy.low).all() and (actions <= policy.high).all())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("option", BACKBONES)
def test_every_combination_trains_and_decodes_or_is_refused(
    option: str, overrides: Callable[[str], list[str]], action_space: ActionSpace, compose: Any
) -> None:
    torch.manual_seed(0)
    loaded: Backbone = build(compose("train", *overrides(option)).model.backbone)
    heads = {name: compose("train", f"model/head={name}").model.head for name in HEADS}
    for history in options("history"):
        for lora in options("lora"):
            cfg = compose("train", *overrides(option), f"model/lora={lora}", f"model/history={history}").model
            normalizer = MinMaxNormalizer()
            normalizer.fit(np.array([[-1.15] * 3, [1.15] * 3]))
            make = partial(
                lambda cfg, head, normalizer: Policy(
                    backbone=copy.deepcopy(loaded),
                    lora=build(cfg.lora),
                    history=build(cfg.history),
                    head=build(head),
                    action_space=action_space,
                    normalizer=normalizer,
                    window=3,
                    horizon=2,
                    optimizer=partial(adamw, lr=1e-3),
                ),
                cfg,
                normalizer=normalizer,
            )
            word = nonsense(option, lora, history)
            if word is not None:
                with pytest.raises(ProjectError, match=word):
                    make(head=heads["lstm_tiny"])
                continue
            for name, head in heads.items():
                try:
                    train_two_steps(make, head)
                except Exception as error:
                    raise AssertionError(f"{option} × {lora} × {name} × {history}: {error}") from error


@pytest.mark.parametrize("option", BACKBONES)
def test_every_backbone_composes_and_trains_with_another_head_and_placement(
    option: str, overrides: Callable[[str], list[str]], action_space: ActionSpace, compose: Any
) -> None:
    """One combination of each backbone through the whole configuration; all of them are in the slow test."""
    index = list(BACKBONES).index(option)
    lora = (
        "full" if option == "convnet" else ["text_attention", "vision", "text_rslora", "text_dora"][index % 4]
    )
    head = HEADS[index % len(HEADS)]
    cfg = compose("train", *overrides(option), f"model/lora={lora}", f"model/head={head}")
    cfg.run_folder = "somewhere"
    check(cfg, root_keys(CONF, "train"))
    normalizer = MinMaxNormalizer()
    normalizer.fit(np.array([[-1.15] * 3, [1.15] * 3]))
    make = partial(
        build, cfg.model, action_space=action_space, normalizer=normalizer, window=3, horizon=2,
        optimizer=partial(adamw, lr=1e-3),
    )  # fmt: skip
    train_two_steps(make, build(cfg.model.head))
