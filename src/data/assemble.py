"""Owns turning a plan (which samples) into a packed `Batch` (which frames, once each, and where the windows point).

In: plans, episode files, a frame store, a table of tokenised instructions, and in training an augmentation. Out:
batches. The same code serves every sampler, so the packing cannot differ between them. Wording and augmentation of an
episode are functions of (seed, epoch, episode id), so a resumed run draws what the stopped one would have drawn.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.core.errors import ProjectError
from src.data.augment import Augmentation
from src.data.batch import PADDING, Batch
from src.data.episode import EpisodeFile
from src.data.frames import FrameStore
from src.data.mirror import mirror_text
from src.data.sampler import Plan
from src.data.split import shuffle_key
from src.data.windows import future, history

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Instructions -> ids (E, L) int64 and mask (E, L) bool, right-padded."""

Kept = Callable[[Tensor], bool]
"""`Batch.origin` -> whether what is made of all these frames is kept already (src/model/features)."""

_TEXTS_AT_ONCE = 1024


class InstructionTable:
    """Every instruction tokenised once.

    Args:
        tokenize: the backbone's tokeniser.
        texts: all instructions that may be asked for.
    """

    def __init__(self, tokenize: Tokenize, texts: Iterable[str]) -> None:
        unique = sorted(set(texts))
        self._ids: dict[str, Tensor] = {}
        self._padding = 0
        for first in range(0, len(unique), _TEXTS_AT_ONCE):
            part = unique[first : first + _TEXTS_AT_ONCE]
            ids, mask = tokenize(part)
            if ids.shape != mask.shape or len(ids) != len(part) or bool((mask[:, 1:] > mask[:, :-1]).any()):
                raise ProjectError(
                    f"the tokeniser returned ids {tuple(ids.shape)} and mask {tuple(mask.shape)} for {len(part)} "
                    "sentences; expected two (E, L) tensors padded on the right only."
                )
            if not bool(mask.all()):
                self._padding = int(ids[~mask][0])
            for text, row, length in zip(part, ids.cpu(), mask.sum(dim=1).tolist(), strict=True):
                self._ids[text] = row[:length].to(torch.int64).clone()

    def rows(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(E, L) int64 ids and (E, L) bool mask, L being the longest of these texts."""
        found = [self._ids[text] for text in texts]
        length = max(len(ids) for ids in found)
        ids = torch.full((len(found), length), self._padding, dtype=torch.int64)
        mask = torch.zeros((len(found), length), dtype=torch.bool)
        for row, tokens in enumerate(found):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask


class BatchAssembler(Dataset[Batch]):
    """Maps a plan to a batch.

    Args:
        episodes: the files; a row is an index into this list.
        frames: the frames of the same files.
        table: their phrasings, tokenised, and the mirrored ones too where episodes may be mirrored.
        window, horizon: W and H in steps.
        paraphrase: "first" always takes the first phrasing, "random" another one each epoch.
        seed: of that choice and of the augmentation.
        phrasings: per episode the sentences it may have, at least one; None takes those of the files.
        augmentation: drawn for each episode and epoch; words and actions are mirrored here, frames are left to
            `augmented`. None leaves everything as recorded.
        signs: (A,) -1 for the axes that change sign in a mirror, else 1; needed if episodes may be mirrored.
        first_frames: per episode the number of its first frame among all frames of the data set, for `Batch.origin`;
            None leaves that out.
        max_frames: for `Batch.max_frames`.
        kept: tells batches whose frames nobody will look at; they stay in their files, and `Batch.frames` is
            (N, 3, 0, 0), of which no model can make anything. None: all are read.
    """

    def __init__(
        self,
        episodes: Sequence[EpisodeFile],
        frames: FrameStore,
        table: InstructionTable,
        window: int,
        horizon: int,
        paraphrase: str,
        seed: int,
        phrasings: Sequence[tuple[str, ...]] | None = None,
        augmentation: Augmentation | None = None,
        signs: np.ndarray | None = None,
        first_frames: Sequence[int] | None = None,
        max_frames: int | None = None,
        kept: Kept | None = None,
    ) -> None:
        if augmentation is not None and augmentation.mirror > 0 and signs is None:
            raise ValueError("an augmentation that mirrors needs the signs of the axes")
        self.frames = frames
        self.table = table
        self.window = window
        self.horizon = horizon
        self.paraphrase = paraphrase
        self.seed = seed
        self.ids = [episode.id for episode in episodes]
        self.phrasings = (
            [episode.instructions for episode in episodes] if phrasings is None else list(phrasings)
        )
        self.augmentation = augmentation if augmentation is not None and augmentation.active else None
        self.signs = signs
        self.first_frames = None if first_frames is None else np.array(first_frames, np.int64)
        self.max_frames = max_frames
        self.kept = kept
        self.lengths = np.array([episode.length for episode in episodes], np.int64)
        # One long tape of all episodes: a frame is `offset[row] + t`, so a whole batch is plain index arithmetic.
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float32)

    def __getitem__(self, plan: Plan) -> Batch:
        """The batch of `plan`; see `Batch` for the shapes."""
        rows, steps = plan.rows, plan.steps
        start = self.offsets[rows][:, None]
        past = history(steps, self.window)
        tape = np.where(past >= 0, start + past, -1)
        distinct = np.unique(tape[tape >= 0])
        windows = np.where(tape >= 0, np.searchsorted(distinct, tape), PADDING)
        frame_rows = np.searchsorted(self.offsets, distinct, side="right") - 1
        batch_rows, episode = np.unique(frame_rows, return_inverse=True)
        ids, mask = self.table.rows([self.instruction(int(row), plan.epoch) for row in batch_rows])
        mirrored, colour, view = self._draws(batch_rows, plan.epoch)
        ahead, valid = future(steps, self.lengths[rows], self.horizon)
        actions = self.actions[start + ahead]
        if mirrored is not None and self.signs is not None:
            flipped = mirrored.numpy()[np.searchsorted(batch_rows, rows)]
            actions[flipped] *= self.signs
        actions[~valid] = 0.0
        origin = self._origin(frame_rows, distinct, plan.epoch)
        return Batch(
            frames=self._frames(batch_rows, frame_rows, distinct, self._spares(origin)),
            episode=torch.from_numpy(episode.astype(np.int64)),
            instruction_ids=ids,
            instruction_mask=mask,
            windows=torch.from_numpy(windows),
            actions=torch.from_numpy(actions),
            action_mask=torch.from_numpy(valid),
            keys=[(self.ids[row], step) for row, step in zip(rows.tolist(), steps.tolist(), strict=True)],
            mirrored=mirrored,
            colour=colour,
            view=view,
            origin=origin,
            max_frames=self.max_frames,
        )

    def instruction(self, row: int, epoch: int) -> str:
        """The wording that episode `row` has in `epoch`, mirrored if the episode is."""
        text = self.phrasings[row][self.wording(row, epoch)]
        augmentation = self.augmentation
        if augmentation is not None and augmentation.mirrored(self.seed, epoch, self.ids[row]):
            text = mirror_text(text)
        return text

    def wording(self, row: int, epoch: int) -> int:
        """Which of its phrasings episode `row` has in `epoch`."""
        if self.paraphrase == "first":
            return 0
        return int(shuffle_key(self.seed, f"{epoch}:{self.ids[row]}")[:15], 16) % len(self.phrasings[row])

    def _origin(self, frame_rows: np.ndarray, distinct: np.ndarray, epoch: int) -> Tensor | None:
        """`Batch.origin` of the frames `distinct` (numbers on this tape) of the episodes `frame_rows`."""
        if self.first_frames is None:
            return None
        rows, at = np.unique(frame_rows, return_inverse=True)
        wordings = np.array([self.wording(int(row), epoch) for row in rows], np.int64)[at]
        number = self.first_frames[frame_rows] + distinct - self.offsets[frame_rows]
        return torch.from_numpy(np.stack([number, wordings], axis=1))

    def _draws(
        self, batch_rows: np.ndarray, epoch: int
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """`mirrored`, `colour` and `view` of the batch."""
        if self.augmentation is None:
            return None, None, None
        names = [self.ids[row] for row in batch_rows.tolist()]
        return self.augmentation.draw(self.seed, epoch, names, self.frames.image_size)

    def _spares(self, origin: Tensor | None) -> bool:
        """Whether the frames of this batch can stay in their files."""
        return (
            self.kept is not None and self.augmentation is None and origin is not None and self.kept(origin)
        )

    def __getstate__(self) -> dict[str, object]:
        # A copy, as a spawned worker gets one, cannot ask the policy, so it reads all frames; a forked one can.
        return {**self.__dict__, "kept": None}

    def _frames(
        self, batch_rows: np.ndarray, frame_rows: np.ndarray, distinct: np.ndarray, spared: bool
    ) -> Tensor:
        # Not grey but of no size where they are spared: whoever encodes them all the same is stopped.
        size = 0 if spared else self.frames.image_size
        out = torch.empty((len(distinct), 3, size, size), dtype=torch.uint8)
        if spared:
            return out
        bounds = np.append(np.searchsorted(frame_rows, batch_rows), len(distinct))
        for row, first, last in zip(batch_rows.tolist(), bounds[:-1], bounds[1:], strict=True):
            self.frames.copy_into(out[first:last], row, distinct[first:last] - self.offsets[row])
        return out
