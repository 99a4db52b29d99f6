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
_SITES = ("text_attention", "text_mlp", "vision", "projector")  # of conf/model/lora/all.yaml
_OF_THE_FOLDER = ("resume", "run_folder", "hydra", "name")  # where a run lies, not what it is


def ideas(report: Mapping[str, Any], run: Path) -> list[Idea]:
    """Every command that fits, the most useful first."""
    verdict, suites = report["verdict"], report["settings"]["suites"]
    typed, cfg = choices(run)
    out: list[Idea] = []
    if cfg is not None:
        deaf = verdict["listens"]["answer"] == "no"
        more = _learn_more(cfg) if deaf else None
        if more is not None:
            out.append((train(typed, more[0]), f"it is deaf: {more[1]}"))
        epochs = OmegaConf.select(cfg, "trainer.max_epochs")
        untaught = deaf and more is None
        if (verdict["not_beaten"] or untaught) and isinstance(epochs, int) and epochs > 0:
            reason = (
                "a baseline is as good" if verdict["not_beaten"] else "it is deaf with every weight learning"
            )
            out.append((train(typed, f"trainer.max_epochs={2 * epochs}"), f"{reason}: train twice as long"))
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


def _learn_more(cfg: DictConfig) -> Idea | None:
    """The next larger choice of weights that train, which this backbone allows, with the reason; None at the end.

    Full fine-tuning is refused on quantised and on bfloat16 weights; there LoRA goes to every site, then to twice the
    rank.
    """
    placement = str(OmegaConf.select(cfg, "model.lora._target_")).rpartition(".")[2]
    if placement not in ("HeadOnlyPlacement", "NonePlacement", "LoraPlacement"):
        return None
    whole = OmegaConf.select(cfg, "model.backbone.quantization") is None
    if whole and OmegaConf.select(cfg, "model.backbone.dtype") == "float32":
        return "model/lora=full", "let every layer of the language model learn"
    if placement != "LoraPlacement":
        return "model/lora=text_all", "let adapters of the language model learn"
    sites = OmegaConf.select(cfg, "model.lora.sites")
    if any(sites.get(site) != "all" for site in _SITES):
        return "model/lora=all", "let adapters of every layer learn"
    rank = int(OmegaConf.select(cfg, "model.lora.rank"))
    return f"model.lora.rank={2 * rank}", "give its adapters twice the rank"


def choices(run: Path) -> tuple[list[str], DictConfig | None]:
    """What was typed to start the run, and its composed config; None where the folder does not say."""
    typed, composed = run / ".hydra" / "overrides.yaml", run / ".hydra" / "config.yaml"
    if not typed.is_file() or not composed.is_file():
        return [], None
    cfg = OmegaConf.load(composed)
    overrides = [str(text) for text in OmegaConf.load(typed)]
    return overrides, cfg if isinstance(cfg, DictConfig) else None


def train(typed: Sequence[str], change: str) -> str:
    """The command that trains as before, but for one change; another choice for a group (`model/lora=full`) takes
    what was typed below it (`model.lora.rank=8`) along, for it may not have that option."""
    key = _key(change)
    below = f"{key.replace('/', '.')}." if "/" in key else None
    kept = [
        text
        for text in typed
        if _key(text) != key
        and _key(text).split(".")[0] not in _OF_THE_FOLDER
        and not (below and _key(text).startswith(below))
    ]
    return " ".join(["python -m src.train", *map(shlex.quote, [*kept, change])])


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~").split("@")[0]
