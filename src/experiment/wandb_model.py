"""Owns the trained model as a W&B artifact: the LoRA adapter, or best.safetensors where there is none.

In: a run folder and its record. Out: an artifact of type `model` named `model-<run id>` with the figures and hashes
that say what it is. Files are referred to, not copied, so that it costs no disk; works offline too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def files(folder: Path) -> list[Path]:
    """What is worth keeping of a run: its adapter, else its best checkpoint; empty where there is neither."""
    adapter = sorted(path for path in (folder / "adapter").glob("*") if path.is_file())
    best = folder / "checkpoints" / "best.safetensors"
    return adapter or ([best] if best.is_file() else [])


def log_model(run: Any, folder: Path, fields: Mapping[str, Any], limit_mb: float) -> str | None:
    """Add the model to the W&B run; returns a sentence where it stays out, else None.

    Args:
        run: an open `wandb.Run`.
        folder: of the run.
        fields: of its record.
        limit_mb: largest sum of its files, in MB (10^6 bytes).
    """
    import wandb

    found = files(folder)
    if not found:
        return f"{folder}: there is no adapter and no best checkpoint to send as a model."
    size = sum(path.stat().st_size for path in found) / 1e6
    if size > limit_mb:
        return (
            f"{found[0].parent}: the model has {size:.1f} MB, more than logger.wandb.log_model_limit_mb="
            f"{limit_mb:g}, and is not sent to W&B; it stays in the run folder."
        )
    data, model = fields.get("data") or {}, fields.get("model") or {}
    about = {
        "kind": "adapter" if found[0].parent.name == "adapter" else "checkpoint",
        "arm": fields.get("arm"),
        "seed": fields.get("seed"),
        "config_hash": fields.get("config_hash"),
        "data_hash": data.get("data_hash"),
        "base_model": model.get("base_model"),
        "best": (fields.get("checkpoints") or {}).get("best"),
        "metrics": fields.get("metrics") or {},
    }
    artifact = wandb.Artifact(f"model-{run.id}", "model", metadata=about)
    for path in found:
        artifact.add_file(str(path.resolve()), name=path.name, policy="immutable")
    run.log_artifact(artifact, aliases=["best"])
    return None
