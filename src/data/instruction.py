"""Owns the words: which sentences describe an episode, which of them training may see, and which validation shows.

In: episode files, and a source of phrasings from conf/data/instruction. Out: per episode and split a tuple of
phrasings; facts for the run record. A source never invents a sentence: an episode without one is an error.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from src.core.errors import ProjectError
from src.data.episode import EpisodeFile
from src.data.manifest import table_hash
from src.data.split_rules import shuffle_key

EVALUATE_ON = ("canonical", "held_out")
_LISTED = 64
"""Sentences written out in the run record; the hash covers all of them."""


class InstructionSource(ABC):
    """Where the sentences of an episode come from.

    Args:
        held_out: phrasings that training never sees: a number holds out the last ones of every list, a list of
            patterns (`*` any text, `?` one character) holds out every sentence that matches one of them.
        evaluate_on: what validation and test batches show. "canonical": the first phrasing that is not held out,
            so a validation loss judges driving alone. "held_out": one of the held-out phrasings, always the same
            for an episode and spread over the episodes, so it judges driving under wording never trained on.
    """

    def __init__(self, held_out: int | Sequence[str], evaluate_on: str) -> None:
        if evaluate_on not in EVALUATE_ON:
            raise ProjectError(
                f"data.instruction.evaluate_on is {evaluate_on!r}; expected one of {list(EVALUATE_ON)}."
            )
        if isinstance(held_out, int) and held_out < 0:
            raise ProjectError(f"data.instruction.held_out is {held_out}; expected 0 or more phrasings.")
        if evaluate_on == "held_out" and not held_out:
            raise ProjectError(
                "data.instruction.evaluate_on is held_out, but data.instruction.held_out holds out nothing; give a "
                "number or patterns, or evaluate on the canonical phrasing."
            )
        self.held_out = held_out if isinstance(held_out, int) else tuple(held_out)
        self.evaluate_on = evaluate_on

    @property
    @abstractmethod
    def name(self) -> str:
        """Where the sentences come from, for error sentences and the run record."""

    @abstractmethod
    def from_file(self, episode: EpisodeFile) -> bool:
        """Whether the sentences of the episode are those that its file holds."""

    @abstractmethod
    def wordings(self, episode: EpisodeFile) -> tuple[str, ...]:
        """Every phrasing of the episode, held out or not, the canonical one first; a ProjectError if there is none."""

    def phrasings(self, episode: EpisodeFile, split: str) -> tuple[str, ...]:
        """The sentences that may stand for `episode` in "train", "val" or "test"; at least one.

        Training gets what is not held out, canonical first. Validation and test get exactly one, see `evaluate_on`.

        Raises:
            ProjectError: nothing is left to train on, nothing is held out of this episode to evaluate on, or a number
                would count sentences of a file, which may stand in any order.
        """
        texts = self.wordings(episode)
        if isinstance(self.held_out, int) and self.held_out and self.from_file(episode):
            raise ProjectError(
                f"data.instruction.held_out={self.held_out} counts phrasings of {self.name}, but {episode.path} has "
                "its own, in any order; give patterns, or set data.instruction.prefer_file=false."
            )
        hidden = self._hidden(texts)
        open_ones = tuple(text for text in texts if text not in hidden)
        if not open_ones:
            raise ProjectError(
                f"data.instruction.held_out={_plain(self.held_out)} holds out all {len(texts)} phrasings that "
                f"{self.name} has for scenario {episode.scenario!r} of {episode.path}; hold out fewer, or add some."
            )
        if split == "train":
            return open_ones
        if self.evaluate_on == "canonical":
            return open_ones[:1]
        if not hidden:
            raise ProjectError(
                f"data.instruction.evaluate_on is held_out, but data.instruction.held_out="
                f"{_plain(self.held_out)} matches no phrasing that {self.name} has for scenario "
                f"{episode.scenario!r} of {episode.path}; hold out one, or evaluate on the canonical phrasing."
            )
        return (hidden[int(shuffle_key(0, episode.id)[:15], 16) % len(hidden)],)

    def holds_out(self, text: str) -> str:
        """What keeps the sentence `text` out of training, for error sentences; "" where nothing does."""
        if isinstance(self.held_out, int):
            return ""
        return next((f"pattern {one!r}" for one in self.held_out if fnmatchcase(text, one)), "")

    def check(self, episodes: Iterable[EpisodeFile]) -> None:
        """Raise a ProjectError if a pattern of `held_out` matches no sentence of these episodes."""
        if isinstance(self.held_out, int):
            return
        texts = {text for episode in episodes for text in self.wordings(episode)}
        for pattern in self.held_out:
            if not any(fnmatchcase(text, pattern) for text in texts):
                raise ProjectError(
                    f"data.instruction.held_out has the pattern {pattern!r}, which matches none of the {len(texts)} "
                    f"sentences of {self.name}, e.g. {min(texts)!r}; mend the pattern or remove it."
                )

    def facts(self) -> dict[str, Any]:
        """The settings, for the run record."""
        held_out = self.held_out if isinstance(self.held_out, int) else list(self.held_out)
        return {"source": self.name, "held_out": held_out, "evaluate_on": self.evaluate_on}

    def _hidden(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        if isinstance(self.held_out, int):
            return texts[len(texts) - self.held_out :] if self.held_out < len(texts) else texts
        return tuple(text for text in texts if any(fnmatchcase(text, one) for one in self.held_out))


class FromFile(InstructionSource):
    """What the episode file holds: its first sentence is canonical, the others say the same in other words.

    Args:
        held_out: patterns, see `InstructionSource`. No number, because files may list their phrasings in any order:
            the last one of this file may be the first one of that.
        evaluate_on: see `InstructionSource`.
    """

    def __init__(self, held_out: Sequence[str] = (), evaluate_on: str = "canonical") -> None:
        super().__init__(held_out, evaluate_on)

    @property
    def name(self) -> str:
        """The files themselves."""
        return "the episode file"

    def from_file(self, episode: EpisodeFile) -> bool:
        """Always."""
        return True

    def wordings(self, episode: EpisodeFile) -> tuple[str, ...]:
        """The file's sentences."""
        if not episode.instructions:
            raise ProjectError(
                f"{episode.path} (scenario {episode.scenario!r}) holds no instruction, and data.instruction is "
                "from_file; choose a map of sentences, e.g. data/instruction=lab_en."
            )
        return tuple(dict.fromkeys(episode.instructions))


class ScenarioMap(InstructionSource):
    """Sentences per scenario from a YAML of conf/data/instruction.

    Args:
        origin: the YAML, for error sentences and the run record.
        scenarios: scenario -> a sentence or a list of them, the canonical one first.
        held_out, evaluate_on: see `InstructionSource`.
        prefer_file: true takes the file's own sentences where it has any, and the map for the others; false takes the
            map for all, whatever the files hold.
    """

    def __init__(
        self,
        origin: str,
        scenarios: Mapping[str, Any],
        held_out: int | Sequence[str] = 0,
        evaluate_on: str = "canonical",
        prefer_file: bool = False,
    ) -> None:
        super().__init__(held_out, evaluate_on)
        self.origin = origin
        self.prefer_file = prefer_file
        self.scenarios = {
            str(name): _sentences(str(name), value, origin) for name, value in scenarios.items()
        }

    @property
    def name(self) -> str:
        """The YAML."""
        return self.origin

    def from_file(self, episode: EpisodeFile) -> bool:
        """Where it has any and they are preferred."""
        return self.prefer_file and bool(episode.instructions)

    def wordings(self, episode: EpisodeFile) -> tuple[str, ...]:
        """The sentences of the episode's scenario."""
        if self.from_file(episode):
            return tuple(dict.fromkeys(episode.instructions))
        texts = self.scenarios.get(episode.scenario)
        if texts is None:
            raise ProjectError(
                f"{self.origin} has no entry for scenario {episode.scenario!r} of {episode.path} (it has "
                f"{sorted(self.scenarios)}); add a sentence under data.instruction.scenarios."
            )
        return texts

    def holds_out(self, text: str) -> str:
        """By a pattern, or among the last ones of some scenario's list, whether or not the data have that scenario."""
        if not isinstance(self.held_out, int):
            return super().holds_out(text)
        found = (name for name, texts in sorted(self.scenarios.items()) if text in self._hidden(texts))
        return next((f"scenario {name!r}" for name in found), "")

    def facts(self) -> dict[str, Any]:
        """The settings, for the run record."""
        return {**super().facts(), "prefer_file": self.prefer_file}


def require_apart(trained: Mapping[str, str], shown: Mapping[str, str], source: InstructionSource) -> None:
    """Raise a ProjectError if training would show a sentence that is held out, whatever is evaluated.

    Two scenarios may share a sentence, or a mirrored sentence may be another one's held-out sentence. Also where
    validation shows the canonical phrasings, a later evaluation on the held-out ones would be about wording that was
    trained on after all.

    Args:
        trained, shown: sentence -> id of an episode that has it, in training (mirrored sentences included), and in
            validation or test.
        source: says which sentences it holds out.
    """
    both = [text for text in sorted(trained) if source.holds_out(text)]
    if both:
        # One that is evaluated as well is the better example.
        text = next((text for text in both if text in shown), both[0])
        also = f", shown to {shown[text]}" if text in shown else ""
        raise ProjectError(
            f"data.instruction.held_out={_plain(source.held_out)} lets {len(both)} sentence(s) of {source.name} be "
            f"both trained on and held out, e.g. {text!r} (in training for {trained[text]}, held out by "
            f"{source.holds_out(text)}{also}); hold out the same wording everywhere, mirrored wording included "
            "(data.augmentation.mirror)."
        )


def record(texts: Iterable[str]) -> dict[str, Any]:
    """Sentences for the run record: how many, a hash of all, and the first ones in order of the alphabet."""
    unique = sorted(set(texts))
    digest = hashlib.sha256(json.dumps(unique, ensure_ascii=False).encode()).hexdigest()[:16]
    return {"sentences": len(unique), "hash": digest, "first": unique[:_LISTED]}


def words_hash(told: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """A fingerprint (16 hex digits) of who is told what, from (split, episode id, phrasings), in any order.

    `record` knows the sentences alone; this one also tells when two episodes have exchanged theirs.
    """
    return table_hash({f"{split}/{episode}": list(texts) for split, episode, texts in told})


def _sentences(scenario: str, value: Any, origin: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value or ())
    good = all(isinstance(text, str) and text.strip() for text in texts)
    if not texts or not good or len(set(texts)) < len(texts):
        raise ProjectError(
            f"{origin}: data.instruction.scenarios.{scenario} is {value!r}; expected a sentence, or a list of "
            "different sentences."
        )
    return texts


def _plain(held_out: int | Sequence[str]) -> str:
    return str(held_out if isinstance(held_out, int) else list(held_out))
