"""Owns the adapter as peft knows it: the trained LoRA matrices of a policy as a folder for plain `PeftModel`.

In: a policy whose backbone carries LoRA. Out: adapter_config.json, adapter_model.safetensors and a README.md that
`PeftModel.from_pretrained(<base model>, folder)` loads without any code of this project. Action queries, head and
normaliser are not in it; they stay in the run's checkpoints.
"""

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from src.core.files import atomic_folder, atomic_write_text
from src.experiment.checkpoint import disk_errors

if TYPE_CHECKING:
    from src.model.policy import Policy

NAME = "default"
"""peft's name of the one adapter a policy has."""

_CARD = """---
library_name: peft
base_model: {base}
---

LoRA adapter of a policy for a mobile robot: {count:,} trained values at {sites} modules.

```python
from peft import PeftModel
from transformers import {family}

model = PeftModel.from_pretrained({family}.from_pretrained("{base}"{revision}), "<this folder>")
```
{where}
The policy's action queries, head and action normaliser are in `checkpoints/best.safetensors` of its run.
"""


def has_adapter(policy: "Policy") -> bool:
    """Does the backbone carry LoRA? peft leaves its configuration on the model it was injected into."""
    return NAME in getattr(policy.backbone.network, "peft_config", {})


def adapter_state(policy: "Policy") -> dict[str, Tensor]:
    """The adapter's weights on the CPU under the names they have in a `PeftModel` around the family's full model."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(policy.backbone.network, adapter_name=NAME, save_embedding_layers=False)
    prefix = f"base_model.model.{policy.backbone.adapter_prefix}"
    return {f"{prefix}{key}": value.detach().cpu().contiguous() for key, value in state.items()}


def export_adapter(policy: "Policy", folder: Path) -> int:
    """Write the adapter to `folder`; return its size in bytes.

    An older adapter there is moved away before, so that a kill leaves the old one, the new one or none, never a mix.

    Raises:
        ProjectError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    network, backbone = policy.backbone.network, policy.backbone
    config: Any = deepcopy(network.peft_config[NAME])  # type: ignore[index]  # a dict that peft put there
    state = adapter_state(policy)
    # The full list of paths: peft may have shortened its own to endings that are unique in our headless model only.
    modules = sorted(path for path, module in network.named_modules() if hasattr(module, "lora_A"))
    config.target_modules = {f"{backbone.adapter_prefix}{path}" for path in modules}
    config.base_model_name_or_path, config.revision = backbone.checkpoint, backbone.revision
    config.inference_mode = True
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    with atomic_folder(folder) as temporary:
        config.save_pretrained(str(temporary))
        weights = temporary / "adapter_model.safetensors"
        with disk_errors():
            save_file(state, weights, metadata={"format": "pt"})
        shutil.copymode(temporary / "adapter_config.json", weights)  # safetensors writes for the owner alone
        atomic_write_text(temporary / "README.md", _card(policy, state, len(modules)))
        size = sum(file.stat().st_size for file in temporary.iterdir())
    shutil.rmtree(old, ignore_errors=True)
    return size


def _card(policy: "Policy", state: dict[str, Tensor], modules: int) -> str:
    backbone = policy.backbone
    network: Any = backbone.network
    return _CARD.format(
        base=backbone.checkpoint,
        revision=f', revision="{backbone.revision}"' if backbone.revision else "",
        count=sum(value.numel() for value in state.values()),
        sites=modules,
        where=_where(str(backbone.checkpoint), str(network.config._name_or_path)),
        family=full_class(network),
    )


def _where(checkpoint: str, place: str) -> str:
    """What a relative path is relative to; it stays as typed, for a full one would mean one computer alone.

    Args:
        checkpoint: as typed.
        place: where transformers found it; below the repository that is the full path.
    """
    if Path(checkpoint).expanduser().is_absolute() or not Path(place).expanduser().is_dir():
        return ""
    start = "this project's repository" if Path(place).is_absolute() else "the folder the run was started in"
    return f"\n`{checkpoint}` is a folder relative to {start}: run this from there, or write its full path.\n"


def full_class(network: Any) -> str:
    """The class name of the family's full model, e.g. Kosmos2ForConditionalGeneration."""
    names = network.config.architectures or [type(network).__name__]
    return str(names[0])
