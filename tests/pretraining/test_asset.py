"""The model that ships with the repository: small, complete, and it knows which thing a word means."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoProcessor, Kosmos2ForConditionalGeneration

from src.pretraining.loop import Trainer, grounding_accuracy
from src.pretraining.objective import Objective
from src.pretraining.scenes import render_scenes
from src.pretraining.text import Scribe

ASSET = Path(__file__).resolve().parents[2] / "assets" / "kosmos2_tiny"


def test_the_shipped_model_points_at_the_named_object(tmp_path: Path) -> None:
    """On pictures of a seed that pre-training never used."""
    processor = AutoProcessor.from_pretrained(ASSET)
    model = Kosmos2ForConditionalGeneration.from_pretrained(ASSET)
    tags = torch.tensor(processor.tokenizer.convert_tokens_to_ids(["<s>", "<image>", "</image>"]))
    scenes = render_scenes(
        tmp_path / "s.npz", 80, seed=12345, image_size=96, patch_size=12, columns=16, workers=1
    )
    trainer = Trainer(
        objective=Objective(model, tags), scribe=Scribe(processor.tokenizer), scenes=scenes, batch_size=1,
        mean=processor.image_processor.image_mean, std=processor.image_processor.image_std, seed=0,
        log=lambda stage, step, means: None,
    )  # fmt: skip
    grounding = grounding_accuracy(trainer, scenes, count=80)
    assert grounding["n"] >= 30
    assert grounding["named"] > 0.9 > 0.6 > grounding["chance"]


def test_the_shipped_model_is_small_and_says_where_it_comes_from() -> None:
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 8e6
    record = json.loads((ASSET / "pretrain.json").read_text())
    assert record["command"] == "python -m src.pretrain" and record["grounding"]["named"] > 0.9
