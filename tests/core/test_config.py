"""Configuration to objects: every kind of wrong key and value is a sentence, and runtime arguments pass untouched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from src.core.annotations import describe, mismatch
from src.core.config import build, check, did_you_mean
from src.core.errors import ProjectError
from src.experiment.callbacks import build_parts


class Engine:
    """A part that takes values of many kinds."""

    def __init__(
        self,
        power: int,
        name: str = "e",
        ratio: float = 1.0,
        quiet: bool = False,
        sizes: Sequence[int] = (),
        pair: tuple[float, float] = (0.0, 1.0),
        kind: Literal["petrol", "electric"] = "petrol",
        limit: int | None = None,
        extras: dict[str, float] | None = None,
        folder: Path | None = None,
    ) -> None:
        if power < 1:
            raise ProjectError(f"power is {power}, expected at least 1")
        self.power, self.sizes, self.extras = power, sizes, extras


class Car:
    """Has a part, a list of parts and a factory of parts."""

    def __init__(
        self, engine: Engine, spare: Callable[..., Engine], wheels: int = 4, others: Sequence[Engine] = ()
    ) -> None:
        self.engine, self.spare, self.wheels = engine, spare, wheels


@dataclass(frozen=True)
class Plate:
    """Plain data that must not be mistaken for configuration."""

    text: str


class Labelled:
    def __init__(self, plate: Plate, size: int) -> None:
        self.plate, self.size = plate, size


def strict_root(value: float) -> float:
    """A function of ours around a library that refuses values."""
    import math

    return math.sqrt(value)


def node(target: str, **keys: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{target}", **keys}


def config(**nodes: Any) -> DictConfig:
    return OmegaConf.create(nodes)


GOOD = dict(  # noqa: C408
    power=3, name="x", ratio=2, quiet=True, sizes=[1, 2], pair=[0.5, 1], kind="electric", limit=None,
    extras={"a": 1.5}, folder="some/where",
)  # fmt: skip


def test_a_right_config_passes_and_builds() -> None:
    cfg = config(
        car=node("Car", engine=node("Engine", **GOOD), spare=node("Engine", power=1, _partial_=True))
    )
    check(cfg)
    car = build(cfg.car)
    assert car.engine.power == 3 and car.engine.extras == {"a": 1.5}
    assert type(car.engine.sizes) is list, "containers arrive as plain Python"
    assert car.spare(power=7).power == 7


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("power", "three", "an integer"),
        ("power", 1.5, "an integer"),
        ("power", True, "an integer"),
        ("power", None, "an integer"),
        ("name", 3, "text"),
        ("ratio", "2", "a number"),
        ("quiet", 1, "true or false"),
        ("sizes", 3, "a list of an integer"),
        ("pair", [1.0], "a list of 2"),
        ("kind", "steam", "one of petrol, electric"),
        ("limit", "none", "an integer or null"),
        ("extras", [1], "a mapping"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_key_found_and_expected(
    key: str, value: Any, expected: str
) -> None:
    cfg = config(car=node("Car", engine=node("Engine", **{"power": 1, key: value})))
    with pytest.raises(ProjectError) as error:
        check(cfg)
    assert str(error.value).startswith(f"car.engine.{key}: found ") and expected in str(error.value)


def test_the_wrong_element_of_a_list_is_named() -> None:
    with pytest.raises(ProjectError, match=r"engine\.sizes\[1\]: found 'two', expected an integer"):
        check(config(engine=node("Engine", power=1, sizes=[1, "two"])))


def test_an_unknown_key_is_an_error_with_a_suggestion_also_in_partials_and_lists() -> None:
    with pytest.raises(
        ProjectError, match="car.engine.powr: .*no such argument, did you mean car.engine.power?"
    ):
        check(config(car=node("Car", engine=node("Engine", powr=1))))
    with pytest.raises(ProjectError, match="car.spare.nam: .*did you mean car.spare.name?"):
        check(config(car=node("Car", spare=node("Engine", nam="x", _partial_=True))))
    with pytest.raises(ProjectError, match=r"car.others\[0\].powr"):
        check(config(car=node("Car", others=[node("Engine", powr=1)])))


def test_a_part_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ProjectError, match="car.engine: found a node of .*Plate, expected a Engine"):
        check(config(car=node("Car", engine=node("Plate", text="x"))))
    with pytest.raises(ProjectError, match=r"car.engine: .*\(partial\), expected a Engine"):
        check(config(car=node("Car", engine=node("Engine", _partial_=True))))
    with pytest.raises(ProjectError, match="car.engine: found 3"):
        check(config(car=node("Car", engine=3)))


def test_missing_values_broken_interpolations_and_targets_name_their_key() -> None:
    with pytest.raises(ProjectError, match="engine.power: a value is required"):
        check(config(engine=node("Engine", power="???")))
    with pytest.raises(ProjectError, match="engine.power: .*nowhere"):
        check(config(engine=node("Engine", power="${nowhere}")))
    with pytest.raises(ProjectError, match="engine._target_: cannot import 'tests.core.test_config.Motor'"):
        check(config(engine=node("Motor")))


def test_keys_that_nothing_reads_are_refused() -> None:
    cfg = config(engine=node("Engine", power=1), seed=1, sed=2)
    with pytest.raises(ProjectError, match="sed: nothing reads this key, did you mean seed?"):
        check(cfg, settings=["engine", "seed"])
    with pytest.raises(ProjectError, match="parts.colour: found 'red', but nothing reads"):
        check(config(parts={"one": node("Engine", power=1), "colour": "red"}))


def test_runtime_arguments_reach_the_target_as_they_are() -> None:
    plate = Plate("AB 12")
    built = build(config(label=node("Labelled", size=2)).label, plate=plate)
    assert built.plate is plate and built.size == 2


def test_a_missing_argument_is_a_sentence() -> None:
    with pytest.raises(ProjectError, match="label: .*'plate'; give it under `label`"):
        build(config(label=node("Labelled", size=2)).label)
    with pytest.raises(ProjectError, match="car.engine: .*'power'"):
        build(config(car=node("Car", engine=node("Engine"), spare=node("Engine", _partial_=True))).car)


def test_the_sentence_of_a_constructor_gets_its_key() -> None:
    with pytest.raises(ProjectError, match="^car.engine: power is 0"):
        build(
            config(car=node("Car", engine=node("Engine", power=0), spare=node("Engine", _partial_=True))).car
        )
    with pytest.raises(ProjectError, match="^engine: power is 0"):
        build(config(engine=node("Engine", power=0)).engine)


def test_advice_of_a_library_becomes_a_sentence_also_when_a_partial_is_called_later() -> None:
    import torch

    optimizer = build(
        config(optimizer={"_target_": "torch.optim.SGD", "_partial_": True, "lr": -1.0}).optimizer
    )
    with pytest.raises(ProjectError, match="optimizer: Invalid learning rate: -1"):
        optimizer([torch.nn.Parameter(torch.zeros(1))])


def test_a_bug_of_ours_stays_a_bug() -> None:
    cfg = config(engine={"_target_": "src.core.annotations.describe"})
    with pytest.raises(ProjectError):
        build(cfg.engine)
    with pytest.raises(TypeError):
        build(config(x={"_target_": "src.core.overrides.arm_name"}).x, 3)


def test_null_builds_nothing() -> None:
    assert build(None) is None
    assert build_parts(None) == []
    assert len(build_parts(config(parts={"a": node("Engine", power=1), "b": None}).parts, record=1)) == 1


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3), max_leaves=4))  # fmt: skip
def test_whatever_fits_a_type_fits_its_union_with_null_and_nothing_else_changes(value: Any) -> None:
    held = OmegaConf.create({"v": value})["v"] if isinstance(value, list) else value
    for annotation in (int, float, bool, str, list[int], tuple[str, ...]):
        alone = mismatch(held, annotation, "k") is None
        with_null = mismatch(held, annotation | None, "k") is None
        assert with_null == (alone or value is None)


def test_words_and_suggestions() -> None:
    assert describe(int | None) == "an integer or null"
    assert describe(tuple[float, float]) == "a list of 2 (a number, a number)"
    keys = ["data.window", "data.horizon", "model.head"]
    assert did_you_mean("data.windw", keys) == ", did you mean data.window?"
    assert did_you_mean("window", keys) == ", did you mean data.window?"
    assert did_you_mean("datta.window", keys) == ", did you mean data.window?"
    assert did_you_mean("zzz", keys) == ""
