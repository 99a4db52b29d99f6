"""The peak of a machine: data sheets by name, a measured product elsewhere."""

import time

import pytest
import torch

from src.core.peak import KNOWN, Arithmetic, arithmetic, from_data_sheet, measured, peak


@pytest.mark.parametrize(
    "name, kind, tflops",
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "tf32", 494.7),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312.0),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA RTX A6000", "fp32", 38.7),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_a_known_card_has_the_figure_of_its_data_sheet(name: str, kind: Arithmetic, tflops: float) -> None:
    found = from_data_sheet(name, kind)
    assert found is not None and found.tflops == tflops and "data sheet" in found.source


@pytest.mark.parametrize("name", ["NVIDIA GeForce GTX 1080", "NVIDIA A1000", "NVIDIA GeForce RTX 3090x"])
def test_another_card_is_not_taken_for_a_known_one(name: str) -> None:
    assert from_data_sheet(name, "bf16") is None


def test_narrower_arithmetic_is_never_slower() -> None:
    assert all(bf16 >= tf32 >= fp32 > 0 for bf16, tf32, fp32 in KNOWN.values())


@pytest.mark.parametrize(
    "precision, weights, kind",
    [("bf16-mixed", "float32", "bf16"), ("32-true", "bfloat16", "bf16"), ("32-true", "float32", "fp32")],
)
def test_the_arithmetic_follows_from_precision_and_weights(precision: str, weights: str, kind: str) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    assert arithmetic(precision, weights) == kind


def test_a_cpu_is_measured_once_and_no_product_is_faster() -> None:
    first = peak(torch.device("cpu"), "tf32")
    assert "measured fp32 product" in first.source
    hits = measured.cache_info().hits
    assert peak(torch.device("cpu"), "fp32") == first and measured.cache_info().hits == hits + 1
    matrix, best = torch.rand(1024, 1024), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    assert first.tflops == pytest.approx(
        2 * 1024**3 / best / 1e12, rel=0.7
    )  # other work on the cores is noise
