"""Blind and deaf arms: what was taken away reaches nothing, what was left is untouched, and the config says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from src.core.errors import ProjectError
from src.experiment.compatible import differences
from src.model.history import Interleaved, PerFrame
from src.model.policy import Policy
from src.model.senses import BLANK, GREY, Senses
from tests.deploy.standins import SPACE
from tests.model.conftest import INSTRUCTIONS, episode_batch, frames

MakePolicy = Callable[..., Policy]


def with_senses(make_policy: MakePolicy, *names: str, **options: Any) -> Policy:
    policy = make_policy(**options)
    policy.senses = Senses(names)
    return policy.eval()


def predicted(policy: Policy, pixels: int = 0, words: list[str] = INSTRUCTIONS[:2]) -> torch.Tensor:
    """What it does with the pictures of seed `pixels` under these words."""
    batch = episode_batch(policy)
    batch.frames = frames(len(batch.frames), pixels)
    batch.instruction_ids, batch.instruction_mask = policy.tokenize(words)
    with torch.no_grad():
        return policy.predict(batch)


@pytest.mark.parametrize("history", [PerFrame, Interleaved])
def test_a_blind_policy_does_not_depend_on_pixels_nor_a_deaf_one_on_words(
    make_policy: MakePolicy, history: type
) -> None:
    other = INSTRUCTIONS[1:3]
    depends = {}
    for names in (("image", "words"), ("words",), ("image",), ()):
        policy = with_senses(make_policy, *names, history=history())
        first = predicted(policy)
        depends[names] = (
            not torch.equal(predicted(policy, pixels=7), first),
            not torch.equal(predicted(policy, words=other), first),
        )
    expected = {("image", "words"): (True, True), ("words",): (False, True), ("image",): (True, False)}
    assert depends == {**expected, (): (False, False)}


def test_both_senses_change_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy().eval()
    pictures = frames(3)
    assert Senses().see(pictures) is pictures and Senses().hear(INSTRUCTIONS) is INSTRUCTIONS
    ids, mask = policy.tokenize(INSTRUCTIONS)
    plain = policy.backbone.tokenize(INSTRUCTIONS)
    assert torch.equal(ids, plain[0]) and torch.equal(mask, plain[1])
    with torch.no_grad():
        assert torch.equal(
            policy.encode_frames(pictures, ids, mask), policy.backbone(pictures, *plain)
        )  # the path of a policy that has never heard of senses


def test_grey_frames_keep_their_form_and_blank_words_can_be_read(make_policy: MakePolicy) -> None:
    grey = Senses(["words"]).see(frames(2))
    assert grey.dtype == torch.uint8 and grey.shape == (2, 3, 32, 32) and grey.unique().tolist() == [GREY]
    deaf = with_senses(make_policy, "image")
    ids, mask = deaf.tokenize([INSTRUCTIONS[0], ""])  # who does not hear may be told nothing
    assert torch.equal(ids[0], ids[1]) and mask.all()
    assert torch.equal(ids[:1], deaf.backbone.tokenize([BLANK])[0])
    with pytest.raises(ProjectError, match="deaf"):
        with_senses(make_policy, "image", "words").tokenize([""])


def test_the_blank_is_the_one_of_the_probes() -> None:
    from src.evaluation.probes.driven import probe_tasks
    from src.sim import sample_task

    assert probe_tasks("blank", [sample_task("reach", "train", 0)])[0].instruction == BLANK


@pytest.mark.parametrize("names", [("words",), ("image",)])
def test_blind_and_deaf_policies_train(make_policy: MakePolicy, names: tuple[str, ...]) -> None:
    policy = with_senses(make_policy, *names).train()
    optimizer = policy.configure_optimizers()
    batch = episode_batch(policy)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = policy.compute_loss(batch)[0]["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.parameter_groups()["backbone"])


@pytest.mark.parametrize("names", [["eyes"], ["image", "image"], ["image", "word"]])
def test_unknown_senses_are_refused_with_the_choices(make_policy: MakePolicy, names: list[str]) -> None:
    with pytest.raises(ProjectError, match="model.senses: found .* expected each of image, words"):
        Senses(names)


@pytest.mark.parametrize(
    ("overrides", "senses"),
    [
        ([], ["image", "words"]),
        (["experiment=blind"], ["words"]),
        (["experiment=deaf"], ["image"]),
        (["model=kosmos_lora", "model/senses=blind"], ["words"]),
        (["model=convnet", "model/senses=deaf"], ["image"]),
        (["model.senses=[]"], []),
    ],
)
def test_presets_say_what_the_policy_perceives(compose: Any, overrides: list[str], senses: list[str]) -> None:
    cfg = compose("train", *overrides, "run_folder=somewhere")
    assert list(cfg.model.senses) == senses


def test_a_policy_built_from_the_preset_has_its_senses(compose: Any, small_overrides: list[str]) -> None:
    from src.core.config import build
    from src.experiment.checkpoint import build_policy

    cfg = compose("train", *small_overrides, "experiment=blind", "run_folder=somewhere")
    policy = build_policy(cfg, SPACE, build(cfg.data.normalizer))
    assert (policy.senses.image, policy.senses.words) == (False, True)


def test_checkpoints_without_the_key_fit_and_of_another_arm_do_not(compose: Any) -> None:
    from omegaconf import OmegaConf

    def resolved(*overrides: str) -> Any:
        return OmegaConf.to_container(compose("train", *overrides, "run_folder=somewhere"), resolve=True)

    now, blind = resolved(), resolved("experiment=blind")
    old = {**now, "model": {key: value for key, value in now["model"].items() if key != "senses"}}
    compare = partial(differences, space_was=SPACE.to_dict(), space_now=SPACE.to_dict())
    assert compare(old, now) == [] == compare(blind, blind)
    assert len(compare(old, blind)) == 1 and "model.senses" in compare(old, blind)[0]
