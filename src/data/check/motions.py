"""Owns the question whether a sentence spells out a drive, motion by motion, instead of naming a goal.

In: a sentence in English or Korean, the classes of the drive, the class names of data.action. Out: yes or no.
A sentence does if one of these holds; a side alone ("pass the box on the left") never does:
    - it lists keys (w, w, q), or axes, steps or speeds with figures;
    - it holds the name of a class of several words (forward_left), or a single one behind "action:" or "command ="
    - it consists of motions and words between them alone, so that no goal is left ("앞으로 왼쪽 이동 후 정지")
    - it strings directions together ("left then straight", "앞으로 왼쪽으로")
    - it names four or more motions, or two or more that are exactly the drive's own, in order.
"""

import re
from collections.abc import Sequence

TERMS = 4
"""So many motions in one sentence are a route, whatever else it says; the simulator's sentences have two at most."""
_WORDS = {
    "forward": "forward", "forwards": "forward", "straight": "forward", "ahead": "forward",
    "backward": "backward", "backwards": "backward", "back": "backward",
    "left": "left", "right": "right",
    "stop": "stop", "halt": "stop",
    "turn": "turn", "turning": "turn", "rotate": "turn", "rotating": "turn",
}  # fmt: skip
_STEMS = {
    "전진": "forward", "직진": "forward", "후진": "backward",
    "왼쪽": "left", "왼편": "left", "좌측": "left", "좌회전": "left",
    "오른쪽": "right", "오른편": "right", "우측": "right", "우회전": "right",
    "정지": "stop", "멈춤": "stop", "회전": "turn",
}  # fmt: skip
_PARTICLE = re.compile(
    r"(?:으로|로|에|에서|을|를|은|는|만|하고|하며|하여|해서|하면서|하다가|한|해|하세요|하십시오|합니다|한다|후|하기)?(?:만|도)?"
)
_ALONE = {"앞으로": "forward", "뒤로": "backward"}
"""앞 and 뒤 with other particles are places: 블록 앞까지, up to the block."""
_SIDES = {"forward", "backward", "left", "right"}
_FILLER = {
    "a", "again", "and", "another", "bit", "by", "drive", "driving", "finally", "first", "go", "going", "little",
    "make", "move", "moving", "next", "now", "please", "robot", "slightly", "the", "then", "to", "toward", "towards",
    "가", "가다가", "가서", "가세요", "그", "그리고", "나서", "다시", "다음", "뒤", "로봇", "로봇은", "먼저", "방향",
    "방향으로", "에", "이동", "이동하고", "이동하기", "이동하다가", "이동하세요", "이동한", "이동해서", "조금", "지금",
    "천천히", "하고", "후", "후에",
}  # fmt: skip
_OF_A_THING = {"on", "its", "their", "of"}
"""A side behind one of these (on the left) is where a thing is passed, not where the robot moves."""
_BARE = {"왼쪽", "왼편", "좌측", "오른쪽", "오른편", "우측"}
"""A Korean side without a particle, right before another one, is a place too: 바구니 왼쪽 앞으로."""
_WORD = re.compile(r"[^\W\d_]+")
_CHAIN = re.compile(r"^(?:[\s,;>→·/&+-]|and|then|next|후|다음|그리고|이동|이동한|하고|가다가|가서|간|뒤)*$")
_KEYS = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[,>\-\[(]))[wasdqezcrt](?=[\s,>\-\])]|$)", re.IGNORECASE)
_NUMBERS = re.compile(
    r"\b(?:linear_[xy]|angular_z|v[xy]|wz)\b|\b\d+\s*(?:steps?|times)\b|\b\d+(?:\.\d+)?\s*(?:m/s|rad/s|deg|degrees)\b",
    re.IGNORECASE,
)


def motion(word: str) -> str | None:
    """What a word in small letters says about motion: forward, backward, left, right, stop, turn, or nothing."""
    if word in _ALONE:
        return _ALONE[word]
    stem = next((stem for stem in _STEMS if word.startswith(stem)), None)
    if stem is not None:
        return _STEMS[stem] if _PARTICLE.fullmatch(word[len(stem) :]) else None
    return _WORDS.get(word)


def motions(text: str) -> list[str]:
    """The motions that a sentence names, in order: ["forward", "left", "stop"]."""
    return [named for word in _WORD.findall(text.lower()) if (named := motion(word)) is not None]


def motion_by_motion(text: str, driven: Sequence[str], class_names: Sequence[str] = ()) -> bool:
    """Whether a sentence spells out the drive instead of naming a goal; the rules are those above.

    Args:
        text: one sentence.
        driven: the classes of the drive, repetitions removed, e.g. ["forward", "forward_left", "stop"].
        class_names: all classes of data.action.
    """
    if len(_KEYS.findall(text)) >= 3 or _NUMBERS.search(text) or _names_a_class(text, class_names):
        return True
    words = _WORD.findall(text.lower())
    named = motions(text)
    if named and all(motion(word) is not None or word in _FILLER for word in words):
        return True
    own = [part for name in driven for part in name.replace("rotate", "turn").split("_")]
    moves = [named for _, named in _own_motions(text.lower())]
    return _strings_directions(text.lower()) or len(named) >= TERMS or (len(moves) >= 2 and moves == own)


def _names_a_class(text: str, class_names: Sequence[str]) -> bool:
    for name in class_names:
        parts = [re.escape(part) for part in name.split("_")]
        whole = r"[\s_-]?".join(parts)
        before = (
            r"(?<!\w)" if len(parts) > 1 else r"\b(?:actions?|commands?|class(?:es)?|labels?|key)\s*[:=]\s*"
        )
        if re.search(rf"{before}{whole}(?!\w)", text, re.IGNORECASE):
            return True
    return False


def _own_motions(text: str) -> list[tuple[re.Match[str], str]]:
    """The motions of a text in small letters without the sides of things: "on the left", "on its left side"."""
    found = []
    for word in _WORD.finditer(text):
        before = _WORD.findall(text[: word.start()])[-2:]
        if len(before) == 2 and before[-1] == "the":
            before.pop()
        of_a_thing = bool(before) and before[-1] in _OF_A_THING
        named = motion(word.group())
        if named is not None and not (of_a_thing and named in _SIDES):
            found.append((word, named))
    return found


def _strings_directions(text: str) -> bool:
    """Whether two directions follow each other with nothing but joining words between them.

    Two English directions side by side ("the back left corner") are a place; Korean needs no word between.
    """
    found = [word for word, named in _own_motions(text) if named in _SIDES]
    for one, two in zip(found, found[1:], strict=False):
        between = text[one.end() : two.start()]
        joined = between.strip() != "" or not (two.group().isascii() or one.group() in _BARE)
        if joined and _CHAIN.match(between):
            return True
    return False
