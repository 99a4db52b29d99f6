"""The cache in a real training: what it says, what it counts as the same, and that two runs share it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from src.core.config import build
from src.core.errors import ProjectError
from src.data.episode import Episode, EpisodeFile, write_episode
from src.data.frames import FrameStore
from src.experiment.checkpoint import build_policy
from src.model.features.cache import FeatureCache, attached
from src.model.features.key import describe, folder_name
from src.model.policy import Policy

Start = Callable[..., tuple[Policy, Any]]
HEAD_ONLY, TEXT = "model/lora=head_only", "model/lora=text_all"


@pytest.fixture(scope="module")
def composed(compose: Callable[..., Any], small_overrides: list[str]) -> Callable[..., Any]:
    """Each config is composed once, which takes most of a test's time."""
    known: dict[tuple[str, ...], Any] = {}

    def once(overrides: tuple[str, ...]) -> Any:
        if overrides not in known:
            still = {HEAD_ONLY, "model/lora=none"} & set(overrides)  # these have no rank
            small = [one for one in small_overrides if not (still and "lora.rank" in one)]
            known[overrides] = compose("train", *small, *overrides)
        return copy.deepcopy(known[overrides])

    return once


@pytest.fixture()
def start(composed: Callable[..., Any]) -> Start:
    """`start(*overrides)`: policy and data module as a run has them before it trains."""

    def started(
        *overrides: str, root: Path | None = None, checkpoint: Path | None = None
    ) -> tuple[Policy, Any]:
        cfg = composed(overrides)
        cfg.data.root = str(root or cfg.data.root)
        cfg.model.backbone.checkpoint = str(checkpoint or cfg.model.backbone.checkpoint)
        data = build(cfg.data)
        policy = build_policy(cfg, data.action_space, data.normalizer)
        data.setup("fit")
        policy.fit_actions(data.training_actions())
        data.bind(policy.tokenize)
        return policy, data

    return started


def trainer(precision: Any = "32-true", **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(accelerator="cpu", devices=1, precision=precision, **quiet, **options)


def counted(policy: Policy) -> list[int]:
    calls: list[int] = []
    policy.backbone.network.vision_model.register_forward_hook(lambda *_: calls.append(1))
    return calls


class Rows(pl.Callback):
    """The loss of every step and the figures of every validation."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self.found[f"step {trainer.global_step}"] = trainer.callback_metrics["train/loss"].clone()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        for key in ("val/loss", "val/error"):
            self.found[f"{key} {trainer.global_step}"] = trainer.callback_metrics[key].clone()


def train(
    policy: Policy, data: Any, features: FeatureCache | None, epochs: int = 2
) -> tuple[dict[str, Any], Any]:
    rows = Rows()
    lightning = trainer(max_epochs=epochs, callbacks=[rows])
    policy.train()
    torch.manual_seed(7)
    with attached(features, policy, data, lightning) as facts:
        lightning.fit(policy, datamodule=data)
    assert policy.features is None and rows.found
    return facts, rows.found | {name: value.clone() for name, value in policy.trained_state().items()}


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the episodes whose frames are asked for from now on."""
    asked: list[int] = []
    copy_into = FrameStore.copy_into

    def spy(self: FrameStore, out: torch.Tensor, row: int, steps: np.ndarray) -> None:
        asked.append(row)
        copy_into(self, out, row, steps)

    monkeypatch.setattr(FrameStore, "copy_into", spy)
    return asked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning", "ignore:The '")
@pytest.mark.parametrize("placement", ["head_only", "none"])
def test_a_second_run_reads_and_computes_nothing_below_and_learns_the_same(
    placement: str,
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every loss, every figure of every validation and every weight."""
    asked = reads(monkeypatch)
    features = FeatureCache(str(tmp_path / "features"), 1.0)
    choice = f"model/lora={placement}"
    results = []
    for cache, known, most in ((None, None, None), (features, 0, None), (features, 90, 0)):
        policy, data = start(choice, "data.paraphrase=first")
        calls = counted(policy)
        asked.clear()
        facts, state = train(policy, data, cache)
        assert bool(asked) is (most is None), "frames whose features are known stay in their files"
        results.append(state)
        line = next((one for one in capsys.readouterr().out.splitlines() if one.startswith("features")), "")
        if cache is not None:
            assert facts["known_at_start"] == known and f", {known} of them known, in {tmp_path}" in line
            assert facts["rows"] == 90 and Path(facts["folder"]).parent == tmp_path / "features"
        if most is not None:  # the sample of the start alone
            assert len(calls) == 1
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-6, rtol=1e-5, msg=name)


# ---- what makes a key


def key(policy: Policy, data: Any, precision: str = "32-true", device: str = "cpu") -> str:
    return folder_name(describe(policy, data, precision, device))


@pytest.fixture()
def other_kosmos(small_kosmos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_kosmos, tmp_path / "kosmos"))


def test_the_key_is_of_what_things_are_not_of_where_they_lie(
    start: Start, other_kosmos: Path, small_data: Path, tmp_path: Path
) -> None:
    other_data = Path(shutil.copytree(small_data, tmp_path / "data"))
    for placement in (HEAD_ONLY, "model/lora=text_attention"):
        one = key(*start(placement))
        assert one == key(*start(placement, root=other_data, checkpoint=other_kosmos))
        assert one == key(*start(placement, "model.head.hidden_size=4", "data.window=2", "optimizer.lr=0.1"))


def test_placements_share_the_latents(start: Start) -> None:
    keys = {key(*start(f"model/lora={name}")) for name in ("text_attention", "text_all", "text_all_tiny")}
    assert len(keys) == 1 and keys.pop().startswith("latents-")


@pytest.mark.parametrize(
    ("change", "latents_too"),
    [
        ("weight", True), ("text weight", False), ("precision", True), ("device", True), ("blind", True),
        ("prompt", False), ("wording", False), ("deaf", False), ("data file", True), ("normalisation", True),
        ("torch", True), ("code", True), ("queries", False),
    ],
)  # fmt: skip
def test_every_change_below_the_cut_gives_another_key(
    change: str,
    latents_too: bool,
    start: Start,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the latents keep theirs where the change is above them."""
    data_root = Path(shutil.copytree(small_data, tmp_path / "data"))
    before = [
        start(HEAD_ONLY, root=data_root),
        start(TEXT, root=data_root),
    ]
    was = [key(*one) for one in before]
    assert [key(*one) for one in before] == was
    precision, device = "32-true", "cpu"
    overrides: list[str] = []
    for policy, data in before:
        network: Any = policy.backbone.network
        with torch.no_grad():
            if change == "weight":
                network.vision_model.model.post_layernorm.weight.view(-1)[-1].add_(1e-6)
            elif change == "text weight":
                network.text_model.model.layers[0].ffn.fc1.bias[3].add_(1e-6)
            elif change == "normalisation":
                policy.backbone.std += 1e-3
            elif change == "queries":
                policy.backbone.queries[0, 0] += 1e-6
        if change == "wording":
            episodes = data.episodes("train")
            episodes[0] = episodes[0].retold((*episodes[0].instructions, "drive to the box"))
    if change == "precision":
        precision = "bf16-mixed"
    elif change == "device":
        device = "cuda"
    elif change == "torch":
        monkeypatch.setattr("torch.__version__", "9.9")
    elif change == "code":
        monkeypatch.setattr("src.model.features.key._code", lambda: "other")
    elif change in ("blind", "deaf"):
        overrides = [f"model/senses={change}"]
    elif change == "prompt":
        overrides = ["model.backbone.prompt='<s>{image}An image of the robot {instruction}'"]
    elif change == "data file":
        _one_pixel(next(data_root.glob("*.h5")))
        shutil.rmtree(data_root / ".frames", ignore_errors=True)
        for split in data_root.glob("*.json"):
            split.unlink()
    if overrides or change == "data file":
        before = [
            start(HEAD_ONLY, *overrides, root=data_root),
            start(TEXT, *overrides, root=data_root),
        ]
    now = [key(*one, precision, device) for one in before]
    assert now[0] != was[0]
    assert (now[1] != was[1]) == latents_too


def test_frames_of_another_size_give_another_key(start: Start) -> None:
    policy, data = start(HEAD_ONLY)
    before = key(policy, data)
    data.image_size = 48
    assert key(policy, data) != before


def _one_pixel(path: Path) -> None:
    """Write the episode again with one value of one pixel changed."""
    old = EpisodeFile(path)
    pictures = np.array(old.frames())
    pictures[0, 0, 0, 0] ^= 1
    meta = old.meta
    path.unlink()
    write_episode(
        path,
        Episode(
            id=meta.id, frames=pictures, actions=meta.actions, instructions=meta.instructions,
            action_names=meta.action_names, action_units=meta.action_units, control_period=meta.control_period,
            scenario=meta.scenario, group=meta.group,
        ),
    )  # fmt: skip


# ---- where it is off, or partly


@contextmanager
def told(features: FeatureCache | None, policy: Policy, data: Any, *options: Any) -> Iterator[dict[str, Any]]:
    with attached(features, policy, data, trainer(*options)) as facts:
        yield facts


@pytest.mark.parametrize(
    ("override", "limit", "said"),
    [
        ("model/lora=vision", 1.0, "nothing is kept: the vision side trains (vision_model"),
        (HEAD_ONLY, 1e-6, "features.limit_gb is 1e-06; delete old folders there, or raise it"),
    ],
)
def test_off_is_said_in_one_line(
    override: str, limit: float, said: str, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, data = start(override)
    with told(FeatureCache(str(tmp_path / "features"), limit), policy, data) as facts:
        assert policy.features is None and facts["kept"] is None
        assert said in facts["why"]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features")]
    assert len(printed) == 1 and said in printed[0]
    assert not (tmp_path / "features").exists()


def test_other_stores_count_towards_the_limit(start: Start, tmp_path: Path) -> None:
    policy, data = start(HEAD_ONLY)
    folder = tmp_path / "features"
    (folder / "latents-old").mkdir(parents=True)
    (folder / "latents-old" / "values.bin").write_bytes(b"x" * 2_000_000)
    with told(FeatureCache(str(folder), 0.0021), policy, data):
        assert policy.features is not None  # 12 kB of states
    with told(FeatureCache(str(folder), 0.002), policy, data) as facts:
        assert policy.features is None and "0.0 GB of other features" in facts["why"]


def test_a_full_disk_is_found_before_the_training(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, data = start(HEAD_ONLY)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("src.model.features.cache.shutil.disk_usage", lambda path: usage)
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data) as facts:
        assert policy.features is None and "choose another features.folder" in facts["why"]


def test_an_augmentation_is_said_and_validation_still_keeps(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, data = start(HEAD_ONLY, "data/augmentation=default")
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data) as facts:
        assert policy.features is not None and not policy.features.in_training and not facts["in_training"]
    assert "off in training, for data.augmentation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paraphrase", "placement"), [("random", HEAD_ONLY), ("first", HEAD_ONLY), ("random", TEXT)]
)
def test_changing_wordings_are_said_where_they_matter(
    paraphrase: str, placement: str, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, data = start(placement, f"data.paraphrase={paraphrase}")
    episodes = data.episodes("train")
    episodes[0] = episodes[0].retold((*episodes[0].instructions, "drive to the box"))
    frames = sum(one.length for split in data.manifest()["splits"] for one in data.episodes(split))
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data) as facts:
        heard = placement == HEAD_ONLY
        assert (facts["rows"] > frames) is heard and facts["known_at_start"] == 0
    line = capsys.readouterr().out
    assert ("takes several epochs" in line) is (heard and paraphrase == "random")
    assert f"{facts['rows']:,} frames" in line and ", 0 of them known" in line


def test_without_the_node_nothing_is_kept(start: Start) -> None:
    policy, data = start(HEAD_ONLY)
    with attached(None, policy, data, trainer()) as facts:
        assert policy.features is None and facts["kept"] is None


def test_autocast_values_are_kept_as_they_are(start: Start, tmp_path: Path) -> None:
    policy, data = start("model/lora=text_attention")
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data, "bf16-mixed"):
        assert policy.features is not None
        kept = policy.features.store.dtype
        batch = next(iter(data.val_dataloader()))
        ids, mask = (one[batch.episode] for one in (batch.instruction_ids, batch.instruction_mask))
        with torch.autocast("cpu", torch.bfloat16):
            assert policy.lower(batch.frames, ids, mask).dtype == kept
            once, again = policy.eval().prediction(batch), policy.prediction(batch)
        assert torch.equal(once, again) and policy.features.store.known == len(batch.frames)


# ---- frames that stay in their files


def fill(policy: Policy, data: Any) -> list[torch.Tensor]:
    """Encode and keep every batch; what the policy makes of them."""
    assert all(batch.frames.shape[2:].numel() for batch in data.val_dataloader())
    found = []
    with torch.no_grad():
        for loader in (data.train_dataloader(), data.val_dataloader()):
            found += [policy.eval().prediction(batch) for batch in loader]
    return found


def sizes(loader: Any) -> set[int]:
    """Sides of the frames of all batches; 0: spared."""
    return {size for batch in loader for size in batch.frames.shape[2:]}


def test_spared_frames_are_as_good_as_read_ones_and_cannot_be_encoded(start: Start, tmp_path: Path) -> None:
    policy, data = start(HEAD_ONLY)
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data):
        right = fill(policy, data)
        spared = [*data.train_dataloader(), *data.val_dataloader()]
        for batch, expected in zip(spared, right, strict=True):
            batch.validate()
            assert batch.frames.shape == (len(batch.episode), 3, 0, 0)
            torch.testing.assert_close(policy.prediction(batch), expected)
        assert set(data.heaviest_batch().frames.shape[2:]) == {data.image_size}, "it is encoded, known or not"
        kept, policy.features = policy.features, None  # as Glance does
        assert sizes(data.val_dataloader()) == {data.image_size}
        with pytest.raises(RuntimeError, match="frames without pixels"):
            policy.prediction(spared[-1])
        policy.features = kept
        batch = copy.copy(spared[-1])
        batch.origin = None
        with pytest.raises(RuntimeError, match="frames without pixels"):
            policy.prediction(batch)
    assert sizes(data.train_dataloader()) == sizes(data.val_dataloader()) == {data.image_size}


def test_a_batch_with_one_unknown_or_damaged_row_has_all_its_frames(start: Start, tmp_path: Path) -> None:
    policy, data = start(HEAD_ONLY)
    features = FeatureCache(str(tmp_path / "features"), 1.0)
    with told(features, policy, data) as facts:
        right = fill(policy, data)[-1]
        *_, last = data.val_dataloader()
        row = int(last.origin[0] @ torch.tensor([policy.features.wordings, 1]))  # type: ignore[union-attr]
    values = Path(facts["folder"]) / "values.bin"
    content = bytearray(values.read_bytes())
    content[row * facts["row_bytes"]] ^= 1
    values.write_bytes(content)
    with told(features, policy, data):
        *_, batch = data.val_dataloader()
        assert set(batch.frames.shape[2:]) == {data.image_size}
        torch.testing.assert_close(policy.eval().prediction(batch), right)
        assert sizes(data.val_dataloader()) == {0}, "the row was made again"


@pytest.mark.parametrize(
    ("augmentation", "in_training"), [("default", {32}), ("mirror", {32}), ("none", {0})]
)
def test_augmented_training_always_reads_its_frames(
    augmentation: str, in_training: set[int], start: Start, tmp_path: Path
) -> None:
    policy, data = start(HEAD_ONLY, f"data/augmentation={augmentation}")
    with told(FeatureCache(str(tmp_path / "features"), 1.0), policy, data):
        policy.features.holds = lambda origin: True  # type: ignore[union-attr, method-assign]
        assert sizes(data.train_dataloader()) == in_training and sizes(data.val_dataloader()) == {0}


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ProjectError, match="features.limit_gb"):
        FeatureCache("anywhere", 0)
