"""Owns how `python -m src.runs` may be typed: run folders and conditions without a second layer of quotes.

In: the command line. Out: the same line as Hydra's grammar wants it, where `=`, `<` and `,` in a value need quotes and
`experiment=` would choose a file of conf/experiment/ instead of naming one.
"""

import re
from collections.abc import Iterator, Sequence

_LISTS = ("where", "diff")


def as_hydra_reads(argv: Sequence[str]) -> list[str]:
    """`show=a/text,seed=0` → `show="a/text,seed=0"`; `experiment=x` → `comparison="x"`; lists element by element."""
    return [_word(text) for text in argv]


def _word(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or key not in (*_LISTS, "show", "experiment") or value in ("", "null"):
        return text
    if key in _LISTS:
        parts = list(_elements(value[1:-1])) if value[0] == "[" and value[-1] == "]" else [value]
        parts = _rejoined(parts) if key == "diff" else parts
        return f"{key}=[{','.join(map(_quoted, parts))}]"
    return f"{'comparison' if key == 'experiment' else key}={_quoted(value)}"


def _elements(text: str) -> Iterator[str]:
    """The elements of a list: commas inside brackets or quotes do not divide."""
    depth, quote, element = 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        depth += 0 if quote else (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0 and not quote:
            yield element.strip()
            element = ""
        else:
            element += sign
    if element.strip():
        yield element.strip()


def _rejoined(parts: Sequence[str]) -> list[str]:
    """Names of run folders hold commas: `text`, `seed=0` is one of them."""
    joined: list[str] = []
    for part in parts:
        if joined and re.fullmatch(r"[\w.+-]+=[^/]*", part):
            joined[-1] += f",{part}"
        else:
            joined.append(part)
    return joined


def _quoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    # Hydra takes a backslash as it is, except before a quote, the closing one included.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'"{escaped}"'
