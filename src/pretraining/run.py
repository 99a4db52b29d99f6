"""One pre-training run from sizes to a finished folder.

In: the arguments of conf/pretrain.yaml. Out: model, processor and `pretrain.json` (arguments, environment, curves,
grounding accuracy on held-out pictures) in one folder.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from src.core.files import atomic_write_json
from src.core.memory import keep_freed_memory
from src.model.backbone.tiny import TinySizes, build_model, build_processor
from src.pretraining.loop import Stage, Trainer, grounding_accuracy
from src.pretraining.objective import Objective
from src.pretraining.scenes import SceneSet, render_scenes
from src.pretraining.text import Scribe, training_corpus


def pretrain(
    out: str,
    cache: str,
    scenes: int,
    held_out: int,
    batch_size: int,
    see: Stage,
    read: Stage,
    join: Stage,
    sizes: TinySizes,
    seed: int,
    workers: int,
) -> dict[str, Any]:
    """Renders (or reads) the pictures, trains, saves; returns the record.

    Args:
        out: folder of the finished model.
        cache: folder of the labelled pictures.
        scenes, held_out: pictures to train on and to measure with.
        batch_size: pictures per step.
        see, read, join: the stages, see `src.pretraining.loop`.
        sizes: of the model.
        seed: of pictures, weights and order.
        workers: rendering processes.
    """
    started = time.monotonic()
    keep_freed_memory()
    torch.manual_seed(seed)
    count = scenes + held_out
    path = (
        Path(cache)
        / f"scenes-{sizes.image_size}px-{sizes.patch_size}-{sizes.latents}-{count}-seed_{seed}.npz"
    )
    print(f"pictures  {count:,} in {path}")
    pictures = render_scenes(path, count, seed, sizes.image_size, sizes.patch_size, sizes.latents, workers)
    training, measuring = _cut(pictures, 0, scenes), _cut(pictures, scenes, count)
    rendered = (time.monotonic() - started) / 60
    processor = build_processor(training_corpus(), sizes)
    tokenizer = processor.tokenizer
    model = build_model(len(tokenizer), sizes, seed)
    objective = Objective(
        model, torch.tensor(tokenizer.convert_tokens_to_ids(["<s>", "<image>", "</image>"]))
    )
    curves: list[dict[str, Any]] = []
    trainer = Trainer(
        objective=objective,
        scribe=Scribe(tokenizer),
        scenes=training,
        batch_size=batch_size,
        mean=list(processor.image_processor.image_mean),
        std=list(processor.image_processor.image_std),
        seed=seed,
        log=lambda stage, step, means: curves.append({"stage": stage, "step": step, **means}),
    )
    minutes = trainer.run(see, read, join)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    record = {
        "command": "python -m src.pretrain",
        "arguments": {
            "scenes": scenes,
            "held_out": held_out,
            "batch_size": batch_size,
            "seed": seed,
            "see": asdict(see),
            "read": asdict(read),
            "join": asdict(join),
            "sizes": asdict(sizes),
        },  # fmt: skip
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": {"pictures": rendered, **minutes},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "mujoco", "numpy")},
        "grounding": grounding_accuracy(trainer, measuring, count=500),
        "curves": curves,
    }
    atomic_write_json(folder / "pretrain.json", record)
    return {**record, "out": str(folder)}


def show(record: dict[str, Any]) -> None:
    """The finished run in a few lines."""
    grounding = record["grounding"]
    print(
        f"Asked where a named object is, the model points at it in {grounding['named']:.0%} of {grounding['n']} "
        f"held-out pictures (chance {grounding['chance']:.0%}), within one sixteenth of the picture's width in "
        f"{grounding['within_one_cell']:.0%}."
    )
    minutes = sum(record["minutes"].values())
    print(f"{record['parameters'] / 1e6:.2f} M parameters in {record['out']}, {minutes:.0f} minutes.")


def _cut(scenes: SceneSet, start: int, stop: int) -> SceneSet:
    return SceneSet(**{f.name: getattr(scenes, f.name)[start:stop] for f in fields(SceneSet)})
