"""What pre-training says about a picture, in Kosmos-2's own format.

In: the items of a `SceneSet` row. Out: token ids of a prompt and of the target that follows it. Three kinds:

    caption      <grounding> An image of |<phrase> a red ball</phrase><object>LOC LOC</object>, <phrase> …
    instruction  <grounding> An image of a robot go to the red ball<object>|LOC LOC</object> …
    question     <grounding> <phrase> the red ball</phrase><object>|LOC LOC</object> <phrase> …

`|` marks where the target begins; some instructions spell out <phrase> the red ball</phrase> before <object>.
LOC is `<patch_index_0000>`… : upper left and lower right corner of the rectangle around the item on a 16 x 16
grid. A thing out of sight has an empty `<object></object>`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.model.backbone.kosmos2 import PROMPT
from src.model.backbone.tiny import LOCATION_GRID
from src.pretraining.scenes import BOX_CLASS, NOTHING, class_number
from src.sim.instructions import TRAIN_PHRASINGS, corpus, render
from src.sim.scene import COLOURS, SHAPES, TRAIN_COMBINATIONS


def training_corpus() -> list[str]:
    """Every text the tiny model must be able to read: instructions in all languages, and the words used here."""
    return [*corpus(), PROMPT.format(instruction=""), "a the box , ."]


_KOREAN = 0.15
"""Share of instructions in Korean."""


class Scribe:
    """Writes prompts and targets as token ids."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.first_location: int = tokenizer.convert_tokens_to_ids("<patch_index_0000>")
        self._ids = lru_cache(maxsize=50_000)(self._tokenize)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def write(
        self, items: NDArray[np.int8], bounds: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[list[int], list[bool]]:
        """Token ids of prompt and target, and which of them are to be predicted.

        Args:
            items: (MAX_ITEMS,) classes, -1 where empty.
            bounds: (MAX_ITEMS, 4) left, top, right, bottom, 0 to 1.
        """
        seen = {int(kind): bounds[i] for i, kind in reversed(list(enumerate(items))) if kind != NOTHING}
        draw = rng.random()
        if draw < 0.25 and seen:
            return self._caption(seen)
        if draw < 0.65:
            return self._instruction(seen, rng)
        return self._questions(seen, rng)

    def objects(self, items: NDArray[np.int8], bounds: NDArray[np.float32]) -> dict[int, float]:
        """Visible objects (no boxes): class -> left edge in grid cells; of two alike the nearer one."""
        rows = reversed(list(enumerate(items.tolist())))
        return {
            kind: float(bounds[i][0]) * LOCATION_GRID for i, kind in rows if kind not in (NOTHING, BOX_CLASS)
        }

    def question(self, kind: int) -> Tensor:
        """Token ids (L,) that end where the upper left corner of the named thing must follow."""
        return torch.tensor(self._ids(f"<grounding> <phrase> the {name(kind)}</phrase><object>"))

    def _caption(self, seen: dict[int, NDArray[np.float32]]) -> tuple[list[int], list[bool]]:
        ids, learn = self._begin("<grounding> An image of")
        for n, (kind, bounds) in enumerate(
            sorted(seen.items(), key=lambda item: float(item[1][0] + item[1][2]))
        ):
            if n:
                self._add(ids, learn, self._ids(","), True)
            self._add(ids, learn, self._ids(f"<phrase> a {name(kind)}</phrase><object>"), True)
            self._add(ids, learn, self._location(bounds), True)
        self._add(ids, learn, self._ids("."), True)
        return ids, learn

    def _instruction(
        self, seen: dict[int, NDArray[np.float32]], rng: np.random.Generator
    ) -> tuple[list[int], list[bool]]:
        objects = [kind for kind in seen if kind != BOX_CLASS]
        target = (
            objects[int(rng.integers(len(objects)))] if objects and rng.random() < 0.9 else _any_object(rng)
        )
        boxes = int(rng.integers(3))
        language = "ko" if rng.random() < _KOREAN else "en"
        phrasings = TRAIN_PHRASINGS[language][boxes]
        sides = [("left", "right")[int(rng.integers(2))] for _ in range(boxes)]
        colour, shape = name(target).split()
        text = render(phrasings[int(rng.integers(len(phrasings)))], sides, colour, shape, language)
        ids, learn = self._begin(PROMPT.format(instruction=text))
        # The bare <object> behind the instruction is where the policy's action query will stand.
        named = "" if rng.random() < 0.6 else f"<phrase> the {name(target)}</phrase>"
        self._add(ids, learn, self._ids(f"{named}<object>"), bool(named))
        self._add(ids, learn, self._location(seen.get(target)), True)
        if boxes:
            self._add(ids, learn, self._ids("<phrase> the box</phrase><object>"), True)
            self._add(ids, learn, self._location(seen.get(BOX_CLASS)), True)
        return ids, learn

    def _questions(
        self, seen: dict[int, NDArray[np.float32]], rng: np.random.Generator
    ) -> tuple[list[int], list[bool]]:
        ids, learn = self._begin("<grounding>")
        kinds = [int(kind) for kind in rng.permutation(list(seen))][:3] if seen else []
        if len(kinds) < 2 or rng.random() < 0.3:
            kinds.append(_any_object(rng))
        for kind in kinds:
            self._add(ids, learn, self._ids(f"<phrase> the {name(kind)}</phrase><object>"), False)
            self._add(ids, learn, self._location(seen.get(kind)), True)
        return ids, learn

    def _begin(self, prompt: str) -> tuple[list[int], list[bool]]:
        ids = list(self._ids(prompt))
        return ids, [False] * len(ids)

    @staticmethod
    def _add(ids: list[int], learn: list[bool], new: tuple[int, ...], predicted: bool) -> None:
        ids.extend(new)
        learn.extend([predicted] * len(new))

    def _location(self, bounds: NDArray[np.float32] | None) -> tuple[int, ...]:
        if bounds is None:
            return self._ids("</object>")
        corners = np.clip((bounds * LOCATION_GRID - (0, 0, 1e-4, 1e-4)).astype(int), 0, LOCATION_GRID - 1)
        left, top, right, bottom = corners.tolist()
        corner = self.first_location
        return (
            corner + top * LOCATION_GRID + left,
            corner + bottom * LOCATION_GRID + right,
            *self._ids("</object>"),
        )


def name(kind: int) -> str:
    """Class number -> "red ball" or "box"."""
    return "box" if kind == BOX_CLASS else f"{COLOURS[kind // len(SHAPES)]} {SHAPES[kind % len(SHAPES)]}"


def _any_object(rng: np.random.Generator) -> int:
    colour, shape = TRAIN_COMBINATIONS[int(rng.integers(len(TRAIN_COMBINATIONS)))]
    return class_number(colour, shape)
