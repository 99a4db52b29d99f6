"""Kosmos-2 behind the door equals HF's own forward, sees and listens, and stops on bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Kosmos2ForConditionalGeneration

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"checkpoint": "microsoft/kosmos-2-patch14-224"}, ["hf download", "kosmos2_tiny"]),
        ({"checkpoint": "./no/such/folder"}, ["config.json", "save_pretrained"]),
        ({"prompt": "An image"}, ["{instruction}"]),
        ({"num_queries": 0}, ["num_queries"]),
        ({"dtype": "float12"}, ["float32 or bfloat16"]),
    ],
)
def test_bad_arguments_stop_with_one_sentence(
    tiny_checkpoint: Path, arguments: dict[str, object], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ProjectError) as caught:
        Kosmos2Backbone(**{"checkpoint": str(tiny_checkpoint), **arguments})  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


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


@pytest.mark.parametrize(("text", "words"), [("  ", "empty"), ("box " * 80, "shorten the instruction")])
def test_instructions_that_cannot_be_read(backbone: Kosmos2Backbone, text: str, words: str) -> None:
    with pytest.raises(ProjectError, match=words):
        backbone.tokenize([text])
