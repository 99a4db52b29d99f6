"""Owns augmentation: how a training episode is drawn anew in every epoch, and how that is done to its frames.

In: strengths from conf/data/augmentation, and (seed, epoch, episode). Out: first the draws, which the assembler puts
into the batch (it mirrors words and actions itself, before tokenising), then, on the device, the changed frames.

A draw depends on seed, epoch and episode alone: a resumed run, any number of workers and any sampler give the same
pixels. All frames of an episode are changed alike, and each distinct frame of a batch once.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core.errors import ProjectError
from src.data.batch import Batch

_AT_ONCE = {"cpu": 8}
"""Frames changed together on a device; 8 stay in a CPU's cache (224 px: three times faster than 72)."""
_AT_ONCE_ELSEWHERE = 128
"""The same for any other device: 77 MB of float32 at 224 px, however large the batch."""
_LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of R, G and B, as PIL and torchvision take them."""
_GREY = 127.5


class Augmentation:
    """Strength of every change; 0 (or 1 for `crop`) switches it off. Validation and test are never changed.

    Args:
        brightness: b, the frames are multiplied by a factor from 1-b to 1+b.
        contrast: c, the distance to middle grey is multiplied by a factor from 1-c to 1+c.
        saturation: s, the distance to the grey picture is multiplied by a factor from 1-s to 1+s.
        crop: smallest side of the part that is kept, as a share of the frame's side; it is resized back to the frame.
        shift: largest shift in pixels of `data.image_size`, sideways and up or down; the edge is repeated.
        mirror: share of the episodes that are mirrored: frames, the axes in `mirror_axes`, left and right in words.
        mirror_axes: the axes of the action space that change sign in a mirror.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        crop: float = 1.0,
        shift: int = 0,
        mirror: float = 0.0,
        mirror_axes: Sequence[str] = ("linear_y", "angular_z"),
    ) -> None:
        for key, value, low, high in (
            ("brightness", brightness, 0, 1),
            ("contrast", contrast, 0, 1),
            ("saturation", saturation, 0, 1),
            ("crop", crop, 0.1, 1),
            ("shift", shift, 0, math.inf),
            ("mirror", mirror, 0, 1),
        ):
            if not low <= value <= high:
                raise ProjectError(f"data.augmentation.{key} is {value}; expected {low:g} to {high:g}.")
        self.colour = (float(brightness), float(contrast), float(saturation))
        self.crop = float(crop)
        self.shift = int(shift)
        self.mirror = float(mirror)
        self.mirror_axes = tuple(mirror_axes)

    @property
    def active(self) -> bool:
        """Whether anything is ever changed."""
        return any(self.colour) or self.crop < 1 or self.shift > 0 or self.mirror > 0

    def check_size(self, image_size: int) -> None:
        """Raise a ProjectError if `shift` could move the whole view out of frames of `image_size` pixels."""
        if self.shift >= image_size / 2:
            raise ProjectError(
                f"data.augmentation.shift is {self.shift} px, but data.image_size is {image_size} px; expected less "
                "than half of it."
            )

    def mirrored(self, seed: int, epoch: int, episode: str) -> bool:
        """Whether `episode` (its id) is mirrored in `epoch`."""
        return bool(self._numbers(seed, epoch, episode)[0] < self.mirror)

    def draw(
        self, seed: int, epoch: int, episodes: Sequence[str], image_size: int
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What happens to the episodes (ids) of a batch in `epoch`.

        Returns:
            mirrored (E,) bool; colour (E, 3) float32, factors of brightness, contrast and saturation; view (E, 3)
            float32, the side of the part that is shown as a share of the frame, and the shift of its centre to the
            right and down in pixels. None for what is switched off.
        """
        numbers = np.stack([self._numbers(seed, epoch, episode) for episode in episodes])
        mirrored = torch.from_numpy(numbers[:, 0] < self.mirror) if self.mirror > 0 else None
        colour = None
        if any(self.colour):
            factors = 1 + (2 * numbers[:, 1:4] - 1) * np.array(self.colour)
            colour = torch.from_numpy(factors.astype(np.float32))
        view = None
        if self.crop < 1 or self.shift > 0:
            side = self.crop + (1 - self.crop) * numbers[:, 4:5]
            inside = (2 * numbers[:, 5:7] - 1) * (1 - side) / 2 * image_size
            moved = np.floor(numbers[:, 7:9] * (2 * self.shift + 1)) - self.shift
            view = torch.from_numpy(np.hstack([side, inside + moved]).astype(np.float32))
        return mirrored, colour, view

    def facts(self) -> dict[str, Any]:
        """The strengths, for the run record."""
        names = ("brightness", "contrast", "saturation")
        return {
            **dict(zip(names, self.colour, strict=True)),
            "crop": self.crop,
            "shift": self.shift,
            "mirror": self.mirror,
            "mirror_axes": list(self.mirror_axes),
        }

    @staticmethod
    def _numbers(seed: int, epoch: int, episode: str) -> np.ndarray:
        """(9,) float64 in [0, 1): always all of them, so switching one change on leaves the others as they were."""
        key = f"augment:{seed}:{epoch}:{episode}".encode()
        bits = np.frombuffer(hashlib.shake_256(key).digest(8 * 9), "<u8")
        return (bits >> np.uint64(11)).astype(np.float64) / 2**53  # 53 bits, so that 1 is never reached


@torch.no_grad()
def augmented(batch: Batch) -> Batch:
    """The batch with its draws carried out on the frames, and no draw left; the batch itself if it has none.

    Called twice it does nothing the second time, so no batch is changed twice. Deterministic on one device.
    """
    if not batch.pending:
        return batch
    frames = torch.empty_like(batch.frames)
    at_once = _AT_ONCE.get(frames.device.type, _AT_ONCE_ELSEWHERE)
    for start in range(0, len(frames), at_once):
        part = slice(start, start + at_once)
        rows, pixels = batch.episode[part], batch.frames[part]
        if batch.mirrored is not None:
            pixels = torch.where(batch.mirrored[rows][:, None, None, None], pixels.flip(-1), pixels)
        if batch.view is not None or batch.colour is not None:
            values = pixels.float()
            if batch.view is not None:
                values = _viewed(values, batch.view[rows])
            if batch.colour is not None:
                values = _coloured(values, batch.colour[rows])
            pixels = values.round_().clamp_(0, 255).to(torch.uint8)
        frames[part] = pixels
    return replace(batch, frames=frames, mirrored=None, colour=None, view=None)


def _viewed(values: Tensor, view: Tensor) -> Tensor:
    """(n, 3, h, w) float, the part of each frame that (n, 3) `view` names, bilinear, the edge repeated."""
    height, width = values.shape[-2:]
    theta = torch.zeros((len(values), 2, 3), dtype=values.dtype, device=values.device)
    theta[:, 0, 0] = theta[:, 1, 1] = view[:, 0]
    theta[:, 0, 2] = 2 * view[:, 1] / width
    theta[:, 1, 2] = 2 * view[:, 2] / height
    grid = functional.affine_grid(theta, list(values.shape), align_corners=False)
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coloured(values: Tensor, colour: Tensor) -> Tensor:
    """(n, 3, h, w) float, changed by (n, 3) factors of brightness, contrast and saturation, in this order.

    Contrast turns about middle grey, not about each frame's mean as in torchvision: so it is the same function for
    all frames of an episode, and a lamp that comes into view does not darken the rest.
    """
    brightness, contrast, saturation = (colour[:, i, None, None, None] for i in range(3))
    values = (values * brightness - _GREY) * contrast + _GREY
    weights = torch.tensor(_LUMINANCE, dtype=values.dtype, device=values.device)[:, None, None]
    grey = (values * weights).sum(dim=1, keepdim=True)
    return grey + (values - grey) * saturation
