"""Owns the way from Hydra's sweep grammar to Optuna's distributions, and back from a value to an override.

In: `key=value` as typed or as written under hydra.sweeper.params. Out: a `Space` of `Dimension`s, and the overrides
that are the same in every trial. The words mean what they mean in a plain Hydra grid: `range` leaves its end out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from src.core.config import did_you_mean
from src.core.errors import ProjectError

_TAGS = ("log", "int")


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    Attributes:
        name: the key or config group, e.g. `optimizer.lr`, `model/head`.
        key: the same as it was typed, e.g. `+optimizer.lr`.
        text: the space as it was typed, e.g. `tag(log, interval(1e-4, 1e-2))`.
        distribution: the same in Optuna's terms.
        words: of a choice: the override text of each value, in the order of the distribution's choices.
    """

    name: str
    key: str
    text: str
    distribution: BaseDistribution
    words: tuple[str, ...] = ()

    def override(self, value: Any) -> str:
        """`key=value` that gives a trial this value, exactly: a float is written with all its digits."""
        if isinstance(self.distribution, CategoricalDistribution):
            return f"{self.key}={self.words[int(self.distribution.to_internal_repr(value))]}"
        return f"{self.key}={value!r}"

    def values(self) -> list[Any] | None:
        """Every value there is, in order; None where there are infinitely many."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        if isinstance(found, IntDistribution):
            return list(range(found.low, found.high + 1, found.step))
        assert isinstance(found, FloatDistribution)
        if found.single():
            return [found.low]
        if found.step is None:
            return None
        low, step = Decimal(str(found.low)), Decimal(str(found.step))
        count = int((Decimal(str(found.high)) - low) / step) + 1
        return [float(low + index * step) for index in range(count)]

    def known(self, value: Any) -> Any:
        """`value`, as a user wrote it for a point to try first, in the form that the distribution holds.

        Raises:
            ProjectError: the space does not hold it.
        """
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            text = _word(value)
            for choice, word in zip(found.choices, self.words, strict=True):
                if word == text or (choice == value and type(choice) is type(value)):
                    return choice
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value) if isinstance(found, FloatDistribution) else value
            whole = isinstance(found, FloatDistribution) or int(number) == number
            if whole and found._contains(found.to_internal_repr(number)):
                return number
        raise ProjectError(
            f"hydra.sweeper.enqueue: found {self.name}={value}, expected a value of {self.text}; correct it or widen "
            "the space."
        )


@dataclass(frozen=True)
class Space:
    """What is searched, and what is the same in every trial (`fixed`: overrides as typed)."""

    dimensions: dict[str, Dimension]
    fixed: tuple[str, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: dimension.distribution for name, dimension in self.dimensions.items()}

    def size(self) -> int | None:
        """How many points there are; None: infinitely many."""
        total = 1
        for dimension in self.dimensions.values():
            values = dimension.values()
            if values is None:
                return None
            total *= len(values)
        return total

    def samples(self) -> list[dict[str, Any]]:
        """A few points that hold every key, and every value of every choice, at least once."""
        every: dict[str, Sequence[Any]] = {}
        for name, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                every[name] = distribution.choices
            else:
                assert isinstance(distribution, (IntDistribution, FloatDistribution))
                every[name] = [distribution.low]
        most = max(map(len, every.values()))
        return [
            {name: values[index % len(values)] for name, values in every.items()} for index in range(most)
        ]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of one point."""
        return [dimension.override(params[name]) for name, dimension in self.dimensions.items()]

    def point(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """A point that a user wants tried first; what it leaves out is for the sampler.

        Raises:
            ProjectError: a key that is not searched, or a value outside its space.
        """
        for name in wanted:
            if name not in self.dimensions:
                raise ProjectError(
                    f"hydra.sweeper.enqueue: found {name}, which is not searched, expected some of "
                    f"{', '.join(self.dimensions)}{did_you_mean(str(name), self.dimensions) or '.'}"
                )
        return {str(name): self.dimensions[str(name)].known(value) for name, value in wanted.items()}


def read_space(
    params: Mapping[str, Any], arguments: Sequence[str], config_loader: ConfigLoader | None = None
) -> Space:
    """The space that a file (`params`) and the command line (`arguments`) ask for; the command line wins.

    Raises:
        ProjectError: no override, an unknown word of the grammar, or nothing that is searched.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    typed = [(override, str(override.input_line)) for override in parser.parse_overrides(list(arguments))]
    on_top = {_name(override) for override, _ in typed}
    written = []
    for key, value in params.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ProjectError(
                f"hydra.sweeper.params.{key}: found {value}, expected text like choice(1,2) or interval(0.1, 1)."
            )
        line = f"{key}={value}"
        try:
            override = parser.parse_override(line)
        except HydraException as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ProjectError(
                f"hydra.sweeper.params: found {line}, which cannot be read ({reason}), expected e.g. choice(1,2), "
                "range(1,9), interval(0.1, 1), tag(log, interval(1e-4, 1e-2)); correct it."
            ) from error
        if _name(override) not in on_top:
            written.append((override, line))
    dimensions, fixed = {}, []
    for override, line in [*written, *typed]:
        if override.is_sweep_override():
            dimensions[_name(override)] = _dimension(override, line)
        else:
            fixed.append(line)
    if not dimensions:
        raise ProjectError(
            "hydra.sweeper.params: found nothing to search, expected at least one key with choice(…), range(…) or "
            "interval(…); choose a sweep, e.g. sweep=lora, or add optimizer.lr='tag(log, interval(1e-4, 1e-2))'."
        )
    return Space(dimensions, tuple(fixed))


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _dimension(override: Override, line: str) -> Dimension:
    name, text = _name(override), line.split("=", 1)[1].strip()
    try:
        distribution, words = _distribution(override, line)
    except ValueError as error:  # Optuna's own refusals, e.g. a logarithm of zero
        raise ProjectError(f"{line}: {str(error).splitlines()[0].rstrip('.')}; correct it.") from error
    return Dimension(name, override.get_key_element(), text, distribution, words)


def _distribution(override: Override, line: str) -> tuple[BaseDistribution, tuple[str, ...]]:
    value: Any = override.value()
    unknown = sorted(set(getattr(value, "tags", ())) - set(_TAGS))
    if unknown:
        raise ProjectError(f"{line}: found the tag {unknown[0]}, expected log or int; correct it.")
    if override.is_choice_sweep():
        # Not the iterator of a ChoiceSweep: it would apply shuffle(…), and a choice has no order to shuffle.
        items = value.list if isinstance(value, ChoiceSweep) else list(override.sweep_iterator())
        return _choice(items, line)
    if isinstance(value, RangeSweep):
        return _range(value, line), ()
    assert isinstance(value, IntervalSweep) and value.start is not None and value.end is not None
    log = "log" in value.tags
    whole = isinstance(value.start, int) and isinstance(value.end, int)  # int(interval(1, 8))
    if "int" in value.tags or whole:
        if int(value.start) != value.start or int(value.end) != value.end:
            raise ProjectError(
                f"{line}: found ends that are no whole numbers, expected integers; correct it."
            )
        return IntDistribution(int(value.start), int(value.end), log=log), ()
    return FloatDistribution(float(value.start), float(value.end), log=log), ()


def _choice(items: Sequence[Any], line: str) -> tuple[BaseDistribution, tuple[str, ...]]:
    values, words = [], []
    for item in items:
        word = _word(item)
        if word in words:
            raise ProjectError(f"{line}: found {word} twice, expected each value once; remove one.")
        plain = item.text if isinstance(item, QuotedString) else item
        words.append(word)
        values.append(plain if plain is None or isinstance(plain, (str, int, float, bool)) else word)
    if len({(type(value), value) for value in values}) < len(values) or len(set(values)) < len(values):
        values = list(words)  # 1 and true, 'a' and a: equal for Python, so that their texts tell them apart
    return CategoricalDistribution(values), tuple(words)


def _word(item: Any) -> str:
    """The text that gives this value; Hydra drops the quotes within choice(…), and with them that '0' is no number."""
    word = Transformer.str(item)
    if isinstance(item, str):
        try:
            if OverridesParser.create().parse_override(f"k={word}").value() == item:
                return word
        except HydraException:
            pass
        return QuotedString(item, Quote.single).with_quotes()
    return word


def _range(value: RangeSweep, line: str) -> BaseDistribution:
    if value.tags:
        raise ProjectError(
            f"{line}: found the tag {sorted(value.tags)[0]} on a range, expected it on an interval; write "
            "tag(log, interval(low, high)), with int for whole numbers."
        )
    found = sorted(value.range())
    if not found:
        raise ProjectError(f"{line}: found an empty range, expected a start before its end; correct it.")
    if all(isinstance(item, int) for item in found):
        return IntDistribution(int(found[0]), int(found[-1]), step=abs(int(value.step)))
    low, step = Decimal(str(found[0])), abs(Decimal(str(value.step)))
    return FloatDistribution(float(low), float(low + step * (len(found) - 1)), step=float(step))
