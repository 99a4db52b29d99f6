"""What a run does not show, and that everything else of the same libraries comes through."""

import logging
from collections.abc import Iterator

import pytest

from src.experiment.quiet import silence

SILENT = ("transformers.distributed.tensor_parallel", "bitsandbytes.autograd._functions")


@pytest.fixture
def levels() -> Iterator[None]:
    """Levels of the two loggers are this test's alone."""
    before = {name: logging.getLogger(name).level for name in SILENT}
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_layers_that_were_not_sharded_are_no_news(levels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.distributed import tensor_parallel

    said = _listen(tensor_parallel.logger, monkeypatch)
    arguments = (["layer.weight"], {"other.weight": "colwise"})
    tensor_parallel.verify_tp_plan(*arguments)
    assert any("not sharded" in line for line in said), "transformers says it no more; the rule can go"
    said.clear()
    silence()
    tensor_parallel.verify_tp_plan(*arguments)
    assert said == []
    tensor_parallel.logger.error("broken")
    assert said == ["broken"]


def test_the_casts_of_int8_are_no_news(levels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    import bitsandbytes
    import torch
    from bitsandbytes.autograd import _functions

    said = _listen(_functions.logger, monkeypatch)
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to("cpu").eval()
    layer(torch.ones(1, 64))
    assert any("inputs will be cast" in line for line in said), (
        "bitsandbytes says it no more; the rule can go"
    )
    said.clear()
    silence()
    layer(torch.ones(1, 64))
    assert said == []


def _listen(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the logger lets through, as it comes."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    monkeypatch.setattr(logger, "handlers", [Ear()])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.WARNING)
    return said
