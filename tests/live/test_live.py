"""Every leaf of the shipped training config is alive: changing it changes what can be seen, or is refused by name.

Four registries hold a case per leaf (another value, what is seen of it); what no case can show stands in EXCEPTIONS
with its reason. A key that is added to conf/ without either fails here.
"""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.leaves import leaves
from tests.live import data_leaves, evaluation_leaves, model_leaves, run_leaves
from tests.live.scene import Case, Refused, Scene

CASES: dict[str, Case] = {
    **data_leaves.CASES,
    **model_leaves.CASES,
    **run_leaves.CASES,
    **evaluation_leaves.CASES,
}
EXCEPTIONS: dict[str, str] = {**run_leaves.EXCEPTIONS}
_HOW_BUILT = ("_target_", "_partial_")


def _marked(names: dict[str, Case]) -> list[object]:
    slow = run_leaves.SLOW | evaluation_leaves.SLOW
    return [pytest.param(n, marks=[pytest.mark.slow] if c.see in slow else []) for n, c in names.items()]


_BASES = {f"{case.see.__name__}-{index}": case for index, case in enumerate(
    {case.base(): case for case in CASES.values()}.values()
)}  # fmt: skip


def shipped_leaves(shipped: DictConfig) -> dict[str, object]:
    return dict(leaves(OmegaConf.to_container(shipped, resolve=True)))


@pytest.mark.parametrize("leaf", _marked(CASES))
def test_changing_the_leaf_changes_what_is_seen(leaf: str, scene: Scene) -> None:
    case = CASES[leaf]
    before = scene.unchanged(case)
    after = scene.observe(case.see, {**case.given, leaf: case.other})
    for when, seen in (("before", before), ("after", after)):
        assert isinstance(seen, Refused) == (case.refused == when), f"{when}: {seen}"
        if isinstance(seen, Refused):
            parent, _, name = leaf.rpartition(".")
            assert leaf in seen.sentence or (
                parent and f"{parent}" in seen.sentence and name in seen.sentence
            )
    assert before != after


@pytest.mark.parametrize("base", _marked(_BASES))
def test_the_same_config_is_seen_the_same_twice(base: str, scene: Scene) -> None:
    """Without this, an observer that sees chance would call every leaf alive."""
    case = _BASES[base]
    before = scene.unchanged(case)
    again = scene.observe(case.see, case.given)
    assert before == again or isinstance(before, Refused) and isinstance(again, Refused)


def test_every_leaf_is_in_the_registry_or_excepted_and_no_entry_is_stale(shipped: DictConfig) -> None:
    known = {key for key in shipped_leaves(shipped) if key.rsplit(".", 1)[-1] not in _HOW_BUILT}
    assert known - CASES.keys() - EXCEPTIONS.keys() == set(), "leaves without a case"
    assert (CASES.keys() | EXCEPTIONS.keys()) - shipped_leaves(shipped).keys() == set(), (
        "cases without a leaf"
    )
    assert CASES.keys() & EXCEPTIONS.keys() == set()
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())


def test_every_target_is_read(shipped: DictConfig) -> None:
    """A target that is not there is refused by the key of its node, wherever the node stands."""
    targets = [key for key in shipped_leaves(shipped) if key.endswith("_target_")]
    assert len(targets) > 25
    for key in targets:
        node = key.rpartition(".")[0]
        cfg = shipped.copy()
        OmegaConf.update(cfg, key, "src.nowhere.Nothing")
        with pytest.raises(ProjectError, match=rf"{node}.*src\.nowhere"):
            check(OmegaConf.select(cfg, node))


def test_every_partial_is_read(shipped: DictConfig) -> None:
    """Without `_partial_` the node is built at once and lacks what only its user can give."""
    partials = [key for key in shipped_leaves(shipped) if key.endswith("_partial_")]
    assert len(partials) >= 4
    for key in partials:
        node = key.rpartition(".")[0]
        cfg = shipped.copy()
        OmegaConf.update(cfg, key, False)
        with pytest.raises(ProjectError, match=f"{node}.*missing"):
            build(OmegaConf.select(cfg, node))
