"""Owns a Kosmos-2 with random weights in the file layout of the real one, for machines that cannot fetch it.

In: sizes. Out: a folder that the loading code of a training run reads as it reads the real one. Time and memory do not
depend on what the weights are; what such a model answers means nothing, and nothing here reports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from src.core.errors import ProjectError
from src.core.files import atomic_folder, exclusive
from src.model.backbone.tiny import TinySizes, build_processor


class RandomKosmos2:
    """Writes the folder once, and finds it again."""

    def __init__(self, folder: str, words_of: str, full_size: bool) -> None:
        """
        Args:
            folder: where it lies; made if it is not there.
            words_of: folder of a Kosmos-2 whose tokenizer's words this one reads.
            full_size: the library's default sizes, those of microsoft/kosmos-2-patch14-224 (1.66 B parameters, 3.3 GB);
                false: one narrow layer of each kind, for tests.
        """
        self.folder, self.words_of, self.full_size = Path(folder), Path(words_of), full_size

    def place(self) -> Path:
        """The folder, complete.

        Raises:
            ProjectError: the folder holds a model of other sizes.
        """
        from transformers import AutoConfig

        with exclusive(self.folder):
            if not self.folder.exists():
                print(f"weights  random Kosmos-2 into {self.folder}", flush=True)
                with atomic_folder(self.folder) as temporary:
                    self._write(temporary)
        found, wanted = AutoConfig.from_pretrained(self.folder), self._config()
        for part in ("text_config", "vision_config"):
            mine, theirs = getattr(wanted, part).to_dict(), getattr(found, part).to_dict()
            keys = ("embed_dim", "layers", "hidden_size", "num_hidden_layers")
            if any(mine.get(key) != theirs.get(key) for key in keys):
                raise ProjectError(
                    f"benchmark.weights.folder: found a Kosmos-2 of other sizes in {self.folder}; delete it, or "
                    "choose another folder."
                )
        return self.folder

    def _config(self) -> Any:
        from transformers import Kosmos2Config

        if self.full_size:
            return Kosmos2Config()
        return Kosmos2Config(
            text_config={"embed_dim": 32, "layers": 1, "ffn_dim": 64, "attention_heads": 2, "vocab_size": 4096,
                         "max_position_embeddings": 256},
            vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
            latent_query_num=4,
        )  # fmt: skip

    def _write(self, folder: Path) -> None:
        from transformers import AutoTokenizer, Kosmos2ForConditionalGeneration

        config = self._config()
        sizes = TinySizes(
            image_size=config.vision_config.image_size,
            patch_size=config.vision_config.patch_size,
            latents=config.latent_query_num,
            max_tokens=config.text_config.max_position_embeddings,
        )
        known = AutoTokenizer.from_pretrained(self.words_of).get_vocab()
        words = [token[1:] for token in known if token.startswith("▁") and token[1:].isalpha()]
        processor = build_processor([" ".join(words)], sizes)
        device = "cuda" if torch.cuda.is_available() else "cpu"  # drawing 1.7 B numbers takes a CPU minutes
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model: Any = Kosmos2ForConditionalGeneration(config)
        model.to(torch.bfloat16).cpu().save_pretrained(folder)
        processor.save_pretrained(folder)
