"""Owns the way from `model.backbone.checkpoint` to a loaded model: hub id or folder, dtype, quantisation, errors.

In: what the config says. Out: transformers' own objects, loaded by the ordinary `from_pretrained`; a checkpoint that
is missing, incomplete or of another family is one sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from src.core.annotations import first_line
from src.core.errors import ProjectError

REPOSITORY = Path(__file__).resolve().parents[3]
DTYPES = ("float32", "bfloat16")
QUANTIZATIONS = ("nf4", "int8")


def open_checkpoint(
    checkpoint: str, model_types: Collection[str], family: str, revision: str | None
) -> tuple[str, Any, str | None]:
    """The place to load from (hub id or absolute folder), the checkpoint's config, and its commit.

    Every other file is then asked for at that commit, so that a hub that moves meanwhile cannot mix two versions.

    Args:
        checkpoint: hub id, or local folder as written by `save_pretrained`; relative folders are looked up in the
            repository too, so that a run's config loads from any working directory.
        model_types: accepted `model_type`s of the config.
        family: name of the family for the error message.
        revision: commit, branch or tag on the hub; None is its newest. A local folder has none.

    Raises:
        ProjectError: no such folder, not reachable, or another kind of model.
    """
    from transformers import AutoConfig

    folder = local_folder(checkpoint)
    written_as_path = checkpoint.startswith((".", "/", "~", "assets/")) or checkpoint.count("/") > 1
    looks_local = folder.exists() or written_as_path
    place = str(folder) if looks_local else checkpoint
    if looks_local and not (folder / "config.json").is_file():
        raise ProjectError(
            f"model.backbone.checkpoint: {place} holds no config.json, expected a {family} folder as written by "
            "save_pretrained; point it to one, or use a hub id."
        )
    if looks_local and revision is not None:
        raise ProjectError(
            f"model.backbone.revision: found {revision!r} for the local folder {place}, which has no revisions; set it "
            "to null."
        )
    try:
        config = AutoConfig.from_pretrained(place, **at(revision))
    except OSError as error:
        raise unreachable(place, error) from error
    except (ValueError, KeyError) as error:
        raise ProjectError(
            f"model.backbone.checkpoint: the config.json of {place} describes no model transformers knows "
            f"({reason(error)}), expected a {family}; point it to another folder."
        ) from error
    if config.model_type not in model_types:
        raise ProjectError(
            f"model.backbone.checkpoint: {place} is a {config.model_type!r} model, expected "
            f"{' or '.join(repr(name) for name in model_types)}; choose the backbone of that family instead."
        )
    return place, config, getattr(config, "_commit_hash", None)


def local_folder(name: str) -> Path:
    """Where `name` lies if it is a folder: below the repository, or as written."""
    shipped = REPOSITORY / name
    return shipped if shipped.is_dir() else Path(name).expanduser()


def at(revision: str | None) -> dict[str, str]:
    """The argument of `from_pretrained` for a commit; nothing for a local folder."""
    return {} if revision is None else {"revision": revision}


def load_network(loader: Any, place: str, revision: str | None, dtype: str, quantization: str | None) -> Any:
    """`loader.from_pretrained(place)` with every weight present.

    Args:
        loader: a model class or auto class of transformers.
        place, revision: from `open_checkpoint`.
        dtype: of the weights, one of `DTYPES`; of the arithmetic where they are quantised.
        quantization: None, `nf4` (4 bits, QLoRA, Dettmers et al. 2023, arXiv:2305.14314) or `int8`
            (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339).

    Raises:
        ProjectError: an unknown dtype, bitsandbytes missing, weights missing or unreachable.
    """
    if dtype not in DTYPES:
        raise ProjectError(
            f"model.backbone.dtype: found {dtype!r}, expected {' or '.join(DTYPES)}; choose one of them."
        )
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "output_loading_info": True, **at(revision)}
    if quantization is not None:
        options["quantization_config"] = _quantization(quantization, dtype)
    # Its report on every key that was not there is replaced by our sentence below.
    reports = logging.getLogger("transformers.modeling_utils")
    level = reports.level
    reports.setLevel(logging.ERROR)
    try:
        network, info = loader.from_pretrained(place, **options)
    except OSError as error:
        raise unreachable(place, error) from error
    except (RuntimeError, SafetensorError) as error:
        raise ProjectError(
            f"model.backbone.checkpoint: the weights of {place} cannot be read ({reason(error)}), expected those "
            "its config.json describes, whole; download it again (git needs `git lfs pull`)."
        ) from error
    finally:
        reports.setLevel(level)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ProjectError(
            f"model.backbone.checkpoint: {place} lacks {len(missing)} weights (first: {missing[0]}), expected a "
            "complete model; download it again."
        )
    _keep_trainable(network)
    return network


def _keep_trainable(network: nn.Module) -> None:
    """Have 4-bit weights stay in the layout that gradients pass through.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks them at the first forward pass of a layer in eval mode, as
    frozen layers are, for kernels without a backward pass, and does not go back when a gradient is needed.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _quantization(name: str, dtype: str) -> Any:
    import importlib.util

    if name not in QUANTIZATIONS:
        raise ProjectError(
            f"model.backbone.quantization: found {name!r}, expected null, {' or '.join(QUANTIZATIONS)}; correct it."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ProjectError(
            f"model.backbone.quantization: {name} needs the package bitsandbytes, which is not installed; run "
            "`pip install -c constraints.txt -e '.[qlora]'`, or set model.backbone.quantization=null."
        )
    from transformers import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def unreachable(place: str, error: Exception) -> ProjectError:
    """The sentence for files of a checkpoint that are neither here nor to be had."""
    if Path(place).is_dir():
        return ProjectError(
            f"model.backbone.checkpoint: a file of the folder {place} is missing or damaged ({reason(error)}), "
            "expected all that save_pretrained writes: config, weights, tokenizer, image processor; copy it again."
        )
    return ProjectError(
        f"model.backbone.checkpoint: {place} is neither a local folder with weights nor reachable on the hub "
        f"({reason(error)}); run `hf download {place}` on a machine with network and set "
        "model.backbone.checkpoint=<folder>, or use model=kosmos_tiny, which ships with the project."
    )


def reason(error: Exception) -> str:
    """What went wrong, without the library's advice behind it and ready to stand in brackets."""
    return first_line(error).rstrip(".")
