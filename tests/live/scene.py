"""Owns how a key of the config is shown to be alive: one small scene, a changed value, and what can be seen of it.

In: the config that `python -m src.train` composes, made small; cases from the registries beside this file. Out: an
observation per config, or the sentence with which it was refused. Built objects are thrown away, observations of
unchanged configs are kept, so that many cases share one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from src.core.errors import ProjectError

SMALL: dict[str, Any] = {
    "model.lora.rank": 2, "model.head.hidden_size": 8, "model.head.mlp": [8],
    "data.source.episodes": 10, "data.source.workers": 1, "data.source.progress": False,
    "data.image_size": 32, "data.window": 3, "data.horizon": 2, "data.split.train": 0.8, "data.split.val": 0.2,
    "data.sampler.episodes_per_batch": 4, "trainer.max_epochs": 2, "trainer.accelerator": "cpu",
    "trainer.log_every_n_steps": 1,
    "evaluation.suites": ["reach/layout"], "evaluation.episodes": 2, "evaluation.workers": 1,
    "evaluation.parts.latency.steps": 3, "evaluation.parts.latency.warmup": 2,
    "evaluation.parts.closed_loop.video_size": 96, "evaluation.parts.probes.word_episodes": 2,
    "evaluation.parts.probes.occlusion_frames": 2, "evaluation.parts.probes.occlusion_grid": 3,
}  # fmt: skip
"""What makes the shipped config take seconds; every other leaf is as shipped."""


@dataclass(frozen=True)
class Refused:
    """The sentence that an observation ended with."""

    sentence: str


@dataclass
class View:
    """What an observer gets.

    Attributes:
        cfg: the config to observe.
        folder: fresh and empty.
        data: the finished small data set of the scene; shared, so nobody writes to it.
    """

    cfg: DictConfig
    folder: Path
    data: Path

    def own_data(self) -> Path:
        """A copy of the shared data set that may be changed; `data.root` then points to it."""
        root = self.folder / "data"
        shutil.copytree(self.data, root, ignore=shutil.ignore_patterns("split*", ".frames", ".features"))
        self.cfg.data.root = str(root)
        return root

    def datamodule(self) -> Any:
        """The data module of the config, set up, with a tokeniser of one token per character."""
        from tests.data.modules import tokenize

        module = build(self.cfg.data)
        module.prepare_data()
        module.setup("fit")
        module.bind(tokenize)
        return module


Observer = Callable[[View], Any]


@dataclass(frozen=True)
class Case:
    """How one leaf shows that it lives.

    Attributes:
        other: a value that is not the scene's.
        see: what changes with it; `see(unchanged) != see(changed)`.
        given: keys that both configs have changed as well. In strings {folder} is the observation's own folder.
        refused: "after": the other value is refused by a sentence that names the key; "before": the scene's is.
    """

    other: Any
    see: Observer
    given: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None

    def base(self) -> tuple[Observer, str]:
        """Which observation of an unchanged config it compares with."""
        return self.see, json.dumps(dict(self.given), sort_keys=True)


class Scene:
    """The small config and what was observed of it."""

    def __init__(self, base: DictConfig, data: Path, fresh: Callable[[], Path]) -> None:
        """
        Args:
            base: `SMALL` applied to the shipped config, interpolations unresolved.
            data: the finished data set.
            fresh: gives an empty folder.
        """
        self._base, self._data, self._fresh = base, data, fresh
        self._kept: dict[tuple[Observer, str], Any] = {}

    def unchanged(self, case: Case) -> Any:
        """The observation of the config without the case's change, made once."""
        if case.base() not in self._kept:
            self._kept[case.base()] = self.observe(case.see, case.given)
        return self._kept[case.base()]

    def observe(self, see: Observer, changes: Mapping[str, Any]) -> Any:
        """What `see` sees with these changes, or how they are refused."""
        folder = self._fresh()
        cfg = copy.deepcopy(self._base)
        cfg.run_folder = str(folder / "run")
        for key, value in changes.items():
            OmegaConf.update(cfg, key, _placed(value, folder), merge=False, force_add=True)
        try:
            return see(View(cfg, folder, self._data))
        except ProjectError as error:
            return Refused(str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _placed(value: Any, folder: Path) -> Any:
    return value.replace("{folder}", str(folder)) if isinstance(value, str) else value


def digest(*values: Any) -> str:
    """A fingerprint of tensors, arrays and plain values, bit for bit."""
    total = hashlib.sha256()
    for value in values:
        for part in _parts(value):
            total.update(part)
    return total.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous()
        yield f"{flat.dtype}{tuple(flat.shape)}".encode()
        yield flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield str(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()


def files_below(folder: Path) -> list[str]:
    """Relative paths of the files below a folder, without locks."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.suffix != ".lock")
