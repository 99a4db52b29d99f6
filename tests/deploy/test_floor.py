"""The floor: every weight that a step reads once, over a bandwidth whose origin is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.deploy import floor
from src.deploy.floor import bandwidth, bytes_per_step, floor_seconds
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.lora import NonePlacement
from tests.deploy.standins import toy_policy


def test_each_stored_weight_counts_once_and_tables_do_not() -> None:
    policy = toy_policy(window=3)
    everything = sum(p.numel() for p in policy.parameters())
    assert bytes_per_step(policy) == 4 * (everything - 64 * 12)
    before = bytes_per_step(policy)
    matrix = policy.backbone.network["mix"]  # type: ignore[index]
    matrix.to(torch.bfloat16)
    assert before - bytes_per_step(policy) == 2 * sum(p.numel() for p in matrix.parameters())
    assert bytes_per_step(toy_policy(window=16)) == before, "a longer window reads the same weights"


def test_kosmos_2_without_its_words(small_kosmos: Path) -> None:
    backbone = Kosmos2Backbone(str(small_kosmos))
    NonePlacement().apply(backbone)
    policy = toy_policy()
    own = bytes_per_step(policy) - _bytes(policy.backbone) + 4 * 64 * 12
    policy.backbone = backbone
    network = backbone.network
    tables = (network.text_model.model.embed_tokens, network.vision_model.model.embeddings.position_embedding)  # type: ignore[union-attr]
    assert bytes_per_step(policy) == own + _bytes(backbone) - sum(_bytes(table) for table in tables)  # type: ignore[arg-type]


def test_a_cpu_is_measured_and_says_so() -> None:
    found = bandwidth("cpu")
    assert 1e8 < found.bytes_per_s < 1e13
    assert found.source.startswith("measured, copy of 256 MB")
    assert bandwidth("cpu") == found, "once per process"
    policy = toy_policy()
    assert floor_seconds(policy) == pytest.approx(bytes_per_step(policy) / found.bytes_per_s)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H200", True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", False),
        ("NVIDIA H200 MIG 1g.18gb", False),
    ],
)
def test_only_whole_names_are_looked_up(name: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(floor, "_measured", lambda device, threads: floor.Bandwidth(1.0, "measured"))
    assert bandwidth("cuda") == ((4.8e12, "data sheet") if known else (1.0, "measured"))


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
