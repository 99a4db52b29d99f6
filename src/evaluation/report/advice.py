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

from src.evaluation.report.record import sections

Idea = tuple[str, str]  # command, reason
_SITES = ("text_attention", "text_mlp", "vision", "projector")  # of conf/model/lora/all.yaml
_FEW_EPOCHS = 3  # below: five times as many, after which the curves can be judged (5 validations)
_OF_THE_FOLDER = (
    "resume",
    "run_folder",
    "hydra",
    "name",
    "arm",
    "trial",
)  # where a run belongs, not what it is


def ideas(report: Mapping[str, Any], run: Path) -> list[Idea]:
    """Every command that fits, the most useful first: mend what failed to measure, then what the policy lacks (it
    diverged, saw too few epochs, is deaf, blind, over-fits, is beaten by a baseline, could go on), then what would
    show more."""
    suites = report["settings"]["suites"]
    again = f"python -m src.evaluate run={shlex.quote(str(run))}"
    typed, cfg = choices(run)
    out: list[Idea] = []
    if report["failed"]:
        out.append((again, f"mend and measure: {', '.join(report['failed'])} failed"))
    if cfg is not None:
        out += _training_ideas(report, typed, cfg)
    if suites:
        harder = f"{suites[0]['suite']}/look"
        if suites[0]["split"] != "look":
            out.append((f"{again} 'evaluation.suites=[{harder}]'", "harder: unseen floors and walls"))
    if cfg is not None:
        out += _more_data(typed, cfg, "more demonstrations help most")
    measured = any(section for section in sections(report).values())
    out.append(
        (again, "repeat this evaluation; the figures stay the same" if measured else "measure this run")
    )
    if cfg is not None:
        seed = int(OmegaConf.select(cfg, "seed") or 0)
        out.append((train(typed, f"seed={seed + 1}"), "another seed: how much is luck?"))
    kept: dict[str, str] = {}
    for command, reason in out:
        kept.setdefault(command, reason)
    return list(kept.items())


def _training_ideas(report: Mapping[str, Any], typed: Sequence[str], cfg: DictConfig) -> list[Idea]:
    """Other trainings that could mend what the report shows."""
    verdict, curves = report["verdict"], _curves(report)
    rate = OmegaConf.select(cfg, "optimizer.lr")
    epochs = OmegaConf.select(cfg, "trainer.max_epochs")
    countable = isinstance(epochs, int) and epochs > 0
    out: list[Idea] = []
    if curves.get("diverged") == "yes" and rate is not None:
        out.append(
            (train(typed, f"optimizer.lr={float(rate) / 3:.2g}"), "it diverged: a third of the learning rate")
        )
    chosen = OmegaConf.select(cfg, "model.senses")
    senses = ("image", "words") if chosen is None else chosen  # an arm without a sense is meant to lack it
    overfits = curves.get("overfits") == "yes"
    short = countable and epochs < _FEW_EPOCHS and not overfits and curves.get("diverged") != "yes"
    if short:  # before any word on what it lacks: nothing has been learned yet
        only = f"only {epochs} epoch{'s' * (epochs > 1)}, too few to judge what it can learn: train longer"
        out.append((train(typed, f"trainer.max_epochs={5 * epochs}"), only))
    deaf = "words" in senses and verdict["listens"]["answer"] == "no"
    blind = "image" in senses and verdict["looks"]["answer"] == "no"
    more = _learn_more(cfg) if deaf or blind else None
    lacks = " and ".join(word for word, holds in (("deaf", deaf), ("blind", blind)) if holds)
    if more is not None:
        out.append((train(typed, more[0]), f"it is {lacks}: {more[1]}"))
    if overfits:
        out += _more_data(typed, cfg, "it over-fits: twice the demonstrations")
        if _as_recorded(cfg):
            out.append((train(typed, "data/augmentation=default"), "it over-fits: vary the pictures"))
        if countable and epochs > 1:
            out.append(
                (
                    train(typed, f"trainer.max_epochs={max(1, epochs // 2)}"),
                    "it over-fits: train half as long",
                )
            )
    untaught = bool(lacks) and more is None
    reasons = [
        (bool(verdict["not_beaten"]), "a baseline is as good"),
        (untaught, f"it is {lacks} with every weight learning"),
        (curves.get("still_improving") == "yes", "the curve still falls"),
    ]
    reason = next((words for holds, words in reasons if holds), None)
    if reason and countable and not overfits and not short:
        out.append((train(typed, f"trainer.max_epochs={2 * epochs}"), f"{reason}: train twice as long"))
    return out


def _curves(report: Mapping[str, Any]) -> dict[str, str]:
    """Answers of the curve verdicts; none where the curves were not judged."""
    verdicts = ((report.get("offline") or {}).get("curves") or {}).get("verdicts") or {}
    return {key: item["answer"] for key, item in verdicts.items()}


def _as_recorded(cfg: DictConfig) -> bool:
    """Whether the training pictures are not varied."""
    found = OmegaConf.select(cfg, "data.augmentation") or {}
    changes = ("brightness", "contrast", "saturation", "shift", "mirror")
    return not any(found.get(key) for key in changes) and found.get("crop", 1.0) == 1.0


def _more_data(typed: Sequence[str], cfg: DictConfig, reason: str) -> list[Idea]:
    """Twice the demonstrations, where the simulator makes them; this run's data stay as they are."""
    episodes = OmegaConf.select(cfg, "data.source.episodes")
    if not isinstance(episodes, int):
        return []
    elsewhere = [text for text in typed if _key(text) != "data.root"]
    return [(train(elsewhere, f"data.source.episodes={2 * episodes}"), reason)]


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
    if any(_key(text) == "arm" for text in typed):
        kept.append("comparison=null")  # a single run with a change is no arm of it any more
    return " ".join(["python -m src.train", *map(shlex.quote, [*kept, change])])


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~").split("@")[0]
