"""The network without a VLM sees, listens, depends on no batch mate, trains as a whole, refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.overrides import root_keys
from src.data.actions import ActionSpace
from src.data.normalizer import IdentityNormalizer
from src.model.backbone.convnet import ConvNetBackbone
from src.model.history import Interleaved
from src.model.lora import FullPlacement, HeadOnlyPlacement, LoraPlacement, NonePlacement, Placement
from src.model.policy import Policy
from tests.conftest import ROOT
from tests.model.conftest import INSTRUCTIONS, episode_batch, frames

SMALL = {
    "num_queries": 2, "hidden_size": 32, "image_size": 32, "stem_stride": 2, "widths": [8, 16],
    "film_blocks": 2, "heads": 4, "word_size": 16,
}  # fmt: skip


@pytest.fixture()
def convnet(tiny_checkpoint: Path) -> ConvNetBackbone:
    torch.manual_seed(0)
    return ConvNetBackbone(str(tiny_checkpoint), **SMALL).eval()  # type: ignore[arg-type]


# ---------------------------------------------------------------- it sees and listens


def test_every_word_and_their_order_change_the_states(convnet: ConvNetBackbone) -> None:
    pictures = frames(1)
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        before = convnet(pictures, ids, mask)
        assert before.shape == (1, 2, 32) and before.dtype == torch.float32
        for position in range(ids.shape[1]):
            changed = ids.clone()
            changed[0, position] = ids[0, position] + 1
            assert (convnet(pictures, changed, mask) - before).abs().max() > 1e-4, (
                f"word {position} is not heard"
            )
        for position in range(ids.shape[1] - 1):
            swapped = ids.clone()
            swapped[0, [position, position + 1]] = ids[0, [position + 1, position]]
            assert (convnet(pictures, swapped, mask) - before).abs().max() > 1e-4


def test_the_film_blocks_listen_apart_from_the_readout(convnet: ConvNetBackbone) -> None:
    network: Any = convnet.network
    with torch.no_grad():
        cells = convnet.encode_images(convnet.preprocess(frames(2)))
        words = network.words(*convnet.tokenize(INSTRUCTIONS[:2]))
        for block in range(SMALL["film_blocks"]):  # type: ignore[call-overload]
            first, second = (
                network.trunk.blocks[block](cells[:1].transpose(1, 2).unflatten(2, (8, 8)), words[i : i + 1])
                for i in range(2)
            )
            assert (first - second).abs().max() > 1e-3, f"FiLM block {block} does not hear"


def test_every_patch_changes_the_states(convnet: ConvNetBackbone) -> None:
    pictures = frames(1)
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        before = convnet(pictures, ids, mask)
        for row in range(0, 32, 4):
            for column in range(0, 32, 4):
                masked = pictures.clone()
                masked[:, :, row : row + 4, column : column + 4] = 128
                assert (convnet(masked, ids, mask) - before).abs().max() > 1e-4, (
                    f"patch {row}, {column} is not seen"
                )


@pytest.mark.parametrize("silenced", ["layout", "value"])
def test_where_a_thing_stands_changes_the_states(convnet: ConvNetBackbone, silenced: str) -> None:
    """The same cells in another order: the layout sees it without the attention, the attention without the layout."""
    readout: Any = convnet.network.get_submodule("readout")
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        getattr(readout, silenced).weight.zero_()
        cells = convnet.encode_images(convnet.preprocess(frames(1)))
        questions = convnet.queries + convnet.network.get_submodule("words")(ids, mask)[:, None]
        assert (readout(cells.flip(1), questions) - readout(cells, questions)).abs().max() > 1e-3


def test_each_query_is_read_at_its_own_place(convnet: ConvNetBackbone) -> None:
    pictures = frames(1)
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        before = convnet(pictures, ids, mask)
        for query in range(2):
            kept = convnet.queries[query].clone()
            convnet.queries[query] = kept.flip(0)
            change = (convnet(pictures, ids, mask) - before).abs().amax(dim=(0, 2))
            assert change[query] > 1e-4 and change[1 - query] == 0
            convnet.queries[query] = kept


def test_latents_know_no_words_and_give_the_same_states(convnet: ConvNetBackbone) -> None:
    pictures = frames(3)
    ids, mask = convnet.tokenize(INSTRUCTIONS)
    with torch.no_grad():
        latents = convnet.encode_images(convnet.preprocess(pictures))
        assert latents.shape == (3, convnet.latents_per_frame, 16)
        states = convnet.encode(latents[:, None], torch.ones(3, 1, dtype=torch.bool), ids, mask)
        torch.testing.assert_close(states, convnet(pictures, ids, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_batch_mates_and_padding_change_nothing(convnet: ConvNetBackbone, training: bool) -> None:
    """In training mode too: there are no batch statistics."""
    convnet.train(training)
    pictures = frames(3)
    ids, mask = convnet.tokenize(INSTRUCTIONS)
    assert not mask.all(), "the instructions should differ in length"
    with torch.no_grad():
        together = convnet(pictures, ids, mask)
        for i, instruction in enumerate(INSTRUCTIONS):
            alone = convnet(pictures[i : i + 1], *convnet.tokenize([instruction]))
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
        other = torch.where(mask, ids, 7)
        torch.testing.assert_close(convnet(pictures, other, mask), together, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- it trains as a whole


def test_gradient_reaches_every_parameter(convnet: ConvNetBackbone) -> None:
    states = convnet(frames(3), *convnet.tokenize(INSTRUCTIONS))
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in convnet.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_full_placement_moves_every_parameter(
    convnet: ConvNetBackbone, make_policy: Callable[..., Policy]
) -> None:
    policy = make_policy(FullPlacement(), backbone=convnet)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = policy.configure_optimizers()
    policy.compute_loss(episode_batch(policy))[0]["loss"].backward()
    optimizer.step()
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_saved_weights_give_the_same_actions(
    tiny_checkpoint: Path, make_policy: Callable[..., Policy]
) -> None:
    def fresh(seed: int) -> Policy:
        torch.manual_seed(seed)
        backbone = ConvNetBackbone(str(tiny_checkpoint), **SMALL)  # type: ignore[arg-type]
        return make_policy(FullPlacement(), backbone=backbone).eval()

    trained, other = fresh(0), fresh(1)
    batch = episode_batch(trained)
    with torch.no_grad():
        assert not torch.allclose(trained.predict(batch), other.predict(batch))
        other.load_trained(trained.trained_state())
        assert torch.equal(trained.predict(batch), other.predict(batch))


def test_weights_of_another_vocabulary_are_refused(
    convnet: ConvNetBackbone, make_policy: Callable[..., Policy]
) -> None:
    """Of the same size, so that no shape tells: the numbers would stand for other words."""
    policy = make_policy(FullPlacement(), backbone=convnet)
    state = policy.trained_state()
    name = "backbone.network.words.embedding.pieces"
    with pytest.raises(ProjectError, match="model.backbone.tokenizer"):
        policy.load_trained({**state, name: state[name].flip(0)})


@pytest.mark.parametrize(
    "placement",
    [NonePlacement(), HeadOnlyPlacement(), LoraPlacement({"text_mlp": "all"}, 4, 8, 0.0)],
    ids=lambda placement: type(placement).__name__,
)
def test_only_full_training_makes_sense(convnet: ConvNetBackbone, placement: Placement) -> None:
    with pytest.raises(ProjectError, match="model/lora=full"):
        placement.apply(convnet)


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("image_size", [32, 8])
def test_flops_match_torchs_counter(tiny_checkpoint: Path, image_size: int) -> None:
    """At 32 px convolutions weigh most, at 8 px (2 x 2 cells) the readout of the queries."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    sizes: dict[str, Any] = {**SMALL, "image_size": image_size}
    convnet = ConvNetBackbone(str(tiny_checkpoint), **sizes)
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    pixels = convnet.preprocess(frames(1))
    alone = torch.ones(1, 1, dtype=torch.bool)
    # The counter knows no formula for the fused attention kernel of the CPU; the plain one has the same count.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as image:
            latents = convnet.encode_images(pixels)
        with FlopCounterMode(display=False) as text:
            convnet.encode(latents[:, None], alone, ids, mask)
    assert convnet.image_flops() == pytest.approx(image.get_total_flops(), rel=0.02)
    assert convnet.text_flops(ids.shape[1]) == pytest.approx(text.get_total_flops(), rel=0.02)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokenizer": "./no/such/folder"}, ["model.backbone.tokenizer", "assets/kosmos2_tiny"]),
        ({"num_queries": 0}, ["num_queries", "at least 1"]),
        ({"widths": []}, ["widths", "at least 1"]),
        ({"widths": [12]}, ["widths", "multiples of 8"]),
        ({"hidden_size": 30}, ["hidden_size", "heads"]),
        ({"image_size": 90}, ["image_size", "92"]),
    ],
)
def test_bad_arguments_stop_with_one_sentence(
    tiny_checkpoint: Path, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ProjectError) as caught:
        ConvNetBackbone(**{"tokenizer": str(tiny_checkpoint), **SMALL, **arguments})
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [("  ", "empty"), ("box " * 80, "shorten the instruction"), ("go to 日本", "not know")],
)
def test_instructions_that_cannot_be_read(convnet: ConvNetBackbone, text: str, words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        convnet.tokenize([text])


def test_unlisted_words_of_known_letters_stay_apart(convnet: ConvNetBackbone) -> None:
    """The shipped tokenizer spells what it does not list, so two new words never read alike."""
    ids, mask = convnet.tokenize(["go to the bat", "go to the tab"])
    with torch.no_grad():
        states = convnet(frames(1).expand(2, -1, -1, -1), ids, mask)
    assert (states[0] - states[1]).abs().max() > 1e-4


def test_several_frames_in_one_sequence_are_refused(
    convnet: ConvNetBackbone, make_policy: Callable[..., Policy]
) -> None:
    with pytest.raises(ProjectError, match="model/history=per_frame"):
        make_policy(FullPlacement(), backbone=convnet, history=Interleaved())
    ids, mask = convnet.tokenize(INSTRUCTIONS[:1])
    latents = convnet.encode_images(convnet.preprocess(frames(2)))[None]
    with pytest.raises(ProjectError, match="found 2 frames"):
        convnet.encode(latents, torch.ones(1, 2, dtype=torch.bool), ids, mask)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("backbone", ["convnet", "convnet_large"])
def test_the_preset_composes_and_builds(
    compose: Callable[..., Any], action_space: ActionSpace, backbone: str
) -> None:
    cfg = compose("train", "model=convnet", f"model/backbone={backbone}", "run_folder=somewhere")
    check(cfg, root_keys(ROOT / "conf", "train"))
    policy = build(
        cfg.model,
        action_space=action_space,
        normalizer=IdentityNormalizer(),
        window=4,
        horizon=2,
        optimizer=None,
        scheduler=None,
    )
    assert isinstance(policy.backbone, ConvNetBackbone)
    assert policy.backbone.checkpoint is None and policy.backbone.sites == {}
    assert all(parameter.requires_grad for parameter in policy.parameters())
    for part in policy.backbone.parts:
        policy.backbone.network.get_submodule(part)
