"""What the source text says of every target of conf/ is what the imported target says, or nothing."""

import functools
import operator
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from omegaconf import OmegaConf

from src.core.annotations import locate, signature_of
from src.core.config import check, glance
from src.core.errors import ProjectError
from src.core.source import signature_from_source

CONF = Path(__file__).parents[2] / "conf"


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from _targets(one)


def _factories_plain(annotation: Any) -> Any:
    """`Callable[..., X] | None` → `Callable | None`: the text does not tell what a factory takes and makes."""
    if get_origin(annotation) is Callable:
        return Callable
    if get_origin(annotation) in (Union, UnionType):
        return functools.reduce(operator.or_, map(_factories_plain, get_args(annotation)))
    return annotation


@functools.cache
def _all_targets() -> list[str]:
    found = {path for file in CONF.rglob("*.yaml") for path in _targets(yaml.safe_load(file.read_text()))}
    return sorted(path for path in found if path.startswith("src.") or path == "lightning.pytorch.Trainer")


def test_the_text_never_says_more_than_the_imported_target() -> None:
    told = {path: signature_from_source(path) for path in _all_targets()}
    assert len(told) > 30
    for path, found in told.items():
        if found is None:
            continue
        names, more = signature_of(locate(path, path))
        assert (list(found[0]), found[1]) == (list(names), more), path
        for name, annotation in found[0].items():
            assert annotation in (Any, names[name], _factories_plain(names[name])), f"{path} {name}"
    known = [path for path, found in told.items() if found is not None]
    assert len(known) > 0.6 * len(told), sorted(set(told) - set(known))
    assert "lightning.pytorch.Trainer" in known


@pytest.mark.parametrize(
    "path", ["nowhere.at.all", "src.core.errors.ProjectError", "torch.optim.AdamWW", "x"]
)
def test_where_the_text_cannot_tell_it_says_nothing(path: str) -> None:
    assert signature_from_source(path) is None


def test_a_mistake_is_found_by_the_first_look_in_the_words_of_the_second() -> None:
    head = "src.model.heads.lstm.LSTMHead"
    for wrong in ({"hidden_sizes": 4}, {"hidden_size": "four"}, {"hidden_size": None}):
        cfg = OmegaConf.create({"head": {"_target_": head, "_partial_": True, **wrong}})
        said = []
        for look in (glance, check):
            with pytest.raises(ProjectError) as error:
                look(cfg)
            said.append(str(error.value))
        assert said[0] == said[1] and "head.hidden_size" in said[0]


def test_the_first_look_is_quick() -> None:
    cfg = OmegaConf.create({"trainer": {"_target_": "lightning.pytorch.Trainer", "max_epochs": 3}})
    began = time.process_time()
    glance(cfg)
    assert time.process_time() - began < 0.5
