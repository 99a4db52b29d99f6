"""The exported adapter and the merged folder answer as the policy does, read by the libraries alone."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.normalizer import MinMaxNormalizer
from src.experiment import merging
from src.experiment.adapter import _where, export_adapter, has_adapter
from src.experiment.checkpoint import base_model, build_policy, checkpoint_path, fingerprint, write_checkpoint
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.policy import Policy
from tests.model.twins import build_twin

# peft 0.21 asks transformers 5 for a property by its old name; a user of both libraries sees this too.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., tuple[Policy, DictConfig]]
EVERY_SITE = ["++model.lora.sites.vision=all", "++model.lora.sites.projector=all"]


@pytest.fixture
def make(compose: Any, small_overrides: list[str]) -> Make:
    """`make(*overrides)`: a policy whose trainable weights are not those it began with, and its config."""

    def made(*overrides: str) -> tuple[Policy, DictConfig]:
        unfit = [  # overrides of options that another choice does not have
            *(
                ["model.lora."]
                if any(text.startswith(("model/lora", "model=")) for text in overrides)
                else []
            ),
            *(["model.backbone."] if "model=convnet" in overrides else []),
        ]
        small = [text for text in small_overrides if not text.startswith(tuple(unfit))]
        cfg = compose("train", *small, "run_folder=somewhere", *overrides)
        space = ActionSpace.from_dict(
            {
                key: value
                for key, value in OmegaConf.to_container(cfg.data.action).items()
                if key != "_target_"
            }
        )
        normalizer = MinMaxNormalizer()
        normalizer.fit(torch.tensor([[-1.0, -0.5, -1.0], [1.0, 0.5, 1.0]]).numpy())
        policy = build_policy(cfg, space, normalizer).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((0.1 * noise).to(parameter.dtype))
        return policy, cfg

    return made


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Policy, DictConfig], Path]:
    """`save(policy, cfg)`: a run folder with the policy's checkpoint."""

    def saved(policy: Policy, cfg: DictConfig) -> Path:
        about = {
            "config": OmegaConf.to_container(cfg, resolve=True),
            "base_model": base_model(policy),
            "action_space": policy.action_space.to_dict(),
        }
        path = checkpoint_path(tmp_path / "run", "best")
        write_checkpoint(path, {"state_dict": policy.trained_state(), "about": about})
        return tmp_path / "run"

    return saved


def inputs(place: str) -> dict[str, Tensor]:
    """What a user of the Kosmos-2 library would pass: a picture and a sentence through its own processor."""
    from PIL import Image

    picture = torch.randint(
        0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    processor = AutoProcessor.from_pretrained(place)
    found: dict[str, Tensor] = processor(
        text="drive to the red ball",
        images=Image.fromarray(picture.numpy()),
        num_image_tokens=4,
        return_tensors="pt",
    )
    return {
        key: found[key]
        for key in ("pixel_values", "input_ids", "attention_mask", "image_embeds_position_mask")
    }


@torch.no_grad()
def hidden(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Last hidden state of the text model, whatever stands around it."""
    caught: list[Tensor] = []
    core = next(module for name, module in model.named_modules() if name.endswith("text_model.model"))
    hook = core.register_forward_hook(lambda *args: caught.append(args[2].last_hidden_state))
    model.eval()(**given)
    hook.remove()
    return caught[0]


# ---------------------------------------------------------------- the adapter


@pytest.mark.parametrize(
    "overrides",
    [[], EVERY_SITE, ["model.lora.rslora=true", "model.lora.alpha=3"], ["model.lora.dora=true", *EVERY_SITE]],
    ids=["text", "every site", "rslora", "dora"],
)
@pytest.mark.parametrize("family", [AutoModel, AutoModelForImageTextToText])
def test_plain_peft_loads_the_adapter_and_gives_the_same_states(
    make: Make, small_kosmos: Path, tmp_path: Path, overrides: list[str], family: Any
) -> None:
    policy, _ = make(*overrides)
    size = export_adapter(policy, tmp_path / "adapter")
    files = {path.name: path.stat().st_size for path in (tmp_path / "adapter").iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert size == sum(files.values())
    assert len({path.stat().st_mode for path in (tmp_path / "adapter").iterdir()}) == 1, (
        "colleagues read all or none"
    )
    given = inputs(str(small_kosmos))
    base = family.from_pretrained(small_kosmos)
    without = hidden(base, given)
    loaded = hidden(PeftModel.from_pretrained(base, str(tmp_path / "adapter")), given)
    ours = hidden(policy.backbone.network, given)
    torch.testing.assert_close(loaded, ours, rtol=0, atol=1e-6)
    assert (loaded - without).abs().max() > 1e-2, "the adapter does nothing"


def test_an_adapter_of_another_family_sits_where_its_full_model_has_the_headless_one(
    make: Make, tmp_path: Path
) -> None:
    place = build_twin("smolvlm", tmp_path / "base", ["drive to the red ball on its left right side"])
    policy, _ = make(
        "model/backbone=smolvlm2", f"model.backbone.checkpoint={place}", "model.backbone.dtype=float32"
    )
    export_adapter(policy, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place)
    assert all(path.startswith("model.text_model.layers.") for path in config["target_modules"])
    full = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(place), str(tmp_path / "adapter")
    )
    ids = policy.tokenize(["drive to the red ball"])[0]
    with torch.no_grad():
        theirs = full.base_model.model.model(input_ids=ids, output_hidden_states=False).last_hidden_state
        ours = policy.backbone.network(input_ids=ids).last_hidden_state
        with full.disable_adapter():
            without = full.base_model.model.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert (theirs - without).abs().max() > 1e-2


def test_an_older_adapter_is_replaced_as_a_whole(make: Make, tmp_path: Path) -> None:
    policy, _ = make()
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "stale.bin").write_bytes(b"old")
    export_adapter(policy, folder)
    assert not (folder / "stale.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_only_lora_has_an_adapter(make: Make) -> None:
    assert has_adapter(make()[0])
    assert not has_adapter(make("model/lora=full")[0]) and not has_adapter(make("model/lora=none")[0])


def test_the_card_says_what_a_relative_folder_is_relative_to(
    make: Make, small_kosmos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def card(checkpoint: str, *overrides: str) -> str:
        policy, _ = make(f"model.backbone.checkpoint={checkpoint}", *overrides)
        export_adapter(policy, tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == checkpoint
        return (tmp_path / "adapter" / "README.md").read_text()

    shipped = card("assets/kosmos2_tiny")
    assert "`assets/kosmos2_tiny` is a folder relative to this project's repository: run this from" in shipped
    assert str(ROOT) not in shipped
    assert "relative" not in card(str(small_kosmos))
    monkeypatch.chdir(small_kosmos.parent)
    assert "`./kosmos` is a folder relative to the folder the run was started in" in card("./kosmos")


def test_a_hub_model_is_no_folder() -> None:
    assert _where("microsoft/kosmos-2-patch14-224", "microsoft/kosmos-2-patch14-224") == ""


# ---------------------------------------------------------------- the merged folder


@pytest.mark.parametrize(
    "overrides",
    [EVERY_SITE, ["model.lora.dora=true"], ["model/lora=full"]],
    ids=["every site", "dora", "full"],
)
def test_the_merged_folder_answers_as_the_run(
    make: Make, save: Any, small_kosmos: Path, tmp_path: Path, overrides: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    policy, cfg = make(*overrides)
    run = save(policy, cfg)
    to = merging.merge(str(run), str(tmp_path / "merged"))
    given = inputs(str(to))
    assert all(torch.equal(given[key], value) for key, value in inputs(str(small_kosmos)).items())
    ours = hidden(policy.backbone.network, given)
    for family in (AutoModel, AutoModelForImageTextToText):
        model, info = family.from_pretrained(to, output_loading_info=True)
        assert not info["missing_keys"] and not any("lora" in name for name in info["unexpected_keys"])
        torch.testing.assert_close(hidden(model, given), ours, rtol=0, atol=1e-5)
    assert (hidden(AutoModel.from_pretrained(small_kosmos), given) - ours).abs().max() > 1e-2
    assert len({path.stat().st_mode for path in to.iterdir()}) == 1, "colleagues read all files or none"
    said = capsys.readouterr().out
    assert f"model.backbone.checkpoint={to}" in said and f"python -m src.evaluate run={run}" in said
    facts = json.loads((to / "merged_from.json").read_text())
    assert facts["base_model"]["id"] == str(small_kosmos) and facts["checkpoint"].endswith("best.safetensors")


def test_a_new_policy_starts_from_the_merged_folder(make: Make, save: Any, tmp_path: Path) -> None:
    run = save(*make())
    to = merging.merge(str(run), str(tmp_path / "merged"))
    policy, _ = make("model/lora=none", f"model.backbone.checkpoint={to}")
    base, _ = make("model/lora=none")
    assert policy.backbone.checkpoint == str(to) and fingerprint(policy) != fingerprint(base)


def test_another_family_merges_too(make: Make, save: Any, tmp_path: Path) -> None:
    """Its headless model sits below `model.` in the full one; `merge` itself compares the states."""
    place = build_twin("smolvlm", tmp_path / "base", ["drive to the red ball on its left right side"])
    for name, placement in {"lora": "text_all_tiny", "full": "full"}.items():
        policy, cfg = make(
            "model/backbone=smolvlm2", f"model.backbone.checkpoint={place}", "model.backbone.dtype=float32",
            f"model/lora={placement}", *(["model.lora.rank=2"] if name == "lora" else []),
        )  # fmt: skip
        to = merging.merge(str(save(policy, cfg)), str(tmp_path / name))
        assert AutoModelForImageTextToText.from_pretrained(to).model is not None


def test_what_cannot_be_merged_is_a_sentence(
    make: Make, save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "merged"
    for placement in ("none", "head_only"):
        run = save(*make(f"model/lora={placement}"))
        with pytest.raises(ProjectError, match="none of the weights of .*kosmos trained.*nothing to merge"):
            merging.merge(str(run), str(to))
    run = save(*make("model=convnet"))
    with pytest.raises(ProjectError, match="ConvNet.* has no pretrained model to merge into"):
        merging.merge(str(run), str(to))
    run = save(*make())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ProjectError, match="to=.*full: holds something already"):
        merging.merge(str(run), str(tmp_path / "full"))
    monkeypatch.setattr(merging, "_difference", lambda *_: (0.5, 1.0))
    with pytest.raises(ProjectError, match="differ from the adapter's by 5.0e-01"):
        merging.merge(str(run), str(to))
    assert not to.exists() and len(list(tmp_path.iterdir())) == 2, "nothing half-made may stay"


def test_in_bfloat16_what_training_changed_must_outlast_the_rounding(
    make: Make, save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, cfg = make("model.backbone.dtype=bfloat16")
    run = save(policy, cfg)
    merging.merge(str(run), str(tmp_path / "merged"))
    said = re.search(
        r"of the run by (\S+) of their size; training changed them by (\S+) ", capsys.readouterr().out
    )
    assert said is not None
    difference, effect = map(float, said.groups())
    assert 1e-3 < difference < 0.05 * effect, "measured 1.1e-2 and 1.1: rounding, and an adapter that acts"
    with monkeypatch.context() as patch:
        patch.setattr(merging, "_merged", lambda policy, source: _family(source))  # forgets the adapter
        with pytest.raises(
            ProjectError, match=r"25% of what training changed \(1.* to bfloat16 may take; nothing"
        ):
            merging.merge(str(run), str(tmp_path / "forgotten"))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.mul_(0.1)  # its products are 100 times smaller: half of them is lost in bfloat16
    save(policy, cfg)
    with pytest.raises(ProjectError, match="use the run's adapter/ with peft"):
        merging.merge(str(run), str(tmp_path / "rounded"))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "merged"}


def _family(source: str) -> Any:
    return AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16)


def test_an_adapter_of_quantised_weights_is_merged_with_a_measured_warning(
    make: Make, save: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = TinySizes(  # bitsandbytes needs rows of 64 values
        image_size=32, patch_size=16, vision_width=64, vision_layers=1, text_width=64, text_layers=1, heads=4,
        latents=4, max_tokens=96,
    )  # fmt: skip
    place = tmp_path / "base"
    build_tiny(place, ["drive to the red ball on its left right side", "An image of a robot"], sizes)
    policy, cfg = make(f"model.backbone.checkpoint={place}", "model.backbone.quantization=nf4")
    capsys.readouterr()
    merging.merge(str(save(policy, cfg)), str(tmp_path / "merged"))
    said = re.search(
        r"the run by (\S+) of their size; training changed them by (\S+) \(measured\)\nWARNING the adapter was "
        r"trained on quantised weights .* in float32: the difference is (\d+)% of what training changed",
        capsys.readouterr().out,
    )
    assert said is not None
    difference, effect, share = map(float, said.groups())
    assert 1e-2 < difference < effect and share == pytest.approx(100 * difference / effect, abs=1.5)


@pytest.mark.slow
def test_the_command_line_merges(make: Make, save: Any, small_kosmos: Path, tmp_path: Path) -> None:
    policy, cfg = make(*EVERY_SITE)
    run, to = save(policy, cfg), tmp_path / "merged"
    command = [sys.executable, "-m", "src.merge", f"run={run}", f"to={to}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines()[0].startswith(f"merged  {to}: Kosmos2ForConditionalGeneration")
    given = inputs(str(to))
    merged = hidden(AutoModelForImageTextToText.from_pretrained(to), given)
    torch.testing.assert_close(merged, hidden(policy.backbone.network, given), rtol=0, atol=1e-5)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and len(again.stderr.splitlines()) == 1 and "holds something" in again.stderr
    missing = subprocess.run(command[:3], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert missing.returncode == 2 and "run: a value is required here" in missing.stderr
