"""Every backbone × LoRA choice × head × history of conf/model: trains two steps, decodes and survives saving, or is
refused by name; and every backbone sees, listens and remembers."""

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
from tests.model.conftest import INSTRUCTIONS, SIZES, episode_batch, window_batch
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
        deaf = [n for n, p in policy.backbone.named_parameters() if "lora_" in n and p.grad is None]
        assert not deaf, f"{len(deaf)} listed adapters got no gradient (first: {deaf[0]})"
        optimizer.step()
    trained = dict(policy.named_parameters())
    for group, members in policy.parameter_groups().items():
        names = [name for name in before if any(trained[name] is member for member in members)]
        assert not names or any(not torch.equal(trained[n], before[n]) for n in names), (
            f"{group} stands still"
        )
    with torch.no_grad():
        actions = policy.eval().predict(batch)
        again = make(head=head).eval()
        again.load_trained(policy.trained_state())
        assert torch.equal(again.predict(batch), actions), "saved and loaded, it predicts something else"
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
                # A combination is tried with one history; each choice of each group meets both.
                turn = options("lora").index(lora) + HEADS.index(name) + options("history").index(history)
                if turn % 2 and option != "convnet":
                    continue
                try:
                    train_two_steps(make, head)
                except Exception as error:
                    raise AssertionError(f"{option} × {lora} × {name} × {history}: {error}") from error


@pytest.mark.parametrize(
    ("option", "history"),
    [(b, h) for b in BACKBONES for h in options("history") if nonsense(b, "full", h) is None],
)
def test_every_backbone_sees_listens_and_remembers(
    option: str, history: str, overrides: Callable[[str], list[str]], action_space: ActionSpace, compose: Any
) -> None:
    """What changes a prediction: a word, two words exchanged, a patch, each earlier frame. What does not: padding of
    words and windows, batch mates."""
    cfg = compose(
        "train", *overrides(option), "model/head=lstm_tiny", "model/lora=full", f"model/history={history}"
    )
    normalizer = MinMaxNormalizer()
    normalizer.fit(np.array([[-1.15] * 3, [1.15] * 3]))
    torch.manual_seed(0)
    policy = build(
        cfg.model, action_space=action_space, normalizer=normalizer, window=3, horizon=2, optimizer=None
    ).eval()
    torch.nn.init.normal_(policy.head.mlp[-1].weight, std=0.3)  # a fresh last layer hides small differences

    def predict(
        lengths: tuple[int, ...] = (4,), edit: Callable[[Any], None] = lambda batch: None
    ) -> torch.Tensor:
        batch = episode_batch(policy, lengths)
        edit(batch)
        with torch.no_grad():
            predicted: torch.Tensor = policy.predict(batch)
        return predicted[:4]

    before = predict()

    def difference(edit: Callable[[Any], None]) -> float:
        return float((predict(edit=edit)[-1] - before[-1]).abs().max())

    def other_word(batch: Any) -> None:
        ids = policy.tokenize([INSTRUCTIONS[0].replace("left", "right")])[0]
        batch.instruction_ids = ids

    def exchanged(batch: Any) -> None:
        words = INSTRUCTIONS[0].split()
        first, second = words.index("box"), words.index("ball")
        words[first], words[second] = words[second], words[first]
        batch.instruction_ids, batch.instruction_mask = policy.tokenize([" ".join(words)])

    def patch(batch: Any) -> None:
        batch.frames[3, :, 8:16, 8:16] = 255 - batch.frames[3, :, 8:16, 8:16]

    assert difference(other_word) > 1e-5, "a word is not heard"
    assert difference(exchanged) > 1e-5, "the order of words is not heard"
    assert difference(patch) > 1e-5, "a patch is not seen"
    for age in (1, 2):

        def earlier(batch: Any, age: int = age) -> None:
            batch.frames[3 - age] = 255 - batch.frames[3 - age]

        assert difference(earlier) > 1e-5, f"the frame {age} steps ago is not remembered"

    def beyond(batch: Any) -> None:
        batch.frames[0] = 255 - batch.frames[0]

    assert difference(beyond) == 0, "a frame outside the window leaks in"
    # The third instruction is longer than the first, so beside it the words are padded as well.
    torch.testing.assert_close(predict((4, 3, 2)), before, rtol=0, atol=1e-5)
    for sample in range(4):
        alone = window_batch(episode_batch(policy, (4,)), sample)
        with torch.no_grad():
            torch.testing.assert_close(policy.predict(alone)[0], before[sample], rtol=0, atol=1e-5)


def policies_of(cfg: Any, action_space: ActionSpace) -> Callable[..., Policy]:
    """Builds the policy of a composed config; the caller chooses the head."""
    normalizer = MinMaxNormalizer()
    normalizer.fit(np.array([[-1.15] * 3, [1.15] * 3]))
    return partial(
        build, cfg.model, action_space=action_space, normalizer=normalizer, window=3, horizon=2,
        optimizer=partial(adamw, lr=1e-3),
    )  # fmt: skip


def test_the_last_layers_of_a_site_are_those_that_are_read(
    overrides: Callable[[str], list[str]], action_space: ActionSpace, compose: Any
) -> None:
    """LLaVA takes its features from the last vision layer but one; an adapter behind it would stand still."""
    cfg = compose("train", *overrides("llava"), "model/lora=vision", "model.lora.sites.vision=1")
    make = policies_of(cfg, action_space)
    train_two_steps(make, build(compose("train").model.head))


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
    make = policies_of(cfg, action_space)
    train_two_steps(make, build(cfg.model.head))
