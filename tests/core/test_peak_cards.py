"""The peaks of known cards, reckoned again from what their chips are; and who is no known card."""

import pytest
import torch

from src.core.peak import KNOWN, Arithmetic, arithmetic, from_data_sheet, peak

# Streaming multiprocessors; products of bf16 (sums in float32) and of float32 that each begins in a clock; boost clock
# in GHz of tensor cores and of the rest (Hopper has two). From the white papers of GA100, GA102, AD102 and GH100.
CHIPS = {
    "H200": (132, 2048, 128, 1.830, 1.980),
    "H100": (132, 2048, 128, 1.830, 1.980),
    "H100 PCIe": (114, 2048, 128, 1.620, 1.755),
    "A100": (108, 1024, 64, 1.410, 1.410),
    "A40": (84, 512, 128, 1.740, 1.740),
    "A10": (72, 512, 128, 1.695, 1.695),
    "A10G": (80, 256, 128, 1.710, 1.710),
    "RTX A6000": (84, 512, 128, 1.800, 1.800),
    "RTX 3090": (82, 256, 128, 1.695, 1.695),
    "L40S": (142, 512, 128, 2.520, 2.520),
    "RTX 6000 Ada": (142, 512, 128, 2.505, 2.505),
    "RTX 4090": (128, 256, 128, 2.520, 2.520),
}


@pytest.mark.parametrize("card", CHIPS)
def test_a_peak_is_processors_times_products_times_clock(card: str) -> None:
    processors, tensor, plain, tensor_clock, clock = CHIPS[card]
    bf16, tf32, fp32 = KNOWN[card]
    reckoned = 2e-3 * processors * tensor * tensor_clock
    assert bf16 == pytest.approx(reckoned, rel=0.015)
    assert tf32 == pytest.approx(reckoned / 2, rel=0.015), "TensorFloat-32 goes at half the rate"
    assert fp32 == pytest.approx(2e-3 * processors * plain * clock, rel=0.005)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H200", "H200"), ("NVIDIA H200 NVL", "H200 NVL"), ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA H100 NVL", "H100 NVL"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"), ("NVIDIA A100 80GB PCIe", "A100"), ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"), ("NVIDIA GeForce RTX 3090", "RTX 3090"),
    ],
)  # fmt: skip
def test_each_card_is_known_by_its_own_name(name: str, card: str) -> None:
    found = from_data_sheet(name, "bf16")
    assert found is not None and found.tflops == KNOWN[card][0] and f"of {card}," in found.source


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H200 MIG 1g.18gb", "NVIDIA GH200 480GB", "NVIDIA A100X",
        "NVIDIA A100-SXM-64GB", "NVIDIA GRID A100-40C", "NVIDIA L40", "NVIDIA L4", "Tesla T4", "Quadro RTX 6000",
    ],
)  # fmt: skip
def test_a_slice_or_a_variant_is_measured_instead(name: str) -> None:
    assert from_data_sheet(name, "bf16") is None


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_cpu_without_units_for_bfloat16_is_held_against_what_it_could_do(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated products are so slow that a share of them would be more than all."""
    kind: Arithmetic = arithmetic("bf16-mixed", weights)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    cpu = torch.device("cpu")
    found, plain = peak(cpu, kind), peak(cpu, "fp32")
    assert found.tflops == plain.tflops and "bf16" in found.source and plain.source in found.source
