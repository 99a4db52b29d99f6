"""Owns the data side of a run: from a folder (made on the spot if it can be) to train, val and test batches.

In: conf/data/*.yaml and, through `bind`, the tokeniser of the backbone. Out: `Batch` iterators that Lightning can stop
and resume anywhere, a fitted normaliser, and the facts about the data for the run record.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from src.core.errors import ProjectError
from src.core.files import exclusive
from src.data.actions import ActionSpace
from src.data.assemble import BatchAssembler, InstructionTable, Tokenize
from src.data.episode import EpisodeFile
from src.data.frames import FrameStore
from src.data.layouts import LabOptions
from src.data.loader import ResumableLoader
from src.data.normalizer import Normalizer
from src.data.sampler import EpisodeSampler, PlanSampler, Sampler
from src.data.scan import scan
from src.data.split import SPLITS, Split, SplitRule, load_or_make_split, take_episodes

log = logging.getLogger(__name__)

FINISHED = "dataset.json"
"""The file that a source writes last; a folder without it is not a finished data set."""


class EpisodeDataModule(lightning.LightningDataModule):
    """Episodes of one folder as batches.

    Args:
        root: folder of the HDF5 episodes.
        action: what the axes of an action are.
        normalizer: fitted here on the training split; the policy keeps it.
        sampler: which samples form a training batch.
        split: fractions, seed and file of the split.
        window: W, frames a sample sees (steps).
        horizon: H, actions a sample predicts (steps).
        image_size: side of the frames in a batch, in pixels.
        source: called with `root`: makes the data set if it is not there, and returns at once if it is;
            None expects it to be there.
        lab: how to read the lab's files; None for the project's own format.
        paraphrase: wording of the instruction in training: "first" or "random" (another one each epoch).
        train_episodes: use only so many training episodes; None uses all.
        eval_episodes_per_batch: whole episodes per validation or test batch.
        allow_mixed_sizes: accept frames of different native sizes, all squeezed to `image_size`.
        cache_dir: folder for resized frames; None puts it into the data folder.
        memory_limit_gb: frames held in memory at most, over all splits and workers.
        num_workers: processes that assemble batches.
        seed: of the order of the training samples and the choice of wording.
    """

    def __init__(
        self,
        root: str,
        action: ActionSpace,
        normalizer: Normalizer,
        sampler: Sampler,
        split: SplitRule,
        window: int,
        horizon: int,
        image_size: int,
        source: Callable[[Path], Any] | None = None,
        lab: LabOptions | None = None,
        paraphrase: str = "first",
        train_episodes: int | None = None,
        eval_episodes_per_batch: int = 16,
        allow_mixed_sizes: bool = False,
        cache_dir: str | None = None,
        memory_limit_gb: float = 4.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for key, value, least in (
            ("window", window, 1),
            ("horizon", horizon, 1),
            ("image_size", image_size, 1),
            ("eval_episodes_per_batch", eval_episodes_per_batch, 1),
            ("memory_limit_gb", memory_limit_gb, 0),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ProjectError(f"data.{key} is {value}; expected {least} or more.")
        if paraphrase not in ("first", "random"):
            raise ProjectError(f"data.paraphrase is {paraphrase!r}; expected 'first' or 'random'.")
        self.root = Path(root)
        self.action_space = action
        self.normalizer = normalizer
        self.sampler = sampler
        self.split_rule = split
        self.window = window
        self.horizon = horizon
        self.image_size = image_size
        self.source = source
        self.lab = lab
        self.paraphrase = paraphrase
        self.train_episodes = train_episodes
        self.eval_episodes_per_batch = eval_episodes_per_batch
        self.allow_mixed_sizes = allow_mixed_sizes
        self.cache_dir = Path(cache_dir) if cache_dir is not None else self.root / ".frames"
        self.memory_limit_gb = memory_limit_gb
        self.num_workers = num_workers
        self.seed = seed
        self._tokenize: Tokenize | None = None
        self._split: Split | None = None
        self._episodes: dict[str, list[EpisodeFile]] = {}
        self._present: dict[str, int] = {}
        self._assemblers: dict[str, BatchAssembler] = {}

    def bind(self, tokenize: Tokenize) -> None:
        """Give the tokeniser: sentences -> ids (E, L) int64 and mask (E, L) bool. Needed before any loader."""
        self._tokenize = tokenize
        self._assemblers.clear()

    def prepare_data(self) -> None:
        """Let the source make the data set, or confirm the one that is there. Lightning calls this in one process only.

        The source is called every time: it alone can tell that the folder was made with other settings.
        """
        if self.source is None:
            return
        with exclusive(self.root):  # the arms of a sweep may start together
            if not (self.root / FINISHED).exists():
                log.info("no finished data set in %s yet, making it", self.root)
            try:
                self.source(self.root)
            except ProjectError as error:
                raise ProjectError(f"data.source, with data.root as its folder: {error}") from error
        if not (self.root / FINISHED).exists():
            raise ProjectError(
                f"data.source ran, but left no {FINISHED} in data.root={self.root}; check data.source."
            )

    def setup(self, stage: str | None = None) -> None:
        """Open and check the episodes, split them, fit the normaliser. The second call does nothing."""
        if self._split is not None:
            return
        if self.source is not None and not (self.root / FINISHED).exists():
            raise ProjectError(
                f"data.root={self.root} holds no finished data set ({FINISHED} is missing); call prepare_data first."
            )
        found = scan(self.root, self.action_space, self.lab, self.allow_mixed_sizes)
        split = load_or_make_split(found, self.split_rule, self.root)
        by_id = {episode.id: episode for episode in found}
        for name in SPLITS:
            members = [by_id[i] for i in split.members[name]]
            self._present[name] = sum(episode.length for episode in members)
            self._episodes[name] = members
        self._episodes["train"] = take_episodes(
            self._episodes["train"], self.train_episodes, self.split_rule.seed
        )
        self._split = split
        self.normalizer.fit(self.training_actions())
        for name in SPLITS:
            episodes, used = self._episodes[name], self._used(name)
            share = 100 * used / self._present[name] if self._present[name] else 0.0
            log.info(
                "%s: %d episodes, %d of %d frames used (%.1f %%)",
                name, len(episodes), used, self._present[name], share,
            )  # fmt: skip

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled by (seed, epoch); stops and resumes after any batch.

        Under the trainer's `overfit_batches` always the same batches in the same words.
        """
        seed = None if self._overfits() else self.seed
        return self._loader("train", self.sampler, seed, self._progress)

    def val_dataloader(self) -> ResumableLoader:
        """Whole episodes in fixed order, canonical instruction."""
        return self._loader("val", EpisodeSampler(self.eval_episodes_per_batch), None, None)

    def test_dataloader(self) -> ResumableLoader:
        """Whole episodes in fixed order, canonical instruction."""
        return self._loader("test", EpisodeSampler(self.eval_episodes_per_batch), None, None)

    def episodes(self, split: str) -> list[EpisodeFile]:
        """The episodes of "train", "val" or "test" that this run uses."""
        if self._split is None:
            raise RuntimeError("setup() has to run before the episodes are known")
        if split not in SPLITS:
            raise ProjectError(f"there is no split {split!r}; expected one of {list(SPLITS)}.")
        return self._episodes[split]

    def training_actions(self) -> np.ndarray:
        """(n, A) float32 in SI units, every action of the training split that this run uses."""
        return np.concatenate([episode.actions for episode in self.episodes("train")])

    def manifest(self) -> dict[str, Any]:
        """Facts for the run record: hashes of data and split, and per split how much of it is used."""
        if self._split is None:
            raise RuntimeError("setup() has to run before the manifest is known")
        return {
            "root": str(self.root),
            "data_hash": self._split.data_hash,
            "split_hash": self._split.split_hash,
            "split_file": str(self.split_rule.file(self.root)),
            "splits": {
                name: {
                    "episodes": len(self._episodes[name]),
                    "groups": len({episode.group for episode in self._episodes[name]}),
                    "frames_used": self._used(name),
                    "frames_present": self._present[name],
                }
                for name in SPLITS
            },
            "from_file_name": sorted({f for e in self._episodes["train"] for f in e.meta.from_name}),
        }

    def _used(self, name: str) -> int:
        return sum(
            episode.length for episode in self._episodes[name]
        )  # every frame is a sample, see windows.py

    def _loader(
        self,
        name: str,
        rule: Sampler,
        seed: int | None,
        progress: Callable[[], tuple[int, int] | None] | None,
    ) -> ResumableLoader:
        episodes = self.episodes(name)
        if not episodes:
            raise ProjectError(
                f"the {name} split is empty because data.split.{name} is 0; set a fraction above 0, or do not "
                f"ask for {name} batches."
            )
        if name not in self._assemblers:
            self._assemblers[name] = self._assembler(name, episodes)
        plans = PlanSampler(rule, [episode.length for episode in episodes], seed)
        return ResumableLoader(
            self._assemblers[name], plans, self.num_workers, torch.cuda.is_available(), progress
        )

    def _assembler(self, name: str, episodes: list[EpisodeFile]) -> BatchAssembler:
        if self._tokenize is None:
            raise RuntimeError("bind(tokenize) has to be called before batches are asked for")
        paraphrase = self.paraphrase if name == "train" and not self._overfits() else "first"
        texts = [text for episode in episodes for text in episode.instructions]
        total = sum(self._used(split) for split in SPLITS)
        limit = self.memory_limit_gb * self._used(name) / total / max(1, self.num_workers)
        return BatchAssembler(
            episodes,
            FrameStore(episodes, self.image_size, self.cache_dir, limit),
            InstructionTable(self._tokenize, texts),
            self.window,
            self.horizon,
            paraphrase,
            self.seed,
        )

    def _progress(self) -> tuple[int, int] | None:
        """The epoch, and how many of its batches have had their whole step, while the trainer fits."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return None
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return self.trainer.current_epoch, int(batches.processed)  # type: ignore[attr-defined]  # a subclass has it

    def _overfits(self) -> bool:
        # Lightning sets this attribute in a helper, where type checkers do not see it.
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
