"""Owns `merge`: a run's adapter added to its base model, as a folder that transformers loads without peft.

In: a run folder. Out: a Hugging Face folder (config, weights, tokenizer, processor) whose states equal the
adapter's; that is measured before the folder gets its name. The action queries, the head and the normaliser of the
policy stay in the run, for no class of transformers has a place for them.
"""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from omegaconf import DictConfig
from torch import Tensor

from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import atomic_folder, atomic_write_json
from src.experiment.adapter import export_adapter, full_class, has_adapter
from src.experiment.checkpoint import base_model, checkpoint_path, disk_errors, load_policy

if TYPE_CHECKING:
    from src.model.policy import Policy

TOLERANCE = 1e-4
"""Largest |difference| of states, in units of their largest value: float32 rounds by 1e-6, a missing layer is 1e-1."""
SHARE = {"float32": 0.0, "bfloat16": 0.25}
"""dtype of the merged weights -> the share of what training changed in the states that rounding may take, beyond
`TOLERANCE`. bfloat16 keeps 8 bits of the sum of weight and adapter (2^-9 of its size are lost), so what training did
must stand out from that; with nothing merged at all the share is 1."""
PROBE = "go to the red ball"
PROCESSING = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja",
    "chat_template*", "*processor_config.json",
)  # fmt: skip
"""Files of a checkpoint that say how text and images are prepared; the weights do not touch them."""


def merge(run: str, to: str, checkpoint: Literal["best", "last"] = "best") -> Path:
    """Write the merged model of `run` to the folder `to`, which must not hold anything yet, and say how to use it.

    Args:
        run: run folder.
        to: new folder.
        checkpoint: whose weights.

    Raises:
        ProjectError: there is nothing to merge, `to` holds something, or the merged model answers differently.
    """
    folder = Path(to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(f"to={to}: holds something already, expected a new folder; choose another one.")
    policy, cfg = load_policy(Path(run), checkpoint)
    _refuse_nothing(policy, run)
    network: Any = policy.backbone.network
    source = str(network.config._name_or_path)  # where transformers found it
    model = _merged(policy, source)
    dtype = str(model.dtype).removeprefix("torch.")
    with atomic_folder(folder) as temporary:
        with disk_errors():
            model.save_pretrained(temporary)
        for weights in temporary.glob("*.safetensors"):
            shutil.copymode(temporary / "config.json", weights)  # safetensors writes for the owner alone
        _copy_processing(source, policy, temporary)
        atomic_write_json(
            temporary / "merged_from.json",
            {"checkpoint": str(checkpoint_path(Path(run), checkpoint)), "base_model": base_model(policy)},
        )
        size = sum(file.stat().st_size for file in temporary.iterdir())
        kind, parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
        del model
        difference, effect = _difference(policy, cfg, temporary)
        if not policy.backbone.quantized:
            _refuse_other_answers(to, dtype, difference, effect)
    print(f"merged  {folder}: {kind}, {parameters / 1e6:,.2f} M parameters, {dtype}, {size / 1e6:,.2f} MB")
    print(
        f"        its states differ from those of the run by {difference:.1e} of their size; training changed them by "
        f"{effect:.1e} (measured)"
    )
    if policy.backbone.quantized:
        print(
            f"WARNING the adapter was trained on quantised weights and added to the whole ones in {dtype}: the "
            f"difference is {difference / max(effect, 1e-12):.0%} of what training changed, so measure it anew"
        )
    print(f"use     python -m src.train model.backbone.checkpoint={folder}")
    print(f"        or transformers: {kind}.from_pretrained({str(folder)!r})")
    print(f"policy  action queries, head and normaliser stay in the run: python -m src.evaluate run={run}")
    return folder


def _refuse_other_answers(to: str, dtype: str, difference: float, effect: float) -> None:
    """`difference` is at most `TOLERANCE`, or the `SHARE` of `effect` that the dtype is allowed; see `_difference`."""
    allowed = max(TOLERANCE, SHARE[dtype] * effect)
    if difference <= allowed:
        return
    found = (
        f"to={to}: the merged model's states differ from the adapter's by {difference:.1e} of their size, expected at "
        f"most {allowed:.1e}"
    )
    if SHARE[dtype]:
        raise ProjectError(
            f"{found}, the {SHARE[dtype]:.0%} of what training changed ({effect:.1e}) that rounding to {dtype} may "
            "take; nothing was written, so use the run's adapter/ with peft, which keeps it apart."
        )
    raise ProjectError(f"{found}; nothing was written, and this is a bug of the program.")


def _refuse_nothing(policy: "Policy", run: str) -> None:
    backbone = policy.backbone
    if backbone.checkpoint is None:
        raise ProjectError(
            f"run={run}: its {type(backbone).__name__} has no pretrained model to merge into, expected a run on a "
            "vision-language model; its weights are all in its checkpoint."
        )
    if not has_adapter(policy) and not any(p.requires_grad for p in backbone.network.parameters()):
        raise ProjectError(
            f"run={run}: none of the weights of {backbone.checkpoint} trained, expected LoRA or full fine-tuning; "
            "there is nothing to merge, use that model as it is."
        )


def _merged(policy: "Policy", source: str) -> Any:
    """The family's full model with what the policy has learned in its weights, on the CPU, in the base's dtype."""
    import transformers

    backbone = policy.backbone
    network: Any = backbone.network
    family = getattr(transformers, full_class(network))
    full, info = family.from_pretrained(
        source, dtype=network.config.dtype, output_loading_info=True, **_revision(policy)
    )
    if info["missing_keys"]:
        raise ProjectError(
            f"model.backbone.checkpoint: {source} lacks {len(info['missing_keys'])} weights of a {family.__name__} "
            f"(first: {min(info['missing_keys'])}), so it cannot be merged as one; use the complete model."
        )
    if not has_adapter(policy):
        trained = {f"{backbone.adapter_prefix}{name}": value for name, value in network.state_dict().items()}
        unexpected = full.load_state_dict(trained, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"{family.__name__} has no {unexpected[0]}; adapter_prefix is wrong")
        return full
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        export_adapter(policy, Path(scratch) / "adapter")
        return PeftModel.from_pretrained(full, f"{scratch}/adapter").merge_and_unload(safe_merge=True)


def _copy_processing(source: str, policy: "Policy", folder: Path) -> None:
    """Tokenizer and image processor as they are; a hub model's lie in the cache, since the policy was loaded."""
    from transformers.utils import cached_file

    config = cached_file(source, "config.json", **_revision(policy))
    for pattern in PROCESSING:
        for file in Path(str(config)).parent.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def _revision(policy: "Policy") -> dict[str, str]:
    revision = policy.backbone.revision
    return {} if revision is None else {"revision": revision}


@torch.no_grad()
def _difference(policy: "Policy", cfg: DictConfig, folder: Path) -> tuple[float, float]:
    """Largest |difference| of the policy's states, in units of the largest: to the merged folder's, and to the base
    model's, which is what training changed. All three are asked with the trained queries."""
    size = policy.backbone.image_size
    pictures = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def states(backbone: Any) -> Tensor:
        ids, mask = backbone.tokenize([PROBE, f"{PROBE} on the left"])
        found: Tensor = backbone(pictures, ids, mask)
        return found

    expected = states(policy.backbone)

    def distance(**changes: Any) -> float:
        node = cfg.model.backbone.copy()
        node.update(changes)
        with torch.random.fork_rng():
            other: Any = build(node).eval()
        other.queries.copy_(policy.backbone.queries)
        return float((states(other) - expected).abs().max() / expected.abs().max())

    return distance(checkpoint=str(folder), quantization=None), distance()
