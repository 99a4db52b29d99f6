"""Owns how a letter is written where its font is missing: romanised, never dropped and never an empty box.

In: a letter. Out: ASCII. A Hangul syllable becomes the romanisation in its Unicode name (한 → han), any other letter
its code point (文 → U+6587).
"""

from __future__ import annotations

import unicodedata

_SYLLABLE = "HANGUL SYLLABLE "


def romanised(letters: str) -> str:
    """ASCII for these letters; a hyphen between them, so that different names stay different."""
    return "-".join(_one(letter) for letter in letters)


def _one(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return name.removeprefix(_SYLLABLE).lower() if name.startswith(_SYLLABLE) else f"U+{ord(letter):04X}"
