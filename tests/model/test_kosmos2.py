"""Kosmos-2 behind the door equals HF's own forward, sees and listens, and stops on bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Kosmos2ForConditionalGeneration, Kosmos2Model

from src.core.errors import ProjectError
from src.model.backbone.kosmos2 import PROMPT, Kosmos2Backbone
from tests.model.conftest import INSTRUCTIONS, SIZES, frames


def reference_states(
    folder: Path, backbone: Kosmos2Backbone, picture: torch.Tensor, instruction: str
) -> torch.Tensor:
    """HF's own processor and forward on one unpadded sample, the queries standing in for two words: (Q, D)."""
    processor = AutoProcessor.from_pretrained(folder)
    model = Kosmos2ForConditionalGeneration.from_pretrained(folder).eval()
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    text = PROMPT.format(instruction=instruction)
    inputs = processor(text=text, images=image, num_image_tokens=SIZES.latents, return_tensors="pt")
    embeddings = model.text_model.model.embed_tokens.weight
    queries = backbone.num_queries
    with torch.no_grad():
        embeddings[-queries:] = backbone.queries
    ids = torch.cat([inputs.input_ids, torch.arange(len(embeddings) - queries, len(embeddings))[None]], dim=1)
    here = torch.cat([inputs.image_embeds_position_mask, torch.zeros(1, queries, dtype=torch.int64)], dim=1)
    captured: list[torch.Tensor] = []
    hook = model.text_model.model.register_forward_hook(
        lambda *args: captured.append(args[2].last_hidden_state)
    )
    with torch.no_grad():
        model(
            pixel_values=inputs.pixel_values,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            image_embeds_position_mask=here,
        )
    hook.remove()
    return captured[0][0, -queries:]


def test_states_equal_hf_forward_in_a_mixed_length_batch(
    tiny_checkpoint: Path, backbone: Kosmos2Backbone
) -> None:
    pictures = frames(3)
    with torch.no_grad():
        states = backbone(pictures, *backbone.tokenize(INSTRUCTIONS))
    for i, instruction in enumerate(INSTRUCTIONS):
        expected = reference_states(tiny_checkpoint, backbone, pictures[i], instruction)
        torch.testing.assert_close(states[i], expected, rtol=0, atol=1e-5)


def test_preprocessing_equals_the_checkpoints_processor(
    tiny_checkpoint: Path, backbone: Kosmos2Backbone
) -> None:
    picture = frames(1)
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    expected = processor.image_processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(backbone.preprocess(picture), expected, rtol=0, atol=1e-5)


def test_every_word_patch_and_query_changes_the_states(backbone: Kosmos2Backbone) -> None:
    pictures = frames(1)
    ids, mask = backbone.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        before = backbone(pictures, ids, mask)
        first_word = len(
            backbone.tokenizer(PROMPT.format(instruction=""), add_special_tokens=False)["input_ids"]
        )
        for position in range(first_word, ids.shape[1]):
            changed = ids.clone()
            changed[0, position] = ids[0, position] - 1 if ids[0, position] > 5 else ids[0, position] + 1
            assert (backbone(pictures, changed, mask) - before).abs().max() > 1e-4, (
                f"word {position} is not heard"
            )
        swapped = ids.clone()
        swapped[0, [-1, -2]] = ids[0, [-2, -1]]
        assert (backbone(pictures, swapped, mask) - before).abs().max() > 1e-4
        for row in range(0, 32, 8):
            for column in range(0, 32, 8):
                masked = pictures.clone()
                masked[:, :, row : row + 8, column : column + 8] = 128
                assert (backbone(masked, ids, mask) - before).abs().max() > 1e-4, (
                    f"patch {row}, {column} is not seen"
                )
        for query in range(backbone.num_queries):
            kept = backbone.queries[query].clone()
            backbone.queries[query] = kept.flip(0)
            assert (backbone(pictures, ids, mask) - before)[0, query].abs().max() > 1e-4, (
                f"query {query} is not read"
            )
            backbone.queries[query] = kept


def test_batch_mates_and_padding_change_nothing(backbone: Kosmos2Backbone) -> None:
    pictures = frames(3)
    with torch.no_grad():
        together = backbone(pictures, *backbone.tokenize(INSTRUCTIONS))
        for i, instruction in enumerate(INSTRUCTIONS):
            alone = backbone(pictures[i : i + 1], *backbone.tokenize([instruction]))
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def interleaved_reference(
    folder: Path, backbone: Kosmos2Backbone, pictures: torch.Tensor, instruction: str
) -> torch.Tensor:
    """HF's own forward on one sequence with several images: (Q, D)."""
    model = Kosmos2ForConditionalGeneration.from_pretrained(folder).eval()
    embeddings = model.text_model.model.embed_tokens.weight
    queries, tokenizer = backbone.num_queries, backbone.tokenizer
    with torch.no_grad():
        embeddings[-queries:] = backbone.queries
        headless = Kosmos2Model.from_pretrained(folder).eval()
        features = headless.get_image_features(backbone.preprocess(pictures))
    open_, close, begin = tokenizer.convert_tokens_to_ids(["<image>", "</image>", "<s>"])
    block = [open_, *[0] * SIZES.latents, close]
    words = tokenizer(PROMPT.format(instruction=instruction), add_special_tokens=False)["input_ids"]
    last = list(range(len(embeddings) - queries, len(embeddings)))
    ids = torch.tensor([[begin, *block * len(pictures), *words, *last]])
    inside = [0, *[1] * SIZES.latents, 0]
    here = torch.tensor([[0, *inside * len(pictures), *[0] * (len(words) + queries)]])
    captured: list[torch.Tensor] = []
    model.text_model.model.register_forward_hook(lambda *args: captured.append(args[2].last_hidden_state))
    with torch.no_grad():
        model(
            image_embeds=features.pooler_output.reshape(1, -1, SIZES.text_width),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            image_embeds_position_mask=here,
        )
    return captured[0][0, -queries:]


def test_interleaved_states_equal_hf_forward_with_several_images(
    tiny_checkpoint: Path, backbone: Kosmos2Backbone
) -> None:
    """Three samples with windows of 3, 2 and 1 frames and instructions of unlike length, in one batch."""
    backbone.use_frames(3)
    pictures = frames(9).view(3, 3, 3, 32, 32)
    frame_mask = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    with torch.no_grad():
        latents = backbone.encode_images(backbone.preprocess(pictures.flatten(0, 1))).unflatten(0, (3, 3))
        states = backbone.encode(latents, frame_mask, *backbone.tokenize(INSTRUCTIONS))
    for i, instruction in enumerate(INSTRUCTIONS):
        expected = interleaved_reference(tiny_checkpoint, backbone, pictures[i, frame_mask[i]], instruction)
        torch.testing.assert_close(states[i], expected, rtol=0, atol=1e-5)


def test_interleaved_frames_matter_in_their_order_and_padding_does_not(backbone: Kosmos2Backbone) -> None:
    backbone.use_frames(3)
    ids, mask = backbone.tokenize(INSTRUCTIONS[:1])
    with torch.no_grad():
        latents = backbone.encode_images(backbone.preprocess(frames(3)))[None]
        everything = torch.ones(1, 3, dtype=torch.bool)
        before = backbone.encode(latents, everything, ids, mask)
        for frame in range(3):
            changed = latents.clone()
            changed[:, frame] = changed[:, frame].flip(-1)
            assert (backbone.encode(changed, everything, ids, mask) - before).abs().max() > 1e-4
        swapped = latents[:, [1, 0, 2]]
        assert (backbone.encode(swapped, everything, ids, mask) - before).abs().max() > 1e-4
        padded = torch.tensor([[False, True, True]])
        short = backbone.encode(latents[:, 1:], everything[:, 1:], ids, mask)
        for junk in (latents[:, 0], torch.full_like(latents[:, 0], 1e4)):
            filled = torch.cat([junk[:, None], latents[:, 1:]], dim=1)
            result = backbone.encode(filled, padded, ids, mask)
            torch.testing.assert_close(result, short, rtol=0, atol=1e-5)


def test_more_frames_than_the_text_window_holds_are_refused(backbone: Kosmos2Backbone) -> None:
    """One <s>, two queries, 8 tokens for words: (128 - 11) // 6 = 19 frames of 4 latents and 2 tags."""
    backbone.use_frames(19)
    with pytest.raises(ProjectError, match="at most 19 frames"):
        backbone.use_frames(20)


def test_image_and_word_weigh_alike_at_initialisation(backbone: Kosmos2Backbone) -> None:
    """The library's own initialisation differs by a factor of ~70."""
    with torch.no_grad():
        ids, mask = backbone.tokenize(["go to the blue can"])
        before = backbone(frames(1), ids, mask)
        other_image = (backbone(frames(1, seed=5), ids, mask) - before).abs().mean()
        changed = ids.clone()
        changed[0, -1] = backbone.tokenizer.convert_tokens_to_ids("▁ball")
        other_word = (backbone(frames(1), changed, mask) - before).abs().mean()
    assert 0.1 < other_image / other_word < 10


def test_gradient_checkpointing_leaves_gradients_equal(tiny_checkpoint: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = Kosmos2Backbone(str(tiny_checkpoint), gradient_checkpointing=checkpointing).train()
        backbone(frames(2), *backbone.tokenize(INSTRUCTIONS[:2])).square().mean().backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters()})
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_flops_match_torchs_counter(backbone: Kosmos2Backbone) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    ids, mask = backbone.tokenize(INSTRUCTIONS[:1])
    # The counter knows no formula for the fused attention kernel of the CPU; the plain one has the same count.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone(frames(1), ids, mask)
    assert backbone.flops(ids.shape[1]) == pytest.approx(counter.get_total_flops(), rel=0.02)
    backbone.use_frames(5)
    latents = torch.randn(1, 5, SIZES.latents, SIZES.text_width)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone.encode(latents, torch.ones(1, 5, dtype=torch.bool), ids, mask)
    assert backbone.text_flops(ids.shape[1], 5) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"checkpoint": "microsoft/kosmos-2-patch14-224"}, ["hf download", "kosmos_tiny"]),
        ({"checkpoint": "./no/such/folder"}, ["config.json", "save_pretrained"]),
        ({"prompt": "An image {instruction}"}, ["'{image}' 0 times"]),
        ({"prompt": "<s>{image} An image"}, ["'{instruction}' 0 times"]),
        ({"prompt": "{instruction} {image}"}, ["before the image"]),
        ({"query_init": "<nowhere>"}, ["<nowhere>"]),
        ({"quantization": "nf3"}, ["nf4 or int8"]),
        ({"num_queries": 0}, ["num_queries"]),
        ({"num_queries": 9999}, ["num_queries", "fewer queries"]),
        ({"dtype": "float12"}, ["float32 or bfloat16"]),
        ({"revision": "main"}, ["local folder", "null"]),
    ],
)
def test_bad_arguments_stop_with_one_sentence(
    tiny_checkpoint: Path, arguments: dict[str, object], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ProjectError) as caught:
        Kosmos2Backbone(**{"checkpoint": str(tiny_checkpoint), **arguments})  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_folder_that_lacks_a_file_says_so(tiny_checkpoint: Path, tmp_path: Path, file: str) -> None:
    import shutil

    folder = tmp_path / "lacking"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / file).unlink()
    with pytest.raises(ProjectError, match=r"a file of the folder .* is missing or damaged"):
        Kosmos2Backbone(str(folder))


def test_a_folder_with_missing_weights_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("image_to_text_projection.latent_query")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProjectError, match="latent_query"):
        Kosmos2Backbone(str(folder))


def test_every_file_of_a_hub_checkpoint_is_asked_for_at_one_commit(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config names the commit it came from; tokenizer and weights must be those of that commit."""
    from transformers import AutoConfig, Kosmos2Model

    asked = []

    def recorded(loader: Any, commit: str | None) -> None:
        original = loader.from_pretrained

        def load(place: str, **options: Any) -> Any:
            if place == "some/model":  # not what the library itself loads on the way
                asked.append((loader.__name__, options.pop("revision", None)))
                place = str(tiny_checkpoint)
            loaded = original(place, **options)
            if commit is not None:
                loaded._commit_hash = commit
            return loaded

        monkeypatch.setattr(loader, "from_pretrained", load)

    recorded(AutoConfig, "c0ffee")
    recorded(AutoProcessor, None)
    recorded(Kosmos2Model, None)
    backbone = Kosmos2Backbone("some/model", revision="v1.0")
    assert backbone.revision == "c0ffee"
    assert ("AutoConfig", "v1.0") in asked
    assert {("AutoProcessor", "c0ffee"), ("Kosmos2Model", "c0ffee")} <= set(asked)


@pytest.mark.parametrize("damage", ["truncated", "pointer", "other sizes"])
def test_weights_that_cannot_be_read(tiny_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    import json
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3300000000\n")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["ffn_dim"] *= 2
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProjectError, match=r"cannot be read.*download it again"):
        Kosmos2Backbone(str(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  ", "empty"),
        ("box " * 150, "shorten the instruction"),
        ("去红球", "does not know"),
        ("go to </s> the ball", "control token '</s>'"),
        ("go to the <image> ball", "control token '<image>'"),
    ],
)
def test_instructions_that_cannot_be_read(backbone: Kosmos2Backbone, text: str, words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        backbone.tokenize([text])


def test_unknown_words_are_named_and_told_from_those_of_the_prompt(
    backbone: Kosmos2Backbone, tiny_checkpoint: Path
) -> None:
    with pytest.raises(
        ProjectError, match=r"'Fetch a 球 and go': .*not know 'Fetch', '球' \(characters 'F', '球'\)"
    ):
        backbone.tokenize(["go to the ball", "Fetch a 球 and go"])
    odd = Kosmos2Backbone(str(tiny_checkpoint), prompt="<s>{image}<grounding> 球 {instruction}")
    with pytest.raises(ProjectError, match=r"model\.backbone\.prompt: in it are words .*'go to the ball'"):
        odd.tokenize(["go to the ball"])
