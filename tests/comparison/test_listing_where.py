"""The grammar of `where=`, and how the command line is read: rules that hold for every value."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.comparison.listing.where import parse, refuse_unknown
from src.comparison.listing.words import as_hydra_reads
from src.core.errors import ProjectError

KEYS = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8}){0,3}", fullmatch=True)
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.from_regex(r"[A-Za-z][\w./-]{0,12}", fullmatch=True)
SPACE = st.sampled_from(["", " ", "  "])


@given(KEYS, NUMBERS | WORDS | st.booleans() | st.none(), SPACE)
def test_a_value_equals_itself_and_nothing_is_both_equal_and_unequal(
    key: str, value: Any, space: str
) -> None:
    text = {type(None): "null", bool: str(value).lower()}.get(type(value), str(value))
    config = {key: value}
    assert parse(f"{key}{space}={space}{text}").holds(config)
    assert parse(f"{key}=={text}").holds(config)
    assert not parse(f"{key}!={text}").holds(config)


@given(KEYS, NUMBERS, NUMBERS, SPACE)
def test_orders_are_those_of_numbers(key: str, found: float, wanted: float, space: str) -> None:
    truth = {"<": found < wanted, "<=": found <= wanted, ">": found > wanted, ">=": found >= wanted,
             "=": found == wanted, "!=": found != wanted}  # fmt: skip
    for operator, expected in truth.items():
        assert parse(f"{key}{space}{operator}{space}{wanted!r}").holds({key: found}) == expected


@given(KEYS, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), NUMBERS)
def test_a_run_without_the_key_meets_nothing(key: str, operator: str, wanted: float) -> None:
    assert not parse(f"{key}{operator}{wanted!r}").holds({})
    if operator not in ("=", "!="):
        for other in (None, "word", True, [1]):
            assert not parse(f"{key}{operator}{wanted!r}").holds({key: other})


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("a.b=1e-3", 0.001, True), ("a.b=8", 8.0, True), ("a.b=1", True, False), ("a.b=true", 1, False),
        ("a.b='8'", "8", True), ("a.b=8", "8", True), ("a.b=[image,words]", ["image", "words"], True),
        ("a.b=[]", [], True), ("a.b!=[]", ["x"], True), ("a.b=none", None, True), ("a.b=src.x.Y", "src.x.Y", True),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml_would(text: str, value: Any, holds: bool) -> None:
    assert parse(text).holds({"a.b": value}) == holds


@pytest.mark.parametrize(
    "text", ["data.window", "=8", "", "a b = 3", "lr<small", "lr>=null", "lr<true", "x=[1"]
)
def test_what_is_no_condition_is_a_sentence(text: str) -> None:
    with pytest.raises(ProjectError, match="where: "):
        parse(text)


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    known = ["data.window", "data.split.train", "optimizer.lr"]
    refuse_unknown([parse("data.window=8")], known)
    with pytest.raises(ProjectError, match=r"data.windw, did you mean data.window\?"):
        refuse_unknown([parse("data.windw=8")], known)
    with pytest.raises(ProjectError, match="it holds data.split.train"):
        refuse_unknown([parse("data.split=8")], known)


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("experiment=lora", "comparison", "lora"),
        ("show=a/text,seed=0", "show", "a/text,seed=0"),
        ("diff=[m/text,seed=0,m/vision,seed=1]", "diff", ["m/text,seed=0", "m/vision,seed=1"]),
        ("diff=[a, b]", "diff", ["a", "b"]),
        ("where=data.window=8", "where", ["data.window=8"]),
        ("where=[data.window=8, lr<1e-3]", "where", ["data.window=8", "lr<1e-3"]),
        ('where=["data.window=8","lr<1e-3"]', "where", ["data.window=8", "lr<1e-3"]),
        ("where=[model.senses=[image,words],lr>0]", "where", ["model.senses=[image,words]", "lr>0"]),
        ("sort=-metric", "sort", "-metric"),
        ("show=null", "show", None),
    ],
)  # fmt: skip
def test_a_run_and_a_condition_are_typed_without_quotes(
    typed: str, key: str, value: Any, compose: Any
) -> None:
    found = compose("runs", *as_hydra_reads([typed]))[key]
    assert (list(found) if isinstance(value, list) else found) == value


@settings(max_examples=60)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30))
@example("a\\")
@example('a\\"b')
def test_any_name_of_a_run_survives_hydra(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if name == "null" or (name[0] == name[-1] and name[0] in "'\""):
        return  # these are typed as Hydra wants them
    (override,) = OverridesParser.create().parse_overrides(as_hydra_reads([f"show={name}"]))
    if "${" not in name:
        assert override.value() == name
