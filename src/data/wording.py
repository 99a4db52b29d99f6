"""Owns the words of a run: which sentences the batches of each split can show.

In: where sentences come from (data.instruction), and the episodes of each split. Out: the phrasings of every episode,
and the proof that no wording that was to be held out is trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.data.episode import EpisodeFile
from src.data.instruction import InstructionSource, record, require_apart, words_hash
from src.data.mirror import mirror_text
from src.data.split import SPLITS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wording:
    """The chosen words.

    Attributes:
        episodes: per split, with the instructions of the run: first those that batches show, then other wordings.
        phrasings: per split and episode, what batches can show.
        mirrored: whether training episodes, and so their words, may be mirrored.
        source: where the sentences come from.
        from_file: how many episodes have the words of their file.
    """

    episodes: dict[str, list[EpisodeFile]]
    phrasings: dict[str, list[tuple[str, ...]]]
    mirrored: bool
    source: InstructionSource
    from_file: int

    def texts(self, split: str) -> set[str]:
        """Every sentence that batches of the split can show."""
        return {text for texts in self.phrasings[split] for text in self._shown(split, texts)}

    def _shown(self, split: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        """The sentences that batches of the split can show, for an episode with the phrasings `texts`."""
        if split == "train" and self.mirrored:
            return (*texts, *(mirror_text(text) for text in texts))
        return texts

    def require_apart(self) -> None:
        """Prove that held-out wording is not trained on.

        Raises:
            ProjectError: a sentence is trained on that was to be held out.
        """
        trained, shown = (
            {
                text: episode.id
                for name in names
                for episode, texts in zip(self.episodes[name], self.phrasings[name], strict=True)
                for text in self._shown(name, texts)
            }
            for names in (("train",), ("val", "test"))
        )
        require_apart(trained, shown, self.source)

    def facts(self) -> dict[str, Any]:
        """For the run record: the source, a hash of all words, and per split what is said."""
        return {
            **self.source.facts(),
            "hash": words_hash(
                (name, episode.id, texts)
                for name in SPLITS
                for episode, texts in zip(self.episodes[name], self.phrasings[name], strict=True)
            ),
            "episodes_worded_by_file": self.from_file,
            **{name: record(self.texts(name)) for name in SPLITS if self.episodes[name]},
        }


def choose_words(
    source: InstructionSource,
    episodes: Mapping[str, Sequence[EpisodeFile]],
    groups: Mapping[str, str],
    first_only: bool,
    mirrored: bool,
) -> Wording:
    """Let the source name the phrasings of every episode.

    Args:
        source: of the sentences.
        episodes: per split, those that the run uses.
        groups: episode id -> group of the split.
        first_only: batches show the first phrasing alone.
        mirrored: whether training episodes may be mirrored.

    Raises:
        ProjectError: a sentence is trained on that was to be held out.
    """
    spoken = 1 if first_only else None
    used = [episode for name in SPLITS for episode in episodes[name]]
    from_file = sum(source.from_file(episode) for episode in used)
    log.info("%d of %d episodes have the words of their file", from_file, len(used))
    phrasings = {name: [source.phrasings(one, name)[:spoken] for one in episodes[name]] for name in SPLITS}
    # Replaced copies, so that whoever reads instructions and groups reads those of the run.
    told = {
        name: [
            e.retold(tuple(dict.fromkeys((*shown, *source.wordings(e)))), groups[e.id])
            for e, shown in zip(episodes[name], phrasings[name], strict=True)
        ]
        for name in SPLITS
    }
    wording = Wording(told, phrasings, mirrored, source, from_file)
    wording.require_apart()
    return wording
