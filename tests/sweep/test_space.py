"""Hydra's grammar becomes Optuna's distributions, and every value comes back as the override that gives it."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from src.core.errors import ProjectError
from src.sweep.space import Space, read_space


def value_of(override: str) -> Any:
    """What Hydra understands."""
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(64,128)", CategoricalDistribution([64, 128])),
        ("lstm_tiny,mlp_tiny", CategoricalDistribution(["lstm_tiny", "mlp_tiny"])),
        ("all,null,true,0.5", CategoricalDistribution(["all", None, True, 0.5])),
        ("choice([1,2],{a:1})", CategoricalDistribution(["[1,2]", "{a:1}"])),
        ("choice(1,true)", CategoricalDistribution(["1", "True"])),
        ("range(1,9)", IntDistribution(1, 8)),
        ("range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("range(9,1,-4)", IntDistribution(5, 9, step=4)),
        ("range(0.0,0.3,0.1)", FloatDistribution(0.0, 0.2, step=0.1)),
        ("interval(-5,5)", FloatDistribution(-5.0, 5.0)),
        ("tag(log, interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(int, interval(1,8))", IntDistribution(1, 8)),
        ("tag(int, log, interval(1,64))", IntDistribution(1, 64, log=True)),
    ],
)
def test_every_word_of_the_grammar(text: str, expected: object) -> None:
    space = read_space({"a.b": text}, [])
    assert space.distributions == {"a.b": expected}
    assert read_space({}, [f"a.b={text}"]).distributions == space.distributions


@pytest.mark.parametrize(
    "text", ["choice(1,2,4)", "range(1,9)", "range(5,1,-2)", "range(0.0,0.55,0.1)", "a,b,c", "1,true,null"]
)
def test_a_space_holds_what_a_plain_grid_would_run(text: str) -> None:
    """The same words, the same values, whichever sweeper reads them; the grid is Hydra's own."""
    override = OverridesParser.create().parse_override(f"k={text}")
    grid = [value_of(f"k={word}") for word in override.sweep_string_iterator()]
    dimension = read_space({}, [f"k={text}"]).dimensions["k"]
    values = dimension.values()
    assert values is not None
    ours = [value_of(dimension.override(value)) for value in values]
    if "range" in text:
        assert ours == pytest.approx(sorted(grid))
    else:
        assert ours == grid


@settings(max_examples=40, deadline=None)
@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_float_arrives_with_all_its_digits(value: float) -> None:
    dimension = read_space({"lr": "interval(0,1e13)"}, []).dimensions["lr"]
    assert value_of(dimension.override(value)) == value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"])), min_size=1, unique=True))
def test_any_quoted_text_arrives_as_it_was(texts: list[str]) -> None:
    def quoted(text: str) -> str:
        text = text.replace("\\", "_").replace("'", "\\'")
        return f"'{text}'"

    line = f"k=choice({','.join(quoted(text) for text in texts)})"
    dimension = read_space({}, [line]).dimensions["k"]
    values = dimension.values()
    assert values is not None
    arrived = [value_of(dimension.override(value)) for value in values]
    assert arrived == [value_of(f"k={quoted(text)}") for text in texts]
    assert all(isinstance(value, str) for value in arrived)


def test_the_command_line_wins_over_the_file() -> None:
    params = {"a": "choice(1,2)", "b": "interval(0,1)", "c": "5"}
    space = read_space(params, ["a=range(3,6)", "b=0.5", "model/head=x,y", "+d=1", "~e"])
    assert space.distributions == {
        "a": IntDistribution(3, 5), "model/head": CategoricalDistribution(["x", "y"]),
    }  # fmt: skip
    assert space.fixed == ("c=5", "b=0.5", "+d=1", "~e")
    assert space.overrides({"a": 4, "model/head": "y"}) == ["a=4", "model/head=y"]


def test_a_prefix_stays_on_the_override_and_not_in_the_name() -> None:
    space = read_space({}, ["++new.key=choice(1,2)"])
    assert space.overrides({"new.key": 2}) == ["++new.key=2"]


def test_the_size_of_a_space() -> None:
    assert read_space({"a": "choice(1,2)", "b": "range(0,5)"}, []).size() == 10
    assert read_space({"a": "choice(1,2)", "b": "interval(0,1)"}, []).size() is None
    assert read_space({"b": "interval(1,1)"}, []).size() == 1


@pytest.mark.parametrize(
    ("params", "arguments", "words"),
    [
        ({}, ["a=1"], "nothing to search"),
        ({"a": "choice(1,"}, [], "cannot be read"),
        ({"a": [1, 2]}, [], "hydra.sweeper.params.a"),
        ({"a": "choice(1,1)"}, [], "twice"),
        ({"a": "range(3,3)"}, [], "empty range"),
        ({"a": "tag(log, range(1,3))"}, [], "tag(log, interval(low, high))"),
        ({"a": "tag(lgo, interval(1,3))"}, [], "the tag lgo"),
        ({"a": "tag(log, interval(0,3))"}, [], "a=tag(log, interval(0,3))"),
        ({"a": "tag(int, interval(0.5,3))"}, [], "whole numbers"),
    ],
)
def test_what_makes_no_space_is_refused_in_a_sentence(
    params: dict[str, Any], arguments: list[str], words: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        read_space(params, arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def space() -> Space:
    return read_space(
        {"lr": "interval(0,1)", "rank": "choice(4,8)", "w": "range(1,9)", "site": "all,null"}, []
    )


def test_a_point_to_try_first(space: Space) -> None:
    assert space.point({"lr": 1, "rank": 8, "w": 3.0, "site": None}) == {
        "lr": 1.0,
        "rank": 8,
        "w": 3,
        "site": None,
    }


@pytest.mark.parametrize(
    ("point", "words"),
    [({"rnk": 8}, "did you mean rank?"), ({"rank": 16}, "rank=16"), ({"lr": 2.0}, "lr=2.0"), ({"w": 1.5}, "w=1.5"),
     ({"w": "x"}, "w=x"), ({"site": "none"}, "site=none")],
)  # fmt: skip
def test_a_point_outside_the_space_is_refused(space: Space, point: dict[str, Any], words: str) -> None:
    with pytest.raises(ProjectError, match="enqueue") as caught:
        space.point(point)
    assert words in str(caught.value)


def test_samples_hold_every_key_and_every_choice() -> None:
    space = read_space({}, ["a=x,y,z", "b=1,2", "c=range(2,5)", "d=tag(log, interval(0.1,1))"])
    points = space.samples()
    assert len(points) == 3 and all(point.keys() == space.dimensions.keys() for point in points)
    assert {point["a"] for point in points} == {"x", "y", "z"} and {point["b"] for point in points} == {1, 2}
    assert all(space.point(point) == point for point in points)
