"""Owns which library messages a run does not show, each with the reason. Everything else comes through."""

import logging
import os
import warnings

_WARNINGS = {
    # Frames are cached in memory: worker processes make the loader slower here, so 0 is right.
    r".*does not have many workers.*": "num_workers",
    # An epoch of packed batches is short; the CSV logger writes whatever Lightning hands it.
    r".*is smaller than the logging interval.*": "log_every_n_steps",
    # The frozen parts of a backbone stay in eval mode on purpose (no dropout in what does not learn).
    r".*module\(s\) in eval mode at the start of training.*": "eval mode",
    # Lightning 2.6 calls torch's pytree in a way torch 2.13 deprecates.
    r".*isinstance\(treespec, LeafSpec\).*": "pytree",
    # The run folder exists because Hydra has just made it.
    r".*Checkpoint directory .* exists and is not empty.*": "folder",
    # A computer with a GPU may be asked to train on the CPU.
    r".*GPU available but not used.*": "accelerator",
}


def silence() -> None:
    """Call once before a trainer is built."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # "GPU available: False", "LOCAL_RANK", tips for other products: nothing a user acts on.
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A progress bar for every shard of weights; our own lines say what is loaded.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # Forked loader workers would each print advice about the tokenizers' threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("wandb").setLevel(logging.ERROR)
    # transformers 5.23 lists the layers that several GPUs would not share; a run has one device, so none are shared.
    logging.getLogger("transformers.distributed.tensor_parallel").setLevel(logging.ERROR)
    # bitsandbytes 0.50 says at every layer of every pass that LLM.int8() casts its inputs to float16; that is int8's
    # way, and whoever chose model.backbone.quantization=int8 chose it.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # On CPUs with AVX512-BF16 the same package, when it is imported, tries to fetch a faster product of 4-bit weights
    # from a hub. Without it only 4-bit inference on a CPU is slower, which is not what 4-bit weights are for here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
