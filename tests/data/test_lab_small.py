"""The sentences for the shipped small model: it reads every one in whole words, for every scenario of the lab."""

from functools import cache
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.data.check.instructions import motion_by_motion
from src.data.instruction import ScenarioMap
from src.data.mirror import mirror_text
from src.model.backbone.convnet import ConvNetBackbone
from tests.data.test_instruction import SCENARIOS, the_map


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained("assets/kosmos2_tiny")


def spelled(text: str) -> list[str]:
    """The tokens of a sentence that are no whole word and no comma: letters, and what the model cannot read."""
    tokens = tokenizer().tokenize(text)
    return [token for token in tokens if token != "," and not (token.startswith("▁") and len(token) > 1)]


def test_the_small_model_reads_every_sentence_in_whole_words() -> None:
    texts = [text for phrasings in the_map("small").values() for text in phrasings]
    for text in texts:
        assert spelled(text) == [], text
        assert tokenizer().unk_token_id not in tokenizer()(text)["input_ids"]
    # The measure itself: words that the small model spells or cannot read are seen.
    assert spelled("go to the target") and spelled("Drive past the box")


def test_every_scenario_has_eight_sentences_that_say_its_sides_and_nothing_else() -> None:
    found = the_map("small")
    assert sorted(found) == SCENARIOS
    for scenario, phrasings in found.items():
        assert len(phrasings) == len(set(phrasings)) == 8
        boxes = 2 if scenario.startswith("2box") else 1
        for text in phrasings:
            for side in ("left", "right"):
                assert text.split().count(side) + text.split().count(f"{side},") == boxes * scenario.count(
                    side
                )
            assert text == text.lower() and not motion_by_motion(text, ["forward", "stop"])
    # What the words cannot tell apart is told alike, and everything else differs.
    alike = {scenario: found[scenario.replace("vert", "hori")] for scenario in found}
    assert alike == found
    told = [text for scenario, phrasings in found.items() if "vert" not in scenario for text in phrasings]
    assert len(told) == len(set(told)) == 13 * 8


def test_left_and_right_are_mirror_images() -> None:
    found, exchanged = the_map("small"), {"left": "right", "right": "left"}
    for scenario, phrasings in found.items():
        other = "_".join(exchanged.get(word, word) for word in scenario.split("_"))
        assert [mirror_text(text) for text in phrasings] == found[other]


def test_files_own_words_are_not_taken() -> None:
    config = OmegaConf.load("conf/data/instruction/lab_small.yaml")
    made = ScenarioMap(**{str(key): value for key, value in config.items() if key != "_target_"})
    assert made.prefer_file is False and made.origin == "conf/data/instruction/lab_small.yaml"


def test_the_refusal_names_words_characters_sentence_and_the_way_out() -> None:
    model = ConvNetBackbone("assets/kosmos2_tiny")
    text = "Drive past the box and Go to the 目標 as fast as you can, please, whatever stands there"
    with pytest.raises(ProjectError) as caught:
        model.tokenize(["go to the red ball", text])
    said = str(caught.value)
    assert repr(text) in said
    assert "does not know 'Drive', 'Go', '目標' (characters 'D', 'G', '目', '標')" in said
    assert "data/instruction" in said and "lab_small" in said and "full vocabulary" in said
    assert model.tokenize([text.lower().replace("目標", "ball")])[1].all()
