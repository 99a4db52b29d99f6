"""Labels match the pictures, texts are Kosmos-2's own format, the loss is HF's, and a short run leaves a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import LOCATION_GRID, TinySizes, build_model, build_processor
from src.pretraining.loop import Stage
from src.pretraining.objective import IGNORE, Objective
from src.pretraining.run import pretrain
from src.pretraining.scenes import BOX_CLASS, NOTHING, SceneSet, render_scenes
from src.pretraining.text import Scribe, name, training_corpus
from src.sim.scene import HELD_OUT_COMBINATIONS

SIZES = TinySizes(
    image_size=48, patch_size=12, vision_width=32, vision_layers=1, text_width=32, text_layers=1, latents=8
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneSet:
    path = tmp_path_factory.mktemp("scenes") / "scenes.npz"
    return render_scenes(path, 24, seed=3, image_size=96, patch_size=12, columns=16, workers=1)


@pytest.fixture(scope="module")
def scribe() -> Scribe:
    return Scribe(build_processor(training_corpus(), SIZES).tokenizer)


def test_labels_say_what_the_picture_shows(scenes: SceneSet) -> None:
    """A column called red is redder than the rest of its picture, whatever the light."""
    checked = 0
    for frame, columns in zip(scenes.frames.astype(float), scenes.columns, strict=True):
        redness = (frame[..., 0] - frame[..., 1:].mean(axis=-1)).reshape(96, 16, 6).max(axis=(0, 2))
        red = (columns != NOTHING) & (columns // 3 == 0)
        if red.any():
            assert redness[red].min() > 60
            checked += 1
    assert checked >= 3


def test_held_out_combinations_never_appear(scenes: SceneSet) -> None:
    held_out = {" ".join(pair) for pair in HELD_OUT_COMBINATIONS}
    assert not held_out & {name(kind) for kind in scenes.items[scenes.items != NOTHING].tolist()}


def test_the_same_seed_gives_the_same_pictures(scenes: SceneSet, tmp_path: Path) -> None:
    again = render_scenes(
        tmp_path / "again.npz", 24, seed=3, image_size=96, patch_size=12, columns=16, workers=2
    )
    np.testing.assert_array_equal(again.frames, scenes.frames)
    np.testing.assert_array_equal(again.bounds, scenes.bounds)


def test_locations_are_kosmos_patch_indices_of_the_named_thing(scribe: Scribe) -> None:
    """Read back with the library's own post-processing."""
    from transformers.models.kosmos2.processing_kosmos2 import clean_text_and_extract_entities_with_bboxes

    items = np.array([2, BOX_CLASS, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING], np.int8)
    bounds = np.zeros((7, 4), np.float32)
    bounds[0], bounds[1] = (0.25, 0.5, 0.375, 0.75), (0.5, 0.25, 1.0, 1.0)
    for seed in range(40):
        ids, learn = scribe.write(items, bounds, np.random.default_rng(seed))
        assert any(learn) and not learn[0]
        text = scribe.tokenizer.decode(ids).replace("<grounding>", "").strip()
        found = clean_text_and_extract_entities_with_bboxes(text, num_patches_per_side=LOCATION_GRID)[1]
        for entity, _, boxes in found:
            # An <object> right behind an instruction has no phrase of its own; it means the instruction's target.
            thing = entity.split()[-1] if not entity.startswith("<patch_index") else "can"
            expected = {"can": bounds[0], "box": bounds[1]}[thing]
            np.testing.assert_allclose(boxes[0], expected, atol=1 / LOCATION_GRID)


def test_token_loss_equals_hf(scribe: Scribe) -> None:
    model = build_model(len(scribe.tokenizer), SIZES, seed=0)
    objective = Objective(
        model, torch.tensor(scribe.tokenizer.convert_tokens_to_ids(["<s>", "<image>", "</image>"]))
    )
    pixels = torch.randn(2, 3, 48, 48)
    ids = torch.randint(4, 200, (2, 12))
    targets = ids.clone()
    targets[:, :5] = IGNORE
    head = torch.cat([objective.tags[:2], torch.full((8,), 4), objective.tags[2:]]).expand(2, -1)
    where = torch.zeros(2, 23, dtype=torch.int64)
    where[:, 2:10] = 1
    expected = model(
        pixel_values=pixels,
        input_ids=torch.cat([head, ids], dim=1),
        attention_mask=torch.ones(2, 23),
        image_embeds_position_mask=where,
        labels=torch.cat([torch.full((2, 11), IGNORE), targets], dim=1),
    ).loss
    torch.testing.assert_close(objective.token_loss(objective.latents(pixels), ids, targets), expected)


def test_a_short_run_leaves_a_model_that_loads_and_a_record(tmp_path: Path) -> None:
    record = pretrain(
        out=str(tmp_path / "model"), cache=str(tmp_path), scenes=24, held_out=24, batch_size=4,
        see=Stage(3, 1e-3), read=Stage(3, 1e-3), join=Stage(2, 1e-4), sizes=SIZES, seed=0, workers=1,
    )  # fmt: skip
    written = json.loads((tmp_path / "model" / "pretrain.json").read_text())
    assert {row["stage"] for row in written["curves"]} == {"see", "read", "join"}
    assert 0 <= record["grounding"]["named"] <= 1 and record["grounding"]["n"] > 5
    backbone = Kosmos2Backbone(str(tmp_path / "model"), query_init="<object>")
    ids, mask = backbone.tokenize(["go to the red ball"])
    assert backbone(torch.zeros(1, 3, 48, 48, dtype=torch.uint8), ids, mask).shape == (1, 1, 32)
