"""What a step does not pay for: logits, slow attention, a kernel per weight, optimizer states of frozen weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src.core.errors import ProjectError
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.lora import FullPlacement, LoraPlacement, Placement
from src.model.optim import adamw
from src.model.policy import Policy
from tests.model.conftest import INSTRUCTIONS, frames

MakePolicy = Callable[..., Policy]


def test_vision_projector_and_text_run_the_fused_attention(
    backbone: Kosmos2Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backbone.network.config._attn_implementation == "sdpa"
    calls = []
    plain = F.scaled_dot_product_attention

    def counted(*inputs: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(inputs[0].shape)
        return plain(*inputs, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    backbone(frames(2), *backbone.tokenize(INSTRUCTIONS[:1] * 2))
    attentions = [m for m in backbone.network.modules() if type(m).__name__.endswith("Attention")]
    assert len(calls) == len(attentions) == 2 + 2 + 1
    backbone.network.set_attn_implementation("eager")
    calls.clear()
    backbone(frames(1), *backbone.tokenize(INSTRUCTIONS[:1]))
    assert not calls, "this test would not notice slow attention"


def test_no_logits_exist(backbone: Kosmos2Backbone) -> None:
    assert backbone.network.get_output_embeddings() is None
    vocabulary = backbone.embeddings.num_embeddings
    wide = [
        n
        for n, m in backbone.network.named_modules()
        if isinstance(m, nn.Linear) and m.out_features == vocabulary
    ]
    assert not wide
    sizes = []
    for module in backbone.network.modules():
        module.register_forward_hook(
            lambda _, __, out: sizes.append(out.shape[-1]) if isinstance(out, torch.Tensor) else None
        )
    backbone(frames(1), *backbone.tokenize(INSTRUCTIONS[:1]))
    assert sizes and vocabulary not in sizes


@pytest.mark.parametrize(
    "placement", [LoraPlacement({"text_attention": 1}, 2, 4.0, 0.0), FullPlacement()], ids=["lora", "full"]
)
def test_optimizer_and_checkpoint_hold_what_trains_and_nothing_else(
    make_policy: MakePolicy, placement: Placement
) -> None:
    policy = make_policy(placement)
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = policy.configure_optimizers()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) and {id(p) for p in held} == {
        id(p) for p in trained.values()
    }
    checkpoint: dict[str, dict[str, torch.Tensor]] = {}
    policy.on_save_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() & dict(policy.named_parameters()).keys() == trained.keys()


def weights() -> dict[str, list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"backbone": [(33, 17), (17,)], "queries": [(2, 8)], "head": [(8, 8), (8,), (3, 8)]}
    return {
        group: [nn.Parameter(torch.randn(shape, generator=generator)) for shape in members]
        for group, members in shapes.items()
    }


def steps(optimizer: torch.optim.Optimizer, members: list[nn.Parameter], count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in members:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_fused_steps_equal_plain_ones_and_go_on_from_each_other() -> None:
    results = []
    for first, second in ((False, False), (True, True), (False, True), (True, False)):
        groups = weights()
        members = [p for group in groups.values() for p in group]
        optimizer = adamw(groups, lr=1e-2, head_lr=2e-2, fused=first)
        assert all(bool(group["fused"]) is first for group in optimizer.param_groups)
        steps(optimizer, members, 10, seed=1)
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = adamw(groups, lr=1e-2, head_lr=2e-2, fused=second)
        optimizer.load_state_dict(saved)
        steps(optimizer, members, 10, seed=2)
        results.append([p.detach().clone() for p in members])
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_fused_where_the_device_has_it() -> None:
    def fused(device: str, wanted: bool | None) -> bool:
        weight = nn.Parameter(torch.zeros(2, 2, device=device))
        groups = {"backbone": [weight], "queries": [], "head": []}
        return bool(adamw(groups, lr=1e-2, fused=wanted).param_groups[0]["fused"])

    assert fused("cpu", None) and not fused("cpu", False) and not fused("meta", None)
    with pytest.raises(ProjectError, match=r"optimizer\.fused: .*meta.*null"):
        fused("meta", True)


class Line(pl.LightningModule):
    """The smallest thing that Lightning trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw({"backbone": list(self.parameters()), "queries": [], "head": []}, lr=1e-2, fused=True)


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "bfloat16"])
def test_clipping_works_with_a_fused_optimizer_under_mixed_precision(scaled: bool, tmp_path: Path) -> None:
    from lightning.pytorch.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    plugin = MixedPrecision("16-mixed" if scaled else "bf16-mixed", "cpu", scaler)
    model = Line()
    before = model.layer.weight.detach().clone()
    seen: list[float] = []

    class Look(pl.Callback):
        def on_before_optimizer_step(
            self, trainer: object, module: pl.LightningModule, optimizer: object
        ) -> None:
            seen.append(float(model.layer.weight.grad.norm()))  # type: ignore[union-attr]

    trainer = pl.Trainer(
        accelerator="cpu", plugins=[plugin], gradient_clip_val=0.01, max_steps=2, logger=False, callbacks=[Look()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2))
    assert not torch.equal(model.layer.weight, before)
    assert seen and max(seen) < 50, "gradients are seen without the scale of the loss"
