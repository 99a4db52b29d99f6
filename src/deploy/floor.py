"""Owns the lower bound of one control step: the weights have to come out of memory once, whatever else is done.

In: a policy and its device. Out: bytes that a step of one robot reads, bytes per second that the memory gives, and
their quotient. At batch 1 a step does two operations per weight, far too few to keep the arithmetic of a GPU busy, so
its time is that of reading the weights (Williams et al. 2009, the roofline model, doi:10.1145/1498765.1498785). On a
small model or a CPU the bound is far away: there, what counts is arithmetic and the calls themselves.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from src.core.peak import settle
from src.model.policy import Policy

SPEC_GB_PER_S = {
    "NVIDIA H200": 4800,
    "NVIDIA H200 NVL": 4800,
    "NVIDIA H100 80GB HBM3": 3350,
    "NVIDIA H100 PCIe": 2000,
    "NVIDIA H100 NVL": 3900,
    "NVIDIA A100-SXM4-40GB": 1555,
    "NVIDIA A100-PCIE-40GB": 1555,
    "NVIDIA A100-SXM4-80GB": 2039,
    "NVIDIA A100 80GB PCIe": 1935,
    "NVIDIA A40": 696,
    "NVIDIA A10": 600,
    "NVIDIA A10G": 600,
    "NVIDIA L40S": 864,
    "NVIDIA L4": 300,
    "NVIDIA RTX 6000 Ada Generation": 960,
    "NVIDIA RTX A6000": 768,
    "NVIDIA GeForce RTX 4090": 1008,
    "NVIDIA GeForce RTX 3090": 936,
}
"""Memory bandwidth in 10^9 bytes/s by `torch.cuda.get_device_name`: NVIDIA's data sheet of each card; for the RTX 3090
and 4090 appendix A of the GA102 and Ada white papers. Whole names only: a laptop's RTX 4090 or a slice of an H100 (MIG)
has another bandwidth, so what is not listed is measured."""

_COPIED_BYTES = 256 * 2**20
"""Larger than the caches of common processors (L2 of an H100: 50 MB), small enough for any of their memories."""
_COPIES = 5


class Bandwidth(NamedTuple):
    """How fast memory is read.

    Attributes:
        bytes_per_s: bytes per second.
        source: how it is known, for people: a data sheet's figure or a copy that was timed here.
    """

    bytes_per_s: float
    source: str


def bytes_per_step(policy: Policy) -> int:
    """Bytes of the weights that one step of one robot has to read, each once, as they are stored.

    Tables of `nn.Embedding` are left out, because a step reads a few rows of them (Kosmos-2: 65,037 words x 2048).
    Recurrent weights of a head count once, though an LSTM uses them at each position of the window.
    """
    tables = {id(module.weight) for module in policy.modules() if isinstance(module, nn.Embedding)}
    return sum(p.numel() * p.element_size() for p in policy.parameters() if id(p) not in tables)


def bandwidth(device: torch.device | str) -> Bandwidth:
    """Memory bandwidth of `device`: of the data sheet where its name is known, else timed here once per process."""
    device = torch.device(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if name in SPEC_GB_PER_S:
            return Bandwidth(SPEC_GB_PER_S[name] * 1e9, "data sheet")
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return _measured(device, threads)


def floor_seconds(policy: Policy, device: torch.device | str | None = None) -> float:
    """Seconds below which no step of one robot can be: bytes by bandwidth; `device`: null is the policy's own."""
    device = next(policy.parameters()).device if device is None else device
    return bytes_per_step(policy) / bandwidth(device).bytes_per_s


@lru_cache
def _measured(device: torch.device, threads: int) -> Bandwidth:
    """The fastest of a few copies; each reads and writes every byte. `threads` of a CPU only tell results apart."""
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)  # the first touch maps the pages
    seconds = []
    for _ in range(_COPIES):
        settle(device)
        started = time.perf_counter()
        target.copy_(source)
        settle(device)
        seconds.append(time.perf_counter() - started)
    how = f"{threads} threads" if threads else "on the device"
    return Bandwidth(2 * _COPIED_BYTES / min(seconds), f"measured, copy of {_COPIED_BYTES >> 20} MB, {how}")
