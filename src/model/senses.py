"""Owns which senses a policy has: camera and words, or one of them alone (the blind and deaf arms of a comparison).

In: the names in `model.senses`. Out: frames and instructions as the policy perceives them. It acts inside the policy's
one path, so training, evaluation and a robot agree, and the config in a checkpoint says what was taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.core.errors import ProjectError

SENSES = ("image", "words")
GREY = 127
"""Every pixel of a blind policy's frames: the middle of uint8, near the mean of most pictures."""
BLANK = "."
"""What a deaf policy hears: backbones refuse an empty text; a lone full stop is the nearest sentence without a word."""


class Senses:
    """What reaches the model of a frame and of an instruction; with both senses, exactly what was given."""

    def __init__(self, names: Sequence[str] = SENSES) -> None:
        """
        Args:
            names: any of `image` and `words`. What is not named is taken away; with neither, time alone is left.

        Raises:
            ProjectError: an unknown name, or one that is given twice.
        """
        wrong = [name for name in names if name not in SENSES]
        if wrong or len(set(names)) != len(names):
            raise ProjectError(
                f"model.senses: found {list(names)}, expected each of {', '.join(SENSES)} at most once; choose "
                "model/senses=all, blind or deaf."
            )
        self.image, self.words = "image" in names, "words" in names

    def see(self, frames: Tensor) -> Tensor:
        """Frames `(N, 3, h, w)` uint8 -> the same, or as many mid-grey ones."""
        return frames if self.image else torch.full_like(frames, GREY)

    def hear(self, instructions: list[str]) -> list[str]:
        """Instructions (E,) -> the same, or as many full stops."""
        return instructions if self.words else [BLANK] * len(instructions)
