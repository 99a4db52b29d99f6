"""Each family behind the door equals the library's own forward from pixels, sees, listens, and stops on bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.core.errors import ProjectError
from src.model.backbone.vlm import VLMBackbone
from src.model.features.cache import KeptFeatures
from src.model.features.store import FeatureStore
from src.model.history import History, Interleaved, PerFrame
from src.model.lora import LoraPlacement
from src.model.policy import Policy
from tests.model.conftest import INSTRUCTIONS, episode_batch, frames, window_batch
from tests.model.twins import IMAGE_SIZE, LAYERS, TWINS, build_twin
from tests.model.vlm_reference import Reference, counted, edited, encode, first_block, preset

NAMES = list(TWINS)
FRAMES = 3


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in built:
            corpus = [
                *INSTRUCTIONS,
                "You are a helpful assistant. system user User: assistant USER: ASSISTANT:",
            ]
            built[name] = build_twin(name, tmp_path_factory.mktemp(name), corpus)
        return built[name]

    return folder


@pytest.fixture(scope="session")
def load(twin: Callable[[str], Path]) -> Callable[..., VLMBackbone]:
    plain: dict[str, VLMBackbone] = {}

    def make(name: str, **changes: Any) -> VLMBackbone:
        if name in plain and not changes:
            return copy.deepcopy(plain[name])
        torch.manual_seed(0)
        arguments = {
            **preset(name),
            "checkpoint": str(twin(name)),
            "dtype": "float32",
            "num_queries": 2,
            "gradient_checkpointing": False,
        }
        if arguments["image_size"] is not None:
            arguments["image_size"] = IMAGE_SIZE
        backbone = VLMBackbone(**{**arguments, **changes}).eval()
        if not changes:
            plain[name] = copy.deepcopy(backbone)
        return backbone

    return make


# ---------------------------------------------------------------- equal to the library


@pytest.mark.parametrize("name", NAMES)
def test_states_equal_the_librarys_forward_from_pixels(
    name: str, twin: Callable[[str], Path], load: Callable[..., VLMBackbone]
) -> None:
    backbone = load(name)
    reference = Reference(name, twin(name), backbone)
    pictures = frames(3)
    with torch.no_grad():
        states = backbone(pictures, *backbone.tokenize(INSTRUCTIONS))
    batch = reference.states([[picture] for picture in pictures], INSTRUCTIONS)
    torch.testing.assert_close(states, batch, rtol=0, atol=1e-5)
    for i, sentence in enumerate(INSTRUCTIONS):
        alone = reference.states([[pictures[i]]], [sentence])
        torch.testing.assert_close(states[i : i + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_interleaved_frames_equal_the_librarys_forward_of_several_images(
    name: str, twin: Callable[[str], Path], load: Callable[..., VLMBackbone]
) -> None:
    backbone = load(name)
    backbone.use_frames(FRAMES)
    reference = Reference(name, twin(name), backbone)
    pictures = frames(2 * FRAMES).unflatten(0, (2, FRAMES))
    valid = torch.tensor([[True, True, True], [False, True, True]])
    with torch.no_grad():
        states = encode(backbone, pictures, valid, *backbone.tokenize(INSTRUCTIONS[:2]))
    given = [
        [picture for picture, real in zip(*row, strict=True) if real]
        for row in zip(pictures, valid, strict=True)
    ]
    torch.testing.assert_close(states, reference.states(given, INSTRUCTIONS[:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"),
    [("smolvlm", 16), ("idefics3", 24), ("internvl", 48), ("qwen2_5_vl", 40), ("qwen3_vl", 24)],
)
def test_other_image_sizes_equal_the_librarys_forward(
    name: str, size: int, twin: Callable[[str], Path], load: Callable[..., VLMBackbone]
) -> None:
    backbone = load(name, image_size=size)
    assert backbone.latents_per_frame == (size // 8) ** 2
    picture = frames(1, size=size)
    with torch.no_grad():
        states = backbone(picture, *backbone.tokenize(INSTRUCTIONS[:1]))
    expected = Reference(name, twin(name), backbone).states([[picture[0]]], INSTRUCTIONS[:1])
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
    assert backbone.image_flops() == pytest.approx(
        counted(lambda: backbone.encode_images(backbone.preprocess(picture))), rel=0.02
    )


# ---------------------------------------------------------------- what changes the states, and what does not


@pytest.mark.parametrize("name", NAMES)
def test_every_word_patch_query_and_earlier_frame_changes_the_states(
    name: str, load: Callable[..., VLMBackbone]
) -> None:
    backbone = load(name)
    backbone.use_frames(FRAMES)
    picture = frames(1)
    ids, mask = backbone.tokenize(["go to the blue can"])
    with torch.no_grad():
        before = backbone(picture, ids, mask)

        def moved(pictures: Tensor, words: Tensor) -> float:
            return float((backbone(pictures, words, mask) - before).abs().max())

        for position in range(ids.shape[1]):
            changed = ids.clone()
            changed[0, position] = 100 if ids[0, position] != 100 else 101
            assert moved(picture, changed) > 1e-3, f"token {position} is not heard"
        swapped = ids[:, [0, 2, 1, *range(3, ids.shape[1])]]
        assert not swapped.equal(ids) and moved(picture, swapped) > 1e-3
        for row in range(0, IMAGE_SIZE, 8):
            for column in range(0, IMAGE_SIZE, 8):
                masked = picture.clone()
                masked[:, :, row : row + 8, column : column + 8] = 128
                assert moved(masked, ids) > 1e-4, f"patch {row}, {column} is not seen"
        for query in range(backbone.num_queries):
            kept = backbone.queries[query].clone()
            backbone.queries[query] = kept.flip(0)
            change = (backbone(picture, ids, mask) - before)[0, query].abs().max()
            assert change > 1e-3, f"query {query} is not read"
            backbone.queries[query] = kept

        window, everywhere = frames(FRAMES)[None], torch.ones(1, FRAMES, dtype=torch.bool)
        now = encode(backbone, window, everywhere, ids, mask)
        for frame in range(FRAMES):
            other = window.clone()
            other[0, frame] = frames(1, seed=9)[0]
            change = (encode(backbone, other, everywhere, ids, mask) - now).abs().max()
            assert change > 1e-3, f"frame {frame} of {FRAMES} is not seen"
        order = encode(backbone, window.flip(1), everywhere, ids, mask)
        assert (order - now).abs().max() > 1e-3, "the order of frames is not seen"


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_and_padding_change_nothing(name: str, load: Callable[..., VLMBackbone]) -> None:
    backbone = load(name)
    backbone.use_frames(FRAMES)
    pictures = frames(3 * FRAMES).unflatten(0, (3, FRAMES))
    valid = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    with torch.no_grad():
        together = encode(backbone, pictures, valid, *backbone.tokenize(INSTRUCTIONS))
        for i, sentence in enumerate(INSTRUCTIONS):
            words = backbone.tokenize([sentence])
            mine = pictures[i : i + 1]
            alone = encode(backbone, mine[:, valid[i]], valid[i : i + 1, valid[i]], *words)
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
            mine = torch.where(valid[i][None, :, None, None, None], mine, 255 - mine)
            other = encode(backbone, mine, valid[i : i + 1], *words)
            torch.testing.assert_close(together[i : i + 1], other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_image_and_word_weigh_alike_in_a_twin(name: str, load: Callable[..., VLMBackbone]) -> None:
    """Or a test on a twin would say little. Measured: the image moves the states 2 to 7 times as far as a word."""
    backbone = load(name)
    ids, mask = backbone.tokenize(["go to the blue can"])
    changed, _ = backbone.tokenize(["go to the blue ball"])
    with torch.no_grad():
        before = backbone(frames(1), ids, mask)
        other_image = (backbone(frames(1, seed=5), ids, mask) - before).abs().mean()
        other_word = (backbone(frames(1), changed[:, : ids.shape[1]], mask) - before).abs().mean()
    print(f"{name}: image {other_image:.3f}, word {other_word:.3f}")
    assert 1 / 30 < other_image / other_word < 30


# ---------------------------------------------------------------- what trains


@pytest.mark.parametrize("name", NAMES)
def test_lora_sites_take_each_matrix_once_and_nothing_else(
    name: str, load: Callable[..., VLMBackbone]
) -> None:
    backbone = load(name)
    per_layer = {"qwen2_5_vl": 5, "qwen3_vl": 4}.get(name, 6)
    projector = dict(zip(NAMES, (1, 6, 2, 1, 1, 2, 0, 2), strict=True))
    depth = LAYERS + (name == "qwen3_vl")
    unread = int(name == "llava")  # its features come from the last vision layer but one
    expected = {"vision": per_layer * (LAYERS - unread), "text_attention": 4 * depth, "text_mlp": 3 * depth}
    if projector[name]:  # Gemma 3 has a bare matrix there
        expected["projector"] = projector[name]
    assert len({id(backbone.network.get_submodule(part)) for part in backbone.parts}) == 1 + depth
    matrices = {path for path, module in backbone.network.named_modules() if isinstance(module, nn.Linear)}
    matrices = {
        path for path in matrices if not (unread and f"vision_tower.encoder.layers.{LAYERS - 1}." in path)
    }
    assert sum(expected.values()) == len(matrices)
    placement = LoraPlacement(dict.fromkeys(expected, "all"), 2, 4.0, 0.0)
    matched = {report.site: report.modules for report in placement.apply(backbone)}
    assert {site: matched[site] for site in expected} == expected
    trained = {path for path, p in backbone.network.named_parameters() if p.requires_grad}
    assert {path.split(".lora_")[0] for path in trained} == matrices
    last = LoraPlacement({"text_attention": 1}, 2, 4.0, 0.0).apply(load(name))
    assert next(report.modules for report in last if report.site == "text_attention") == 4


@pytest.mark.parametrize("history", [PerFrame(), Interleaved()], ids=["per_frame", "interleaved"])
@pytest.mark.parametrize("name", ["paligemma", "qwen3_vl"])
def test_a_policy_trains_through_it_as_on_separate_windows(
    name: str, history: History, load: Callable[..., VLMBackbone], make_policy: Callable[..., Policy]
) -> None:
    placement = LoraPlacement({"vision": 1, "projector": "all", "text_attention": "all"}, 2, 4.0, 0.0)
    policy = make_policy(placement, window=2, backbone=load(name), history=history)
    batch = episode_batch(policy, lengths=(3, 2))
    policy.compute_loss(batch)[0]["loss"].backward()
    adapters = {path: p for path, p in policy.named_parameters() if "lora_B" in path}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())
    policy.eval()
    with torch.no_grad():
        together = policy.predict(batch)
        for sample in range(len(together)):
            alone = policy.predict(window_batch(batch, sample))[0]
            torch.testing.assert_close(alone, together[sample], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_kept_latents_give_the_loss_and_gradients_of_fresh_ones(
    name: str, load: Callable[..., VLMBackbone], make_policy: Callable[..., Policy], tmp_path: Path
) -> None:
    policy = make_policy(LoraPlacement({"text_attention": "all"}, 2, 4.0, 0.0), window=2, backbone=load(name))
    assert policy.stage.name == "latents"
    batch = episode_batch(policy, lengths=(3, 2))
    batch.origin = torch.stack([torch.arange(5), batch.episode], dim=1)
    words = [one[batch.episode] for one in (batch.instruction_ids, batch.instruction_mask)]
    sample = policy.lower(batch.frames, *words)
    store = FeatureStore(tmp_path / "store", {}, 5, tuple(sample.shape[1:]), sample.dtype)
    results = []
    for kept in (None, KeptFeatures(store, 1, True), KeptFeatures(store, 1, True)):
        policy.features = kept
        policy.zero_grad()
        loss = policy.compute_loss(batch)[0]["loss"]
        loss.backward()
        gradients = {path: p.grad.clone() for path, p in policy.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    assert store.known == 5 and torch.equal(store.read(np.arange(5))[0], sample)
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_leaves_gradients_equal(name: str, load: Callable[..., VLMBackbone]) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = load(name, gradient_checkpointing=checkpointing).train()
        runs = []
        for layer in (
            f"{backbone.kind.text}.layers.0.mlp",
            f"{backbone.kind.vision}.{first_block(name)}.mlp",
        ):
            module = backbone.network.get_submodule(layer)
            module.register_forward_pre_hook(lambda *_, layer=layer, runs=runs: runs.append(layer))
        backbone(frames(2), *backbone.tokenize(INSTRUCTIONS[:2])).square().mean().backward()
        assert sorted(runs.count(layer) for layer in set(runs)) == [1 + checkpointing] * 2
        gradients.append({path: p.grad for path, p in backbone.named_parameters()})
    assert gradients[0]["queries"] is not None and gradients[0]["queries"].abs().sum() > 0
    for path, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][path] is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[1][path], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_reads_about_the_same(name: str, load: Callable[..., VLMBackbone]) -> None:
    exact, coarse = load(name), load(name, dtype="bfloat16")
    with torch.no_grad():
        coarse.queries.copy_(exact.queries)
        words = exact.tokenize(INSTRUCTIONS[:1])
        wanted, found = exact(frames(1), *words), coarse(frames(1), *words)
    assert coarse.queries.dtype == found.dtype == torch.float32
    assert (wanted - found).abs().mean() < 0.05


def test_queries_that_were_not_written_exactly_once_are_an_error(load: Callable[..., VLMBackbone]) -> None:
    backbone = load("llava")
    network: Any = backbone.network
    words, picture, forward = backbone.tokenize(INSTRUCTIONS[:1]), frames(1), network.forward
    hidden = torch.zeros(1, 200, backbone.hidden_size)
    network.forward = lambda **_: SimpleNamespace(last_hidden_state=hidden)
    with pytest.raises(ProjectError, match="0 times"):
        backbone(picture, *words)
    network.forward = lambda **inputs: (forward(**inputs), forward(**inputs))[0]
    with pytest.raises(ProjectError, match="2 times"):
        backbone(picture, *words)
    network.forward = forward
    assert backbone(picture, *words).isfinite().all()
    assert not backbone.embeddings._forward_hooks


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("name", NAMES)
def test_flops_match_torchs_counter(name: str, load: Callable[..., VLMBackbone]) -> None:
    backbone = load(name)
    backbone.use_frames(FRAMES)
    words = backbone.tokenize(INSTRUCTIONS[:1])
    tokens = words[0].shape[1]
    pixels = backbone.preprocess(frames(FRAMES))
    latents = backbone.encode_images(pixels).detach()[None]
    everywhere = torch.ones(1, FRAMES, dtype=torch.bool)
    image = counted(lambda: backbone.encode_images(pixels[:1]))
    assert backbone.image_flops() == pytest.approx(image, rel=0.02)
    one = counted(lambda: backbone.encode(latents[:, :1], everywhere[:, :1], *words))
    assert backbone.text_flops(tokens) == pytest.approx(one, rel=0.02)
    three = counted(lambda: backbone.encode(latents, everywhere, *words))
    assert backbone.text_flops(tokens, FRAMES) == pytest.approx(three, rel=0.02)


# ---------------------------------------------------------------- checkpoints and bad input


@pytest.mark.parametrize("name", ["paligemma", "gemma3", "llava"])
def test_weights_named_as_on_the_hub_load_alike(
    name: str, twin: Callable[[str], Path], load: Callable[..., VLMBackbone], tmp_path: Path
) -> None:
    """Files written before transformers 5 have another level inside the vision tower."""
    old = edited(
        twin(name), tmp_path / name, lambda path: path.replace("vision_tower.", "vision_tower.vision_model.")
    )
    backbones = [load(name), load(name, checkpoint=str(old))]
    expected, found = (b(frames(1), *b.tokenize(INSTRUCTIONS[:1])).detach() for b in backbones)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_folder_with_missing_weights_is_refused(
    twin: Callable[[str], Path], load: Callable[..., VLMBackbone], tmp_path: Path
) -> None:
    folder = edited(
        twin("qwen2_5_vl"), tmp_path / "qwen", lambda path: None if "visual.merger.ln_q" in path else path
    )
    with pytest.raises(ProjectError, match="lacks 1 weights.*ln_q"):
        load("qwen2_5_vl", checkpoint=str(folder))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("paligemma", {"family": "palogemma"}, ["palogemma", "qwen3_vl"]),
        ("gemma3", {"family": "paligemma"}, ["'gemma3'", "expected 'paligemma'"]),
        ("qwen3_vl", {"family": "qwen2_5_vl"}, ["'qwen3_vl'", "expected 'qwen2_5_vl'"]),
        ("llava", {"checkpoint": "llava-hf/llava-1.5-7b-hf"}, ["hf download llava-hf"]),
        ("llava", {"checkpoint": "./no/such/folder"}, ["config.json", "save_pretrained"]),
        ("paligemma", {"image_size": 48}, ["found 48", "32 only"]),
        ("gemma3", {"image_size": 16}, ["found 16", "32 only"]),
        ("llava", {"image_size": 16}, ["found 16", "32 only"]),
        ("smolvlm", {"image_size": 40}, ["found 40", "multiple of 8 up to 32"]),
        ("internvl", {"image_size": 30}, ["found 30", "multiple of 8"]),
        ("qwen2_5_vl", {"image_size": 30}, ["found 30", "multiple of 8"]),
        ("qwen3_vl", {"image_size": None}, ["any size", "multiple of 8"]),
        ("qwen3_vl", {"image_size": 0}, ["found 0", "multiple of 8"]),
        ("internvl", {"prompt": "{image} go"}, ["{instruction}"]),
        ("llava", {"prompt": "<image>{image}{instruction}"}, ["image token"]),
        ("llava", {"query_init": "no such token"}, ["no token of this checkpoint"]),
        ("llava", {"num_queries": 0}, ["num_queries"]),
        ("llava", {"dtype": "float12"}, ["float32 or bfloat16"]),
    ],
)
def test_bad_arguments_stop_with_one_sentence(
    name: str,
    arguments: dict[str, Any],
    words: list[str],
    load: Callable[..., VLMBackbone],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ProjectError) as caught:
        load(name, **arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("  ", "empty"), ("box " * 160, "shorten the instruction"), ("go <image>", "control token")],
)
def test_instructions_that_cannot_be_read(text: str, words: str, load: Callable[..., VLMBackbone]) -> None:
    with pytest.raises(ProjectError, match=words):
        load("llava").tokenize([text])


@pytest.mark.parametrize("key", ["image_std", None])
def test_a_folder_without_its_image_processing_is_refused(
    key: str | None, twin: Callable[[str], Path], load: Callable[..., VLMBackbone], tmp_path: Path
) -> None:
    folder = edited(twin("llava"), tmp_path / "llava", lambda path: path)
    settings = folder / "preprocessor_config.json"
    if key is None:
        settings.unlink()
    else:
        settings.write_text(settings.read_text().replace(key, "other"))
    with pytest.raises(ProjectError, match="preprocessor_config.json"):
        load("llava", checkpoint=str(folder))
