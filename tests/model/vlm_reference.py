"""The independent way through each family, to compare `VLMBackbone` with.

In: pictures and sentences. Out: states, by the family's own image processor, the prompt tokenized as one string, and
`AutoModelForImageTextToText` with `pixel_values`; queries stand in as embedding rows of unused tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from src.model.backbone.families import FAMILIES
from src.model.backbone.vlm import VLMBackbone
from tests.model.twins import TWINS, image_processor

PRESETS = Path(__file__).resolve().parents[2] / "conf" / "model" / "backbone"


def preset(name: str) -> dict[str, Any]:
    """The arguments of the family's YAML."""
    arguments: dict[str, Any] = yaml.safe_load((PRESETS / f"{TWINS[name].preset}.yaml").read_text())
    assert arguments.pop("_target_") == "src.model.backbone.vlm.VLMBackbone"
    return arguments


class Reference:
    """The library's own model, from pixels and one string."""

    def __init__(self, name: str, folder: Path, backbone: VLMBackbone) -> None:
        from transformers import AutoModelForImageTextToText, AutoTokenizer

        self.name, self.prompt = name, preset(name)["prompt"]
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.config = self.model.config
        self.queries, self.latents = backbone.queries, backbone.latents_per_frame
        self.processor = image_processor(name, backbone.image_size)

    def rows(self, sentences: list[str], counts: list[int]) -> list[list[int]]:
        """Prompts as the family's processor writes them, tokenized as a whole, then the queries' stand-ins."""
        image = self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        family = self.name if self.name != "idefics3" else "smolvlm"
        rows: list[list[int]] = []
        for sentence, count in zip(sentences, counts, strict=True):
            frame = FAMILIES[family].frame.replace("{latents}", image * self.latents)
            text = self.prompt.replace("{image}", frame * count).replace("{instruction}", sentence)
            rows.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        used = {token for row in rows for token in row}
        unused = [token for token in range(4, len(self.tokenizer)) if token not in used]
        stand_ins = unused[: len(self.queries)]
        with torch.no_grad():
            self.model.get_input_embeddings().weight[stand_ins] = self.queries
        return [row + stand_ins for row in rows]

    def pixels(self, pictures: list[Tensor]) -> dict[str, Tensor]:
        images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
        if self.name in ("smolvlm", "idefics3"):
            images = [[image] for image in images]  # type: ignore[misc]
        output = self.processor(images, return_tensors="pt")
        keep = ("pixel_values", "image_grid_thw", "pixel_attention_mask")
        return {key: output[key] for key in keep if key in output}

    def states(self, pictures: list[list[Tensor]], sentences: list[str]) -> Tensor:
        """States `(S, Q, D)` of S samples of one or more frames each, in one right-padded batch."""
        rows = self.rows(sentences, [len(mine) for mine in pictures])
        longest, queries = max(map(len, rows)), len(self.queries)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        attention = torch.zeros_like(ids)
        suffix = torch.ones_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            attention[i, : len(row)] = 1
            suffix[i, : len(row) - queries] = 0
        is_image = (ids == self.config.image_token_id).long()
        kinds = {"paligemma": ("token_type_ids", suffix), "gemma3": ("token_type_ids", is_image)}
        kinds |= dict.fromkeys(("qwen3_vl", "qwen2_5_vl"), ("mm_token_type_ids", is_image))
        extras = dict([kinds[self.name]]) if self.name in kinds else {}
        captured: list[Tensor] = []
        hook = self.model.model.register_forward_hook(
            lambda *arguments: captured.append(arguments[2].last_hidden_state)
        )
        with torch.no_grad():
            self.model(
                input_ids=ids,
                attention_mask=attention,
                **extras,
                **self.pixels([picture for mine in pictures for picture in mine]),
            )
        hook.remove()
        ends = attention.sum(dim=1)
        return torch.stack([captured[0][i, end - queries : end] for i, end in enumerate(ends.tolist())])


def counted(action: Callable[[], Any]) -> int:
    """Operations of a call, by torch's own counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows no formula for the fused attention kernel of the CPU; the plain one has the same count.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


# ---------------------------------------------------------------- what several tests need


def encode(backbone: VLMBackbone, pictures: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """`(S, F, 3, h, w)` uint8 -> states."""
    latents = backbone.encode_images(backbone.preprocess(pictures.flatten(0, 1)))
    return backbone.encode(latents.unflatten(0, pictures.shape[:2]), frame_mask, ids, mask)


def first_block(name: str) -> str:
    """Path of the first layer below the vision tower."""
    return {"internvl": "encoder.layer.0", "qwen2_5_vl": "blocks.0", "qwen3_vl": "blocks.0"}.get(
        name, "encoder.layers.0"
    )


def edited(source: Path, folder: Path, rename: Callable[[str], str | None]) -> Path:
    """A copy whose weights have other names; None drops one."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = {rename(path): value for path, value in load_file(source / "model.safetensors").items()}
    kept = {path: value for path, value in weights.items() if path is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
