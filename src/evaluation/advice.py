"""Owns what to try next: commands that help with what a report shows and keep the run's own choices.

In: a report and its run folder, whose .hydra/ says what was typed and what came of it. Out: commands with a reason,
the most useful first. Where the folder does not say how the run was started, no training is suggested.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

Idea = tuple[str, str]  # command, reason
_OF_THE_FOLDER = ("resume", "run_folder", "hydra", "name")  # where a run lies, not what it is


def ideas(report: Mapping[str, Any], run: Path) -> list[Idea]:
    """Every command that fits, the most useful first."""
    verdict, suites = report["verdict"], report["settings"]["suites"]
    typed, cfg = choices(run)
    out: list[Idea] = []
    if cfg is not None:
        if verdict["listens"]["answer"] == "no" and "model/lora=full" not in typed:
            reason = "it is deaf: let every layer of the language model learn"
            out.append((train(typed, "model/lora=full"), reason))
        epochs = OmegaConf.select(cfg, "trainer.max_epochs")
        if verdict["not_beaten"] and isinstance(epochs, int) and epochs > 0:
            reason = "a baseline is as good: train twice as long"
            out.append((train(typed, f"trainer.max_epochs={2 * epochs}"), reason))
    if suites:
        harder = f"{suites[0]['suite']}/look"
        if suites[0]["split"] != "look":
            command = f"python -m src.evaluate run={shlex.quote(str(run))} 'evaluation.suites=[{harder}]'"
            out.append((command, "harder: unseen floors and walls"))
    if cfg is not None:
        episodes = OmegaConf.select(cfg, "data.source.episodes")
        if isinstance(episodes, int):
            reason = "more demonstrations help most"
            elsewhere = [
                text for text in typed if _key(text) != "data.root"
            ]  # this run's data stay as they are
            out.append((train(elsewhere, f"data.source.episodes={2 * episodes}"), reason))
    again = f"python -m src.evaluate run={shlex.quote(str(run))}"
    measured = suites or report["settings"]["offline_split"]
    out.append(
        (again, "repeat this evaluation; the figures stay the same" if measured else "measure this run")
    )
    if cfg is not None:
        seed = int(OmegaConf.select(cfg, "seed") or 0)
        out.append((train(typed, f"seed={seed + 1}"), "another seed: how much is luck?"))
    return out


def choices(run: Path) -> tuple[list[str], DictConfig | None]:
    """What was typed to start the run, and its composed config; None where the folder does not say."""
    typed, composed = run / ".hydra" / "overrides.yaml", run / ".hydra" / "config.yaml"
    if not typed.is_file() or not composed.is_file():
        return [], None
    cfg = OmegaConf.load(composed)
    overrides = [str(text) for text in OmegaConf.load(typed)]
    return overrides, cfg if isinstance(cfg, DictConfig) else None


def train(typed: Sequence[str], change: str) -> str:
    """The command that trains as before, but for one change."""
    key = _key(change)
    kept = [text for text in typed if _key(text) != key and _key(text).split(".")[0] not in _OF_THE_FOLDER]
    return " ".join(["python -m src.train", *map(shlex.quote, [*kept, change])])


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~").split("@")[0]
