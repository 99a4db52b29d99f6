"""Owns exchanging left and right: in sentences (English and Korean) and in the signs of an action.

In: a sentence, or an action space and the axes that change sign. Out: the mirrored sentence, or a sign per axis. Both
are their own inverse: mirrored twice, everything is what it was. What cannot be mirrored safely is an error, because
a picture that is mirrored under a sentence that is not teaches the opposite of what was shown.
"""

import re
from collections.abc import Sequence

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace

_ENDINGS = r"most|wards?|hand(?:ed)?|side"
# Letters before the word end the match, so "upright" and "bright" stay; digits and "_" do not (1box_hori_left).
_ENGLISH = rf"(?<![A-Za-z])(?:left|right)(?=(?:{_ENDINGS})?(?![A-Za-z]))"
# 왼쪽, 왼 쪽, 왼편, 왼손 …; 오른 alone is also a verb form ("climbed"), so a noun has to follow.
_KOREAN = r"(?:왼|오른)(?=\s?(?:쪽|편|손|발|팔))"
# 좌측, 좌회전, 좌로 …, not 좌석 (seat), 우리 (we), 우편 (mail), 우회하다 (detour), 경우로 (in case), 좌우 (both sides).
_SINO_KOREAN = r"(?<![가-힣])(?:좌|우)(?=측|회전|로)"
_SIDES = re.compile(f"{_ENGLISH}|{_KOREAN}|{_SINO_KOREAN}", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "왼": "오른", "오른": "왼", "좌": "우", "우": "좌"}
_OTHER |= {form(one): form(two) for form in (str.title, str.upper) for one, two in list(_OTHER.items())[:2]}

_NOT_A_SIDE = re.compile(
    r"(?<![A-Za-z])(?:(?<!the )(?<!its )(?<!your )(?<!their )(?:left|right)[\s-]"
    r"(?:now|away|here|there|next to|up to|in front|angles?|over)"
    r"|(?:all|has|have)\s(?:left|right)|(?:anti|counter)?-?clockwise)(?![A-Za-z])|시계\s?방향",
    re.IGNORECASE,
)
"""Where left or right is no side, or where a turn is said without them; nobody can mirror these word by word.
Symmetric in both words, so that a sentence that can be mirrored can be mirrored back."""


def mirror_text(text: str) -> str:
    """The sentence with left and right exchanged, in its own capitals.

    Raises:
        ProjectError: the sentence uses one of the words in another sense ("right now"), says a turn by the clock, or
            writes a side in mixed capitals ("lEFT"), which could not be turned back.
    """
    wrong = _NOT_A_SIDE.search(text)
    if wrong is not None:
        raise ProjectError(
            f"the instruction {text!r} cannot be mirrored because of {wrong.group()!r}; say the side with left or "
            "right and use these words for nothing else, or set data.augmentation.mirror=0."
        )
    return _SIDES.sub(lambda match: _exchanged(match.group(), text), text)


def _exchanged(word: str, text: str) -> str:
    if word not in _OTHER:
        raise ProjectError(
            f"the instruction {text!r} cannot be mirrored because of the capitals of {word!r}; write left, Left or "
            "LEFT, or set data.augmentation.mirror=0."
        )
    return _OTHER[word]


def mirror_signs(space: ActionSpace, axes: Sequence[str]) -> np.ndarray:
    """(A,) float32, -1 for the axes that change sign in a mirror and 1 for the others.

    Raises:
        ProjectError: an axis is not in the action space, or its limits are not symmetric, so that a mirrored action
            could lie outside of them.
    """
    unknown = [axis for axis in axes if axis not in space.names]
    if unknown or not axes:
        raise ProjectError(
            f"data.augmentation.mirror_axes is {list(axes)}, but data.action has the axes {list(space.names)}; list "
            "those that change sign when left and right are exchanged, e.g. [angular_z] for a differential drive."
        )
    for name, low, high in zip(space.names, space.low, space.high, strict=True):
        if name in axes and low != -high:
            raise ProjectError(
                f"data.augmentation.mirror_axes has {name}, whose limits in data.action are {low:g} to {high:g}; a "
                "mirrored action would lie outside, so make the limits symmetric or set data.augmentation.mirror=0."
            )
    return np.array([-1.0 if name in axes else 1.0 for name in space.names], np.float32)
