"""Kosmos-2 at its real size: shapes, LoRA sites and one real forward of one frame, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Kosmos2Config, Kosmos2Model

from src.model.backbone.kosmos2 import SITES, Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_processor
from src.model.lora import LoraPlacement
from tests.model.conftest import INSTRUCTIONS, frames

MODULES = {"vision": 24 * 6, "projector": 5, "text_attention": 24 * 4, "text_mlp": 24 * 2}
"""24 layers each: four projections and two linear layers in the tower, likewise in the text model."""


def rank_one(width_in: int, width_out: int) -> int:
    """Parameters of a LoRA adapter of rank 1 on a matrix of this shape."""
    return width_in + width_out


ADAPTER = {
    "vision": 24 * (4 * rank_one(1024, 1024) + 2 * rank_one(1024, 4096)),
    "projector": rank_one(1024, 2048) + 4 * rank_one(2048, 2048),
    "text_attention": 24 * 4 * rank_one(2048, 2048),
    "text_mlp": 24 * 2 * rank_one(2048, 8192),
}


@pytest.fixture(scope="module")
def on_meta() -> Kosmos2Model:
    with torch.device("meta"):
        return Kosmos2Model(Kosmos2Config())


class Meta(Kosmos2Backbone):
    """The backbone's placement contract over weights that take no memory."""

    def __init__(self, network: Kosmos2Model) -> None:
        torch.nn.Module.__init__(self)
        self.network, self.sites = network, SITES
        self.queries = torch.nn.Parameter(torch.zeros(1, 2048))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_real_kosmos2(on_meta: Kosmos2Model) -> None:
    """FACTS of microsoft/kosmos-2-patch14-224: 1.66 B, vision 0.30 B, text 1.3 B; the rest is the projector."""
    vision, text = count(on_meta.vision_model), count(on_meta.text_model)
    projector = count(on_meta.image_to_text_projection)
    assert vision == 303_179_776
    layer = 4 * (2048 * 2048 + 2048) + 2 * 2048 * 8192 + 8192 + 2048 + 2 * (3 * 2048 + 8192)
    assert text == 24 * layer + 65037 * 2048 + 2 * 2048
    assert projector == (1024 * 2048 + 2048) + 4 * (2048 * 2048 + 2048) + 64 * 2048
    assert vision + text + projector == 1_664_485_376


@pytest.mark.parametrize("site", list(SITES))
def test_every_site_of_the_real_kosmos2(site: str) -> None:
    with torch.device("meta"):
        report = LoraPlacement({site: "all"}, 32, 16, 0.1).apply(Meta(Kosmos2Model(Kosmos2Config())))
    assert report[0].modules == MODULES[site]
    assert report[0].trainable == 32 * ADAPTER[site]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_real_forward_of_one_frame(tmp_path: Path) -> None:
    """3.3 GB of bfloat16 weights written, loaded by the ordinary path, and one frame through all 48 layers."""
    config = Kosmos2Config()
    with torch.device("meta"):
        model = Kosmos2Model(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The size of the library's own initialisation; norms at one. Uniform numbers are drawn fastest.
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.uniform_(-0.035, 0.035, generator=generator)
    model.save_pretrained(tmp_path)
    del model
    build_processor([*INSTRUCTIONS, "An image of a robot"], TinySizes(image_size=224)).save_pretrained(
        tmp_path
    )

    backbone = Kosmos2Backbone(str(tmp_path), query_init="<object>", dtype="bfloat16").eval()
    assert (backbone.hidden_size, backbone.latents_per_frame, backbone.image_size) == (2048, 64, 224)
    ids, mask = backbone.tokenize(INSTRUCTIONS[:1])
    with torch.inference_mode():
        latents = backbone.encode_images(backbone.preprocess(frames(1, size=224)))
        states = backbone.encode(latents[:, None], torch.ones(1, 1, dtype=torch.bool), ids, mask)
    assert latents.shape == (1, 64, 2048) and states.shape == (1, 1, 2048)
    assert states.dtype == torch.float32 and bool(torch.isfinite(states).all())
    assert 0.3e12 < backbone.flops(int(mask.sum())) < 0.6e12
