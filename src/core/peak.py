"""Owns how fast this machine could multiply matrices: the peak that an MFU (model FLOPs utilisation) is a share of.

In: a device and the arithmetic that a run uses. Out: TFLOP/s and where the figure is from: the maker's data sheet for
a known GPU, else the rate of a large product, measured here once per process.
"""

import functools
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

Arithmetic = Literal["bf16", "tf32", "fp32"]

KNOWN: dict[str, tuple[float, float, float]] = {
    "H200": (989.4, 494.7, 66.9),  # SXM; NVIDIA H200 data sheet: 1,979, 989 (with sparsity), 67
    "H200 NVL": (835.5, 417.5, 60.0),  # NVIDIA H200 data sheet: 1,671, 835 (with sparsity), 60
    "H100": (989.4, 494.7, 66.9),  # SXM; NVIDIA H100 architecture white paper, table 2
    "H100 PCIe": (756.0, 378.0, 51.2),  # NVIDIA H100 architecture white paper, table 2
    "H100 NVL": (835.5, 417.5, 60.0),  # NVIDIA H100 data sheet: 1,671, 835 (with sparsity), 60
    "A100": (312.0, 156.0, 19.5),  # all four cards; NVIDIA A100 data sheet
    "L40S": (362.05, 183.0, 91.6),  # NVIDIA L40S data sheet
    "A40": (149.7, 74.8, 37.4),  # NVIDIA A40 data sheet, "BF16 with FP32 accumulate"
    "A10G": (70.0, 35.0, 35.0),  # edition for AWS; NVIDIA A10G data sheet
    "A10": (125.0, 62.5, 31.2),  # NVIDIA A10 data sheet
    "RTX A6000": (154.8, 77.4, 38.7),  # NVIDIA GA102 white paper, appendix C
    "RTX 6000 Ada": (364.2, 182.1, 91.1),  # NVIDIA Ada white paper for professional cards, appendix
    "RTX 4090": (165.2, 82.6, 82.6),  # NVIDIA Ada white paper, appendix A; 330.3 with sums in float16
    "RTX 3090": (71.0, 35.6, 35.6),  # NVIDIA GA102 white paper, appendix A; 142 with sums in float16
}
"""Dense TFLOP/s with sums in float32, as torch asks for: bfloat16 (and float16), TensorFloat-32, float32.

Data sheets print the double of it where two of four weights may be zero ("sparsity"). GeForce cards and the A10G
halve the rate of 16-bit products where sums are float32, the others do not. Each figure was reckoned again from
processors, products a clock and clock (tests/core/test_peak_cards.py)."""

_SAME_CARD = {"nvidia", "geforce", "generation", "sxm4", "pcie", "40gb", "80gb", "hbm3"}
"""What a GPU's name may say beside the card. Any other word makes it another one: `Laptop`, `Ti`, `D`, `MIG` …"""


class Peak(NamedTuple):
    """`tflops`: 10^12 floating-point operations per second; `source`: how it is known, in words."""

    tflops: float
    source: str


def arithmetic(precision: str, weights: str = "float32") -> Arithmetic:
    """What multiplies fastest in a run: `precision` of the trainer (bf16-mixed, 32-true …), dtype of the `weights`."""
    import torch

    if "16" in precision or weights in ("bfloat16", "float16"):
        return "bf16"
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def peak(device: "torch.device", kind: Arithmetic) -> Peak:
    """Of one device. On a CPU it is that of the threads in use, and TensorFloat-32 is float32."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = from_data_sheet(name, kind)
        return known if known is not None else measured(str(device), name, kind, 0)
    threads = torch.get_num_threads()
    if kind == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        # Products of bfloat16 are emulated here, a hundred times slower: against them an MFU would say over 100 %.
        instead = measured(str(device), device.type, "fp32", threads)
        return instead._replace(source=f"{instead.source}, faster than bf16 without units for it")
    kind = "fp32" if kind == "tf32" else kind
    return measured(str(device), device.type, kind, threads)


def from_data_sheet(name: str, kind: Arithmetic) -> Peak | None:
    """Of a GPU that is, by the name that the driver gives it, a known card and not a slice or a variant of one."""
    words = name.replace("-", " ").lower().split()
    found = max((card for card in KNOWN if _is(card.lower().split(), words)), key=len, default=None)
    if found is None:
        return None
    return Peak(KNOWN[found][("bf16", "tf32", "fp32").index(kind)], f"data sheet of {found}, dense {kind}")


def _is(card: list[str], words: list[str]) -> bool:
    """Do `words` name this card, and say nothing that makes it another one?"""
    return set(card) <= set(words) and set(words) - set(card) <= _SAME_CARD


@functools.cache
def measured(device: str, name: str, kind: Arithmetic, threads: int) -> Peak:
    """The best of a few products of square matrices: about 0.2 s on a CPU core, less on a GPU."""
    import torch

    place = torch.device(device)
    side = 8192 if place.type == "cuda" else 1024
    matrix = torch.ones(side, side, device=place, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(3):
        settle(place)
        began = time.perf_counter()
        matrix @ matrix
        settle(place)
        best = min(best, time.perf_counter() - began)
    on = f"{threads} {'thread' if threads == 1 else 'threads'}" if threads else name
    return Peak(2 * side**3 / best / 1e12, f"measured {kind} product of {side} x {side} on {on}")


def settle(device: "torch.device") -> None:
    """Wait until a GPU has finished what it was given; a CPU always has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
