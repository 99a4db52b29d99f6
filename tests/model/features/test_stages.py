"""Where a policy is cut, and that a kept lower half gives what a fresh one gives: loss, gradients, to 1e-6."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.batch import Batch
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.features.cache import KeptFeatures
from src.model.features.store import FeatureStore
from src.model.history import Interleaved, PerFrame
from src.model.lora import FullPlacement, HeadOnlyPlacement, LoraPlacement, NonePlacement
from src.model.policy import Policy
from tests.model.conftest import INSTRUCTIONS, episode_batch, frames

LAYERS = 3
SIZES = TinySizes(
    image_size=32, patch_size=8, vision_width=32, vision_layers=1, text_width=32, text_layers=LAYERS, latents=4,
    max_tokens=128,
)  # fmt: skip


def lora(**sites: Any) -> Callable[..., LoraPlacement]:
    return lambda train_queries=True: LoraPlacement(sites, 4, 8, 0.1, train_queries=train_queries)


TOP = lora(text_attention=1, text_mlp=1)
CASES = {
    "head_only": (HeadOnlyPlacement, PerFrame, "states"),
    "none": (NonePlacement, PerFrame, "latents"),
    "text_attention": (lora(text_attention="all"), PerFrame, "latents"),
    "text_top": (TOP, PerFrame, "latents"),
    "text_top, still queries": (lambda: TOP(False), PerFrame, "hidden"),
    "text_attention, still queries": (lambda: lora(text_attention="all")(False), PerFrame, "latents"),
    "vision": (lora(vision="all"), PerFrame, "frames"),
    "projector": (lora(projector="all"), PerFrame, "frames"),
    "full": (FullPlacement, PerFrame, "frames"),
    "interleaved": (lora(text_attention="all"), Interleaved, "latents"),
    "interleaved head_only": (HeadOnlyPlacement, Interleaved, "latents"),
    "interleaved top": (lambda: TOP(False), Interleaved, "latents"),
}


@pytest.fixture(scope="session")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    build_tiny(folder, [*INSTRUCTIONS, "An image of a robot"], SIZES)
    return folder


def droppy(checkpoint: Path) -> Kosmos2Backbone:
    """With the full size's dropout of 0.1 wherever the library has one."""
    torch.manual_seed(0)
    backbone = Kosmos2Backbone(str(checkpoint), num_queries=2)
    for module in backbone.network.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.1)
    return backbone


@pytest.fixture()
def make(three_layers: Path, make_policy: Callable[..., Policy]) -> Callable[[str], Policy]:
    def built(case: str) -> Policy:
        placement, history, _ = CASES[case]
        policy = make_policy(placement(), backbone=droppy(three_layers), history=history())
        torch.manual_seed(1)
        with torch.no_grad():  # adapters start at zero, where half of their gradients vanish
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        return policy.train()

    return built


def keep(policy: Policy, folder: Path, batch: Batch, in_training: bool = True) -> KeptFeatures:
    """A store as the run would open it: rows for 50 frames in 3 wordings, of the longest words."""
    with torch.no_grad():
        rows = batch.episode[:1] * 0
        sample = policy.lower(batch.frames[:1], batch.instruction_ids[rows], batch.instruction_mask[rows])
    wordings = 3 if policy.stage.heard else 1
    store = FeatureStore(folder, {}, 50 * wordings, tuple(sample.shape[1:]), sample.dtype)
    policy.features = KeptFeatures(store, wordings, in_training)
    return policy.features


def with_origin(batch: Batch) -> Batch:
    """Frames 5, 6, … of the data set, the second episode in wording 2."""
    batch.origin = torch.stack([torch.arange(len(batch.frames)) + 5, batch.episode * 2], dim=1)
    return batch


def counted(policy: Policy) -> list[int]:
    """Frames of every later call of the vision tower, the text layers below the cut, and the backbone's lower half."""
    calls: list[int] = []
    lower = policy.lower

    def spy(*args: torch.Tensor) -> torch.Tensor:
        calls.append(len(args[0]))
        return lower(*args)

    policy.lower = spy  # type: ignore[method-assign]
    return calls


def step(policy: Policy, batch: Batch, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy.zero_grad()
    torch.manual_seed(seed)
    terms, _ = policy.compute_loss(batch)
    terms["loss"].backward()
    return terms["loss"].detach(), {
        name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_kept_is_fresh_and_nothing_below_is_computed_twice(
    case: str, make: Callable[[str], Policy], tmp_path: Path
) -> None:
    fresh, cached = make(case), make(case)
    batch = with_origin(episode_batch(fresh))
    kept = keep(cached, tmp_path / "store", batch)
    calls, tower = counted(cached), []
    cached.backbone.network.vision_model.register_forward_hook(lambda *_: tower.append(1))
    assert cached.stage.name == CASES[case][2]
    for epoch in range(2):
        for seed in range(2):
            loss, gradients = step(cached, batch, 2 * epoch + seed)
            expected, right = step(fresh, batch, 2 * epoch + seed)
            assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
            assert gradients.keys() == right.keys() and right
            for name, value in right.items():
                torch.testing.assert_close(gradients[name], value, atol=1e-6, rtol=1e-5, msg=name)
    if cached.stage.frozen:
        assert calls == [len(batch.frames)] and len(tower) == 1
        assert kept.store.known == len(batch.frames)
    else:
        assert len(tower) == 4


@pytest.mark.parametrize("case", ["head_only", "text_top, still queries", "none"])
def test_a_batch_half_known_and_in_other_company(
    case: str, make: Callable[[str], Policy], tmp_path: Path
) -> None:
    policy = make(case).eval()
    batch = with_origin(episode_batch(policy))
    expected = policy.prediction(batch)
    kept = keep(policy, tmp_path / "store", batch)
    ids, mask = batch.instruction_ids[batch.episode], batch.instruction_mask[batch.episode]
    short = int(mask[-1].sum())  # the second episode alone has shorter words
    some = slice(6, 8)
    fresh = policy.lower(batch.frames[some], ids[some, :short], mask[some, :short])
    shape = kept.store.shape
    assert batch.origin is not None
    kept.get(batch.origin[some], lambda rows: fresh[rows], ids.device)
    assert kept.store.known == 2
    calls = counted(policy)
    torch.testing.assert_close(policy.prediction(batch), expected, atol=1e-5, rtol=1e-5)
    assert calls == [len(batch.frames) - 2] and kept.store.shape == shape
    torch.testing.assert_close(policy.prediction(batch), expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


def test_each_wording_has_its_own_row(make: Callable[[str], Policy], tmp_path: Path) -> None:
    policy = make("head_only").eval()
    batch = with_origin(episode_batch(policy))
    keep(policy, tmp_path / "store", batch)
    calls = counted(policy)
    policy.prediction(batch)
    assert batch.origin is not None
    other = Batch(
        **{**vars(batch), "origin": batch.origin + torch.tensor([0, 1 - 2]) * (batch.origin > 0)[:, 1:]}
    )
    policy.prediction(other)
    assert calls == [10, 4]  # the second episode's 4 frames were said in wording 2, now in wording 1
    other.origin = batch.origin + torch.tensor([0, 3])
    with pytest.raises(IndexError, match="wording 5"):
        policy.prediction(other)


def test_latents_serve_every_wording(make: Callable[[str], Policy], tmp_path: Path) -> None:
    policy = make("none").eval()
    batch = with_origin(episode_batch(policy))
    keep(policy, tmp_path / "store", batch)
    calls = counted(policy)
    policy.prediction(batch)
    assert batch.origin is not None
    batch.origin[:, 1] += 1
    policy.prediction(batch)
    assert calls == [10]


def test_augmented_training_batches_are_computed_and_never_kept(
    make: Callable[[str], Policy], tmp_path: Path
) -> None:
    policy = make("none")
    batch = with_origin(episode_batch(policy))
    kept = keep(policy, tmp_path / "store", batch, in_training=False)
    calls = counted(policy)
    policy.prediction(batch)
    policy.prediction(batch)
    assert calls == [10, 10] and kept.store.known == 0
    policy.eval()
    policy.prediction(batch)
    policy.prediction(batch)
    assert calls == [10, 10, 10] and kept.store.known == 10


def test_a_batch_that_says_nothing_of_its_frames_is_computed(
    make: Callable[[str], Policy], tmp_path: Path
) -> None:
    policy = make("none")
    batch = episode_batch(policy)
    kept = keep(policy, tmp_path / "store", batch)
    policy.prediction(batch)
    assert kept.store.known == 0


@pytest.mark.parametrize("case", ["head_only", "text_top, still queries", "interleaved"])
def test_a_limit_of_frames_changes_nothing(case: str, make: Callable[[str], Policy], tmp_path: Path) -> None:
    policy = make(case).eval()
    batch = with_origin(episode_batch(policy))
    expected = policy.prediction(batch)
    batch.max_frames = 4
    torch.testing.assert_close(policy.prediction(batch), expected, atol=1e-5, rtol=1e-5)
    keep(policy, tmp_path / "store", batch)
    calls = counted(policy)
    for _ in range(2):
        torch.testing.assert_close(policy.prediction(batch), expected, atol=1e-5, rtol=1e-5)
    assert max(calls) <= 4 and sum(calls) == 10


def test_a_checkpoint_knows_nothing_of_the_cache(make: Callable[[str], Policy], tmp_path: Path) -> None:
    policy = make("none")
    before = set(policy.state_dict())
    keep(policy, tmp_path / "store", episode_batch(policy))
    assert set(policy.state_dict()) == before


# ---- the cut through the text model


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_both_halves_are_the_librarys_own_forward(layer: int, three_layers: Path) -> None:
    backbone = Kosmos2Backbone(str(three_layers), num_queries=2).eval()
    ids, mask = backbone.tokenize(INSTRUCTIONS)
    latents = backbone.encode_images(backbone.preprocess(frames(3)))[:, None]
    alone = torch.ones(3, 1, dtype=torch.bool)
    packed = backbone.pack(alone, ids, mask)
    network: Any = backbone.network
    hidden = network.text_model.model(
        inputs_embeds=backbone.merge(packed, latents, alone), attention_mask=packed.attention.long()
    ).last_hidden_state
    expected = backbone.read(hidden, packed)
    below = backbone.encode_below(layer, latents, ids, mask)
    surplus = torch.nn.functional.pad(below, (0, 0, 0, 5), value=1e3)
    for given in (below, surplus):
        states = backbone.encode_above(layer, given, ids, mask)
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


def test_layers_below_the_cut_never_drop_and_those_above_do(make: Callable[[str], Policy]) -> None:
    policy = make("text_top, still queries")
    layers = policy.backbone.text_layers
    assert policy.stage.layer == LAYERS - 1
    assert [layer.training for layer in layers] == [False] * (LAYERS - 1) + [True]
    assert not any(module.training for module in layers[0].modules())
    batch = episode_batch(policy)
    ids, mask = batch.instruction_ids[batch.episode], batch.instruction_mask[batch.episode]
    once, again = (policy.lower(batch.frames, ids, mask) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(policy.upper(once, ids, mask), policy.upper(once, ids, mask))
    trained = policy.trained_state()
    assert not any("queries" in name for name in trained) and any("layers.2" in name for name in trained)


def test_gradient_checkpointing_goes_on_above_the_cut(
    three_layers: Path, make_policy: Callable[..., Policy], make: Callable[[str], Policy]
) -> None:
    backbone = Kosmos2Backbone(str(three_layers), num_queries=2, gradient_checkpointing=True)
    policy = make_policy(TOP(False), backbone=backbone).train()
    runs = np.zeros(LAYERS, int)
    for at, layer in enumerate(policy.backbone.text_layers):
        layer.self_attn.register_forward_hook(lambda *_, at=at: runs.__setitem__(at, runs[at] + 1))
    _, gradients = step(policy, episode_batch(policy), 0)
    assert runs.tolist() == [1] * (LAYERS - 1) + [2]  # once more in the backward pass, above the cut only
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in gradients.items())


def test_the_reason_names_the_switch(make: Callable[[str], Policy]) -> None:
    assert "model.lora.train_queries=false" in make("text_top").stage.why
    assert "model/lora=head_only" in make("none").stage.why
    assert "vision_model" in make("vision").stage.why
    assert "image_to_text_projection" in make("projector").stage.why
    assert "whole windows" in make("interleaved top").stage.why
