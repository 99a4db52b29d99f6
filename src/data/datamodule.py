"""Owns the data side of a run: from a folder (made on the spot if it can be) to train, val and test batches.

In: conf/data/*.yaml and, through `bind`, the tokeniser of the backbone. Out: `Batch` iterators that Lightning can stop
and resume anywhere, a fitted normaliser, and the facts about the data for the run record.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from src.core.errors import ProjectError
from src.core.files import exclusive
from src.data.actions import ActionSpace
from src.data.assemble import BatchAssembler, InstructionTable, Kept, Tokenize
from src.data.augment import Augmentation, augmented
from src.data.batch import Batch
from src.data.budget import Budget, checked, heaviest
from src.data.check.finding import refuse
from src.data.check.quick import quick_check
from src.data.episode import EpisodeFile
from src.data.frames import FrameStore
from src.data.instruction import FromFile, InstructionSource
from src.data.intake import take_in
from src.data.layouts import LabOptions
from src.data.loader import ResumableLoader
from src.data.mirror import mirror_signs
from src.data.normalizer import Normalizer
from src.data.sampler import EpisodeSampler, PlanSampler, Sampler
from src.data.split import SPLITS, Split, SplitMethod, load_or_make_split, take_episodes
from src.data.whole_files import State
from src.data.wording import Wording, choose_words

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
        split: who is in which part: fractions, folds or a left-out scenario.
        window: W, frames a sample sees (steps).
        horizon: H, actions a sample predicts (steps).
        image_size: side of the frames in a batch, in pixels.
        source: called with `root`: makes the data set if it is not there, and returns at once if it is;
            None expects it to be there.
        lab: how to read the lab's files; None for the project's own format.
        instruction: where the sentences come from and which of them are held out; None takes those of the files.
        paraphrase: wording of the instruction in training: "first" or "random" (another one each epoch).
        augmentation: what is changed in training; None leaves everything as recorded.
        train_episodes: use only so many training episodes, or (a float) such a share of them; None uses all.
        eval_episodes_per_batch: whole episodes per validation or test batch.
        on_bad_files: "error" stops at the first file that cannot be used; "skip" leaves such files out, and the run
            record lists them. A stored split stays as it is and goes without them.
        allow_mixed_sizes: accept frames of different native sizes, all squeezed to `image_size`.
        cache_dir: folder for resized frames; None puts it into the data folder.
        memory_limit_gb: frames held in memory at most, over all splits and workers.
        num_workers: processes that assemble batches.
        max_frames_per_batch: frames that are worked on at once, at least `window`; a batch of more goes through in
            parts, with the same result. "auto" leaves the number to `limit_frames`; None sets no limit.
        seed: of the order of the training samples and the choice of wording.
    """

    def __init__(
        self,
        root: str,
        action: ActionSpace,
        normalizer: Normalizer,
        sampler: Sampler,
        split: SplitMethod,
        window: int,
        horizon: int,
        image_size: int,
        source: Callable[[Path], Any] | None = None,
        lab: LabOptions | None = None,
        instruction: InstructionSource | None = None,
        paraphrase: str = "first",
        augmentation: Augmentation | None = None,
        train_episodes: int | float | None = None,
        eval_episodes_per_batch: int = 16,
        on_bad_files: Literal["error", "skip"] = "error",
        allow_mixed_sizes: bool = False,
        cache_dir: str | None = None,
        memory_limit_gb: float = 4.0,
        num_workers: int = 0,
        max_frames_per_batch: Budget = None,
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
        if isinstance(train_episodes, float) and not 0 < train_episodes <= 1:
            raise ProjectError(
                f"data.train_episodes is {train_episodes}; expected a whole number of episodes, or a share above 0 "
                "and up to 1.0."
            )
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
        self.instruction = instruction if instruction is not None else FromFile()
        self.paraphrase = paraphrase
        self.augmentation = augmentation if augmentation is not None else Augmentation()
        self.augmentation.check_size(image_size)
        self._signs = (
            mirror_signs(action, self.augmentation.mirror_axes) if self.augmentation.mirror > 0 else None
        )
        self.train_episodes = train_episodes
        self.eval_episodes_per_batch = eval_episodes_per_batch
        self.on_bad_files = on_bad_files
        self.allow_mixed_sizes = allow_mixed_sizes
        self.cache_dir = Path(cache_dir) if cache_dir is not None else self.root / ".frames"
        self.memory_limit_gb = memory_limit_gb
        self.num_workers = num_workers
        self.max_frames_per_batch = checked(max_frames_per_batch, window)
        self.max_frames: int | None = None if max_frames_per_batch == "auto" else max_frames_per_batch
        self.seed = seed
        self._tokenize: Tokenize | None = None
        self._split: Split | None = None
        self._left_out: dict[Path, str] = {}
        self._states: dict[Path, State] = {}
        self._episodes: dict[str, list[EpisodeFile]] = {}
        self._present: dict[str, int] = {}
        self._wording: Wording | None = None
        self._assemblers: dict[str, BatchAssembler] = {}
        self._first_frames: dict[str, int] = {}
        self._kept: dict[str, Kept] = {}

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
        """Open and check the episodes, resize their frames, split them, fit the normaliser; once."""
        if self._split is not None:
            return
        if self.source is not None and not (self.root / FINISHED).exists():
            raise ProjectError(
                f"data.root={self.root} holds no finished data set ({FINISHED} is missing); call prepare_data first."
            )
        taken = take_in(
            self.root,
            self.action_space,
            self.lab,
            self.instruction,
            self.image_size,
            self.cache_dir,
            self.on_bad_files == "skip",
            self.allow_mixed_sizes,
        )
        found, self._left_out, self._states = taken.episodes, taken.left_out, taken.states
        split = load_or_make_split(found, self.split_rule, self.root, taken.left_out)
        self._judge(found, split)
        by_id = {episode.id: episode for episode in found}
        firsts = np.cumsum([0, *(by_id[name].length for name in sorted(by_id))])
        self._first_frames = dict(zip(sorted(by_id), firsts.tolist(), strict=False))
        for name in SPLITS:
            members = [by_id[i] for i in split.members[name]]
            self._present[name] = sum(episode.length for episode in members)
            self._episodes[name] = members
        self._episodes["train"] = take_episodes(
            self._episodes["train"], self.train_episodes, self.split_rule.seed, split.groups
        )
        self.instruction.check(found)
        self._wording = choose_words(
            self.instruction,
            self._episodes,
            split.groups,
            self.paraphrase == "first",
            self._signs is not None,
        )
        self._episodes = self._wording.episodes
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

        Under the trainer's `overfit_batches` always the same batches in the same words, as recorded. Otherwise the
        frames still wait for their augmentation (`Batch.pending`), which `on_after_batch_transfer` carries out.
        """
        seed = None if self._overfits() else self.seed
        return self._loader("train", self.sampler, seed, self._progress)

    def val_dataloader(self) -> ResumableLoader:
        """Whole episodes in fixed order, never augmented; the wording is always the same (data.instruction)."""
        return self._loader("val", EpisodeSampler(self.eval_episodes_per_batch), None, None)

    def test_dataloader(self) -> ResumableLoader:
        """Whole episodes in fixed order, never augmented; the wording is always the same (data.instruction)."""
        return self._loader("test", EpisodeSampler(self.eval_episodes_per_batch), None, None)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copies from page-locked memory overlap with the work on a GPU; Lightning's own way waits for them."""
        return batch.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Carry the draws of a training batch out on its frames, on the device; Lightning calls it once per batch."""
        ready = augmented(batch)
        ready.max_frames = self.max_frames  # workers may have assembled it before the number was known
        return ready

    def limit_frames(self, most: int) -> None:
        """From now on batches of all splits have `most` frames worked on at once (see data.max_frames_per_batch)."""
        checked(most, self.window)
        self.max_frames = most
        for assembler in self._assemblers.values():
            assembler.max_frames = most

    def heaviest_batch(self) -> Batch:
        """The training batch of the first epoch with the most frames, in the longest words: what memory has to hold."""
        loader = self.train_dataloader()
        assert self._wording is not None
        assembler = copy.copy(
            self._assemblers["train"]
        )  # which spares no frames: nothing is known of this batch
        return heaviest(assembler, loader.plans, self._wording.texts("train"))

    def spare_frames(self, kept: Kept | None, splits: Sequence[str] = ()) -> None:
        """From now on batches of `splits` are without pixels (`Batch.frames`) where `kept` says so; None: none are."""
        self._kept = {} if kept is None else dict.fromkeys(splits, kept)
        for name, assembler in self._assemblers.items():
            assembler.kept = self._kept.get(name)

    def episodes(self, split: str) -> list[EpisodeFile]:
        """The episodes of "train", "val" or "test" that this run uses.

        Their `instructions` are the run's: first those that the split's batches show, then the other wordings. Their
        `group` is the split's: that of the file, joined with those of near-duplicates.
        """
        if self._split is None:
            raise RuntimeError("setup() has to run before the episodes are known")
        if split not in SPLITS:
            raise ProjectError(f"there is no split {split!r}; expected one of {list(SPLITS)}.")
        return self._episodes[split]

    def training_actions(self) -> np.ndarray:
        """(n, A) float32 in SI units, every action of the training split that this run uses.

        With an augmentation that mirrors, the mirrored actions follow: a policy is trained on both, and limits or
        bins fitted to one side alone could not express the other.
        """
        actions = np.concatenate([episode.actions for episode in self.episodes("train")])
        return actions if self._signs is None else np.concatenate([actions, actions * self._signs])

    def manifest(self) -> dict[str, Any]:
        """Facts for the run record: hashes of data and split, and per split how much of it is used."""
        if self._split is None or self._wording is None:
            raise RuntimeError("setup() has to run before the manifest is known")
        return {
            "root": str(self.root),
            "data_hash": self._split.data_hash,
            "split_hash": self._split.split_hash,
            "split_file": str(self.split_rule.file(self.root)),
            "splits": {
                name: {
                    "episodes": len(self._episodes[name]),
                    "groups": len({self._split.groups[episode.id] for episode in self._episodes[name]}),
                    "frames_used": self._used(name),
                    "frames_present": self._present[name],
                }
                for name in SPLITS
            },
            "notes": list(self._split.notes),
            "left_out": [{"file": str(p), "reason": why} for p, why in self._left_out.items()],
            "train_episodes": self.train_episodes,
            "instruction": {"paraphrase": self.paraphrase, **self._wording.facts()},
            "augmentation": self.augmentation.facts(),
            "from_file_name": sorted({f for e in self._episodes["train"] for f in e.meta.from_name}),
        }

    def _judge(self, found: list[EpisodeFile], split: Split) -> None:
        """The quick part of the dataset check (python -m src.check_data); an error stops here."""
        findings = quick_check(
            found, self.action_space, self.root, split.members, allow_mixed_sizes=self.allow_mixed_sizes
        )
        for finding in findings:
            level = logging.INFO if finding.severity == "note" else logging.WARNING
            log.log(level, "%s: %s; %s", finding.code, finding.reason, finding.advice)
        refuse(findings, self.root)

    def _used(self, name: str) -> int:
        # Every frame is a sample, see windows.py.
        return sum(episode.length for episode in self._episodes[name])

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
        # Several processes share the training; every one of them sees the whole validation, so its figures are those
        # of one process to the last bit and all of them decide alike what is best and when to stop.
        lengths = [episode.length for episode in episodes]
        plans = PlanSampler(rule, lengths, seed, shared=name == "train")
        return ResumableLoader(
            self._assemblers[name], plans, self.num_workers, torch.cuda.is_available(), progress
        )

    def _assembler(self, name: str, episodes: list[EpisodeFile]) -> BatchAssembler:
        if self._tokenize is None or self._wording is None:
            raise RuntimeError("bind(tokenize) has to be called before batches are asked for")
        fresh = name == "train" and not self._overfits()  # another wording and look in every epoch
        if name == "train" and self._overfits() and self.augmentation.active:
            log.info("data.augmentation is not used while the trainer overfits a few batches")
        total = sum(self._used(split) for split in SPLITS)
        limit = self.memory_limit_gb * self._used(name) / total / max(1, self.num_workers)
        states = [self._states[episode.path] for episode in episodes]
        return BatchAssembler(
            episodes,
            FrameStore(episodes, self.image_size, self.cache_dir, limit, states),
            InstructionTable(self._tokenize, self._wording.texts(name)),
            self.window,
            self.horizon,
            self.paraphrase if fresh else "first",
            self.seed,
            self._wording.phrasings[name],
            self.augmentation if fresh else None,
            self._signs,
            [self._first_frames[episode.id] for episode in episodes],
            self.max_frames,
            self._kept.get(name),
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
