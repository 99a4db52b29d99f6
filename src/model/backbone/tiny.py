"""A small Kosmos-2 of the very classes and file layout of the real one, built offline.

In: the texts it must be able to read, and sizes. Out: a folder that `from_pretrained` loads: config, weights,
tokenizer, image processor. Pre-training starts from it, and tests use it wherever they need a Kosmos-2.

The library's default initialisation leaves a tiny Kosmos-2 nearly blind: its states move 70 times less for
another image than for another word (image features are L2-normalised, matrices drawn with std 0.02). Here
every matrix is drawn with std 1/sqrt(fan in), so image and words weigh alike from the first step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOCATION_GRID = 16
"""Locations are tokens `<patch_index_0000>`… on a 16 x 16 grid (the real Kosmos-2: 32 x 32)."""


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a tiny Kosmos-2; widths in channels, `image_size` and `patch_size` in pixels."""

    image_size: int = 96
    patch_size: int = 12
    vision_width: int = 96
    vision_layers: int = 3
    text_width: int = 128
    text_layers: int = 3
    heads: int = 4
    latents: int = 16
    max_tokens: int = 512


def build_tiny(folder: Path, corpus: list[str], sizes: TinySizes = TinySizes(), seed: int = 0) -> Any:  # noqa: B008
    """Builds and saves the model and its processor into `folder`; returns the full HF model.

    Args:
        folder: written with `save_pretrained`.
        corpus: texts whose words become whole tokens; anything else is read letter by letter.
        sizes: see `TinySizes`.
        seed: of the random weights.
    """
    processor = build_processor(corpus, sizes)
    model = build_model(len(processor.tokenizer), sizes, seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def build_processor(corpus: list[str], sizes: TinySizes) -> Any:
    """Word-level Unigram tokenizer with single letters as the way out, in a `Kosmos2Processor`."""
    from transformers import Kosmos2Processor, XLMRobertaTokenizer
    from transformers.models.clip import CLIPImageProcessorPil

    words = sorted(
        {word for text in corpus for word in re.findall(r"[^\s<>]+", re.sub(r"<[^>]*>", " ", text))}
    )
    letters = sorted({letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz.,"))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    # A Unigram tokenizer takes the segmentation with the highest sum of scores: one word beats its letters.
    vocabulary = [(token, 0.0) for token in special]
    vocabulary += [("▁" + word, -1.0) for word in words]
    vocabulary += [(letter, -10.0) for letter in letters]
    vocabulary += [("▁", -10.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocabulary, model_max_length=sizes.max_tokens)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": sizes.image_size},
        crop_size={"height": sizes.image_size, "width": sizes.image_size},
    )
    return Kosmos2Processor(
        image_processor=image_processor, tokenizer=tokenizer, num_patch_index_tokens=LOCATION_GRID**2
    )


def build_model(vocabulary: int, sizes: TinySizes, seed: int) -> Any:
    """A randomly initialised `Kosmos2ForConditionalGeneration`, image and words of like weight."""
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

    config = Kosmos2Config(
        text_config={
            "vocab_size": vocabulary,
            "embed_dim": sizes.text_width,
            "layers": sizes.text_layers,
            "ffn_dim": 4 * sizes.text_width,
            "attention_heads": sizes.heads,
            "max_position_embeddings": sizes.max_tokens,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        vision_config={
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.heads,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
        },
        latent_query_num=sizes.latents,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Kosmos2ForConditionalGeneration(config)
        initialize(model)
    return model


@torch.no_grad()
def initialize(model: Any) -> None:
    """Redraws every matrix with std 1/sqrt(fan in); embeddings so that they leave the input scaling at unit size."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    vision = model.vision_model.model.embeddings
    fan_in = vision.patch_embedding.weight[0].numel()
    nn.init.normal_(vision.patch_embedding.weight, std=fan_in**-0.5)
    nn.init.normal_(vision.position_embedding.weight, std=0.5)
    # Features arrive with unit norm, so a unit-variance matrix gives keys and values of unit size.
    nn.init.normal_(model.image_to_text_projection.dense.weight, std=1.0)
    # Latents are scaled by sqrt(D) again inside the text model; the projector's last matrix takes it back.
    width = model.config.text_config.embed_dim
    nn.init.normal_(model.image_to_text_projection.x_attn.out_proj.weight, std=1.0 / width)
    embeddings = model.text_model.model.embed_tokens
    nn.init.normal_(embeddings.weight, std=width**-0.5)
    embeddings.weight[embeddings.padding_idx].zero_()
    model.tie_weights()
