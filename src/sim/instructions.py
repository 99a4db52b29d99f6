"""Every sentence the simulator can say, in English and Korean.

Flows in: sides, colour, shape, phrasing number, language. Flows out: instruction text, paraphrases, the whole corpus.
The held-out phrasings use only words that the training phrasings use too: they test wording, not vocabulary.
No phrasing uses "left" or "right" for anything but a side, so exchanging the two words mirrors the meaning.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from src.core.errors import ProjectError
from src.sim.scene import COLOURS, SHAPES

LANGUAGES = ("en", "ko")

# language -> number of boxes -> phrasings; number 0 is the canonical one.
TRAIN_PHRASINGS: dict[str, dict[int, tuple[str, ...]]] = {
    "en": {
        0: (
            "go to the {object}",
            "drive to the {object}",
            "move to the {object}",
            "navigate to the {object}",
            "reach the {object}",
            "find the {object} and go to it",
            "head for the {object}",
            "please drive over to the {object}",
        ),
        1: (
            "navigate around the box to the {side1} and reach the {object}",
            "go around the box on the {side1} and move to the {object}",
            "pass the box on the {side1} and go to the {object}",
            "drive past the box on the {side1}, then reach the {object}",
            "keep to the {side1} of the box and head for the {object}",
            "take the {side1} side of the box, then go to the {object}",
            "reach the {object} and pass the box on the {side1}",
            "go to the {object}, but keep to the {side1} of the box",
        ),
        2: (
            "pass the first box on the {side1} and the second box on the {side2}, then reach the {object}",
            "navigate around the first box to the {side1} and the second box to the {side2} and reach the {object}",
            "go around the first box on the {side1}, the second box on the {side2}, and move to the {object}",
            "drive past the first box on the {side1}, then the second box on the {side2}, then go to the {object}",
            "keep to the {side1} of the first box and to the {side2} of the second box, and head for the {object}",
            "take the {side1} side of the first box and the {side2} side of the second box, then go to the {object}",
            "reach the {object}, pass the first box on the {side1} and the second box on the {side2}",
            "go to the {object}, but keep to the {side1} of the first box and to the {side2} of the second box",
        ),
    },
    "ko": {
        0: (
            "{object}으로 가세요",
            "{object}으로 이동하세요",
            "{object}까지 가세요",
            "{object}까지 이동하세요",
            "{object}을 찾아 가세요",
            "{object}을 향해 이동하세요",
            "{object} 앞으로 가세요",
            "{object} 앞까지 이동하세요",
        ),
        1: (
            "상자를 {side1}으로 돌아서 {object}까지 가세요",
            "상자 {side1}으로 지나서 {object}으로 이동하세요",
            "상자를 {side1}에 있는 길로 지나 {object}으로 가세요",
            "상자 {side1} 길로 돌아서 {object}까지 이동하세요",
            "상자를 {side1}으로 피해서 {object} 앞까지 이동하세요",
            "상자의 {side1}으로 이동한 다음 {object}을 찾아 가세요",
            "{object}까지 가세요, 상자는 {side1}으로 지나세요",
            "{object}으로 이동하세요, 상자는 {side1}으로 피하세요",
        ),
        2: (
            "첫 번째 상자는 {side1}으로, 두 번째 상자는 {side2}으로 지나서 {object}까지 가세요",
            "첫 번째 상자를 {side1}으로 돌아서, 두 번째 상자를 {side2}으로 돌아서 {object}으로 가세요",
            "첫 번째 상자 {side1}으로 지나 두 번째 상자 {side2}으로 지나서 {object}으로 이동하세요",
            "첫 번째 상자는 {side1} 길로, 두 번째 상자는 {side2} 길로 돌아서 {object}까지 이동하세요",
            "첫 번째 상자를 {side1}으로, 두 번째 상자를 {side2}으로 피해서 {object} 앞까지 이동하세요",
            "첫 번째 상자의 {side1}으로, 두 번째 상자의 {side2}으로 이동한 다음 {object}을 찾아 가세요",
            "{object}까지 가세요, 첫 번째 상자는 {side1}으로, 두 번째 상자는 {side2}으로 지나세요",
            "{object}으로 이동하세요, 첫 번째 상자는 {side1}으로, 두 번째 상자는 {side2}으로 피하세요",
        ),
    },
}

HELD_OUT_PHRASINGS: dict[str, dict[int, tuple[str, ...]]] = {
    "en": {
        0: (
            "please find the {object} and drive to it",
            "navigate over to the {object}",
            "please head over to the {object} and reach it",
        ),
        1: (
            "move past the box on the {side1} side and head for the {object}",
            "please take the {side1} of the box and find the {object}",
            "head for the {object}, but navigate around the box on the {side1}",
        ),
        2: (
            "move past the first box on the {side1} side, the second box on the {side2} side, and find the {object}",
            "please take the {side1} of the first box, then the {side2} of the second box and drive to the {object}",
            "head for the {object}, but go around the first box on the {side1} and the second box on the {side2}",
        ),
    },
    "ko": {
        0: ("{object}을 찾아 이동하세요", "{object}을 향해 가세요", "{object} 앞까지 가세요"),
        1: (
            "상자를 {side1}으로 지나 {object}을 찾아 이동하세요",
            "상자는 {side1}으로 피해서 {object}까지 가세요",
            "{object}을 향해 가세요, 상자는 {side1} 길로 지나세요",
        ),
        2: (
            "첫 번째 상자는 {side1}으로 피해서, 두 번째 상자는 {side2}으로 피해서 {object}을 찾아 이동하세요",
            "첫 번째 상자를 {side1}으로 지나 두 번째 상자를 {side2}으로 지나 {object}을 향해 가세요",
            "{object}을 향해 가세요, 첫 번째 상자는 {side1} 길로, 두 번째 상자는 {side2} 길로 지나세요",
        ),
    },
}

_COLOUR_WORDS = {
    "en": {colour: colour for colour in COLOURS},
    "ko": {"red": "빨간", "green": "초록", "blue": "파란", "yellow": "노란"},
}
# The Korean nouns all end in a consonant, so the particles in the phrasings fit every one of them.
_SHAPE_WORDS = {
    "en": {shape: shape for shape in SHAPES},
    "ko": {"ball": "공", "cube": "블록", "can": "캔"},
}
_SIDE_WORDS = {"en": {"left": "left", "right": "right"}, "ko": {"left": "왼쪽", "right": "오른쪽"}}
_MIRROR = {"left": "right", "right": "left", "왼쪽": "오른쪽", "오른쪽": "왼쪽"}
_MIRROR_PATTERN = re.compile("|".join(_MIRROR))


def phrasings(boxes: int, language: str = "en", held_out: bool = False) -> tuple[str, ...]:
    """The phrasings for a number of boxes (0, 1 or 2); [0] is the canonical one."""
    if language not in LANGUAGES:
        raise ProjectError(
            f"instructions: language is {language!r}, expected one of {', '.join(LANGUAGES)}; set language."
        )
    return (HELD_OUT_PHRASINGS if held_out else TRAIN_PHRASINGS)[language][boxes]


def object_name(colour: str, shape: str, language: str = "en") -> str:
    """ "red ball" or its Korean equivalent."""
    return f"{_COLOUR_WORDS[language][colour]} {_SHAPE_WORDS[language][shape]}"


def render(phrasing: str, sides: Sequence[str], colour: str, shape: str, language: str = "en") -> str:
    """A phrasing with its blanks filled."""
    words = {f"side{j + 1}": _SIDE_WORDS[language][side] for j, side in enumerate(sides)}
    return phrasing.format(object=object_name(colour, shape, language), **words)


def mirrored(text: str) -> str:
    """The text with left and right exchanged, in both languages."""
    return _MIRROR_PATTERN.sub(lambda match: _MIRROR[match.group()], text)


def corpus(language: str | None = None) -> list[str]:
    """Every instruction that can occur, sorted: all phrasings, held-out ones too, with all sides, colours and shapes.

    `language` None means all languages. Meant for building a tokenizer's vocabulary.
    """
    texts = set()
    for tongue in LANGUAGES if language is None else (language,):
        for boxes, held_out in itertools.product((0, 1, 2), (False, True)):
            sides_all = list(itertools.product(("left", "right"), repeat=boxes))
            for phrasing in phrasings(boxes, tongue, held_out):
                for sides, colour, shape in itertools.product(sides_all, COLOURS, SHAPES):
                    texts.add(render(phrasing, sides, colour, shape, tongue))
    return sorted(texts)
