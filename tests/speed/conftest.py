"""A workshop of the smallest real run: two policies and one data set, built once."""

from collections.abc import Iterator

import pytest

from src.speed.training import Workshop


@pytest.fixture(scope="session")
def shop(small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with Workshop(small_overrides, tmp_path_factory.mktemp("shop")) as shop:
        yield shop
