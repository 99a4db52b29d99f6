"""Tiny offline twins of the real vision-language checkpoints, one per family.

In: the name of a family and the sentences its tokenizer must read. Out: a folder as `save_pretrained` writes it
(weights, config, tokenizer, image processor), loaded by the very code that loads the real one. Sizes are small, the
structure is the family's: grouped key-value heads, sliding windows, windowed vision, deepstack, pixel shuffle.

The library draws matrices with a standard deviation of 0.02, which leaves models of this size nearly blind. Here
each matrix has 1/sqrt(inputs), words and image latents arrive at about unit size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

IMAGE_SIZE = 32
"""Side of the model input of every twin, pixels."""
WIDTH = 32
LAYERS = 2
MAX_TOKENS = 160

CONTROL = ("<pad>", "<bos>", "<eos>", "<unk>")
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": MAX_TOKENS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
}
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1]}


@dataclass(frozen=True)
class Twin:
    """What makes a family's twin.

    Attributes:
        preset: option of `model/backbone` whose arguments it is loaded with.
        special: the family's special tokens; the first stands where latents go.
        config: special token -> id, vocabulary size -> config of the full model.
        processor: module and class of the family's image processor (the PIL one: no torchvision).
        processing: arguments of that class.
    """

    preset: str
    special: tuple[str, ...]
    config: Callable[[dict[str, int], int], Any]
    processor: tuple[str, str]
    processing: dict[str, Any]


def _paligemma(ids: dict[str, int], size: int) -> Any:
    from transformers import Gemma2Config, PaliGemmaConfig, SiglipVisionConfig

    return PaliGemmaConfig(
        text_config=Gemma2Config(**TEXT, vocab_size=size, sliding_window=24, query_pre_attn_scalar=8),
        vision_config=SiglipVisionConfig(**VISION, patch_size=8, vision_use_head=False),
        image_token_index=ids["<image>"],
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=size,
    )


def _qwen3(ids: dict[str, int], size: int) -> Any:
    from transformers import Qwen3VLConfig
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

    vision = {"depth": LAYERS, "hidden_size": 16, "intermediate_size": 40, "num_heads": 2, "patch_size": 4}
    return Qwen3VLConfig(
        # Deepstack features join behind text layers 0 and 1; behind the last one no query would see them.
        text_config=Qwen3VLTextConfig(
            **{**TEXT, "num_hidden_layers": LAYERS + 1}, vocab_size=size, rope_parameters=dict(MROPE)
        ),
        vision_config=Qwen3VLVisionConfig(
            **vision, out_hidden_size=WIDTH, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
        ),
        **_qwen_tokens(ids),
    )


def _qwen2_5(ids: dict[str, int], size: int) -> Any:
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
        Qwen2_5_VLTextConfig,
        Qwen2_5_VLVisionConfig,
    )

    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    return Qwen2_5_VLConfig(
        text_config=Qwen2_5_VLTextConfig(**text, vocab_size=size, rope_parameters=dict(MROPE)),
        vision_config=Qwen2_5_VLVisionConfig(
            depth=LAYERS,
            hidden_size=16,
            intermediate_size=40,
            num_heads=2,
            patch_size=4,
            out_hidden_size=WIDTH,
            window_size=24,
            fullatt_block_indexes=[1],
        ),
        **_qwen_tokens(ids),
    )


def _qwen_tokens(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _smolvlm(ids: dict[str, int], size: int, kind: str = "SmolVLM") -> Any:
    import transformers

    text = transformers.LlamaConfig(**TEXT, vocab_size=size)
    vision = {**VISION, "patch_size": 4}
    return getattr(transformers, f"{kind}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=0,
    )


def _internvl(ids: dict[str, int], size: int) -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    return InternVLConfig(
        text_config=Qwen2Config(**text, vocab_size=size),
        vision_config=InternVLVisionConfig(**VISION, patch_size=4),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=16,
    )


def _gemma3(ids: dict[str, int], size: int) -> Any:
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    return Gemma3Config(
        text_config=Gemma3TextConfig(
            **TEXT,
            vocab_size=size,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=8,
        ),
        vision_config=SiglipVisionConfig(**VISION, patch_size=4, vision_use_head=False),
        mm_tokens_per_image=16,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
    )


def _llava(ids: dict[str, int], size: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=size),
        vision_config=CLIPVisionConfig(**VISION, patch_size=8),
        image_token_index=ids["<image>"],
        image_seq_length=16,
    )


SIZE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
QWEN_TOKENS = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
)
QWEN_PROCESSOR = ("qwen2_vl", "Qwen2VLImageProcessorPil")
QWEN_PROCESSING = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 64**2}}
SMOL_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>")
SMOL_PROCESSING = {
    "do_image_splitting": False,
    "size": {"longest_edge": IMAGE_SIZE},
    "max_image_size": {"longest_edge": IMAGE_SIZE},
}

TWINS = {
    "paligemma": Twin(
        "paligemma2", ("<image>",), _paligemma, ("siglip", "SiglipImageProcessorPil"), {"size": SIZE}
    ),
    "qwen3_vl": Twin(
        "qwen3_vl", QWEN_TOKENS, _qwen3, QWEN_PROCESSOR, {**QWEN_PROCESSING, "image_mean": [0.5] * 3}
    ),
    "qwen2_5_vl": Twin("qwen2_5_vl", QWEN_TOKENS, _qwen2_5, QWEN_PROCESSOR, QWEN_PROCESSING),
    "smolvlm": Twin(
        "smolvlm2", SMOL_TOKENS, _smolvlm, ("smolvlm", "SmolVLMImageProcessorPil"), SMOL_PROCESSING
    ),
    "idefics3": Twin(
        "smolvlm2",
        SMOL_TOKENS,
        lambda ids, size: _smolvlm(ids, size, "Idefics3"),
        ("idefics3", "Idefics3ImageProcessorPil"),
        SMOL_PROCESSING,
    ),
    "internvl": Twin(
        "internvl3",
        ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>", "<|im_end|>"),
        _internvl,
        ("got_ocr2", "GotOcr2ImageProcessorPil"),
        {"size": SIZE},
    ),
    "gemma3": Twin(
        "gemma3",
        ("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        _gemma3,
        ("gemma3", "Gemma3ImageProcessorPil"),
        {"size": SIZE},
    ),
    "llava": Twin(
        "llava",
        ("<image>", "<s>"),
        _llava,
        ("clip", "CLIPImageProcessorPil"),
        {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": SIZE},
    ),
}


def build_twin(name: str, folder: Path, corpus: list[str], seed: int = 0) -> Path:
    """Writes the twin of a family.

    Args:
        name: key of `TWINS`.
        folder: written with `save_pretrained`.
        corpus: sentences the tokenizer is trained on; their words become single tokens.
        seed: of the random weights.
    """
    from transformers import AutoModelForImageTextToText

    twin = TWINS[name]
    tokenizer = _tokenizer(twin, corpus, metaspace=name == "llava")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in twin.special}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(twin.config(ids, len(tokenizer)))
        _initialize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(name).save_pretrained(folder)
    return folder


def image_processor(name: str, size: int = IMAGE_SIZE) -> Any:
    """The family's own image processor, for a model input of `size` pixels."""
    module, kind = TWINS[name].processor
    loaded = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    settings = {
        key: dict.fromkeys(value, size) if "size" in key and "qwen" not in name else value
        for key, value in TWINS[name].processing.items()
    }
    return getattr(loaded, kind)(**settings)


def _tokenizer(twin: Twin, corpus: list[str], metaspace: bool) -> Any:
    """Byte-level BPE as Qwen and SmolVLM have it; `metaspace`: a space before the text, as Llama has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        raw.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = sorted({*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:,.\n▁"})
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*CONTROL, *twin.special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator([sentence for sentence in corpus for _ in range(4)], trainer)
    pad, bos, eos, unk = CONTROL
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


@torch.no_grad()
def _initialize(model: Any) -> None:
    """Matrices with std 1/sqrt(inputs); words, latents and positions at about unit size."""
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):  # (inputs, outputs), zeros in the library
            nn.init.normal_(parameter, std=parameter.shape[0] ** -0.5)
        elif name.endswith(("cls_token", "position_embeddings")):
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith(("lambda_1", "lambda_2")):
            nn.init.ones_(parameter)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0 / float(getattr(module, "scalar_embed_scale", 1.0)))
    model.tie_weights()
