"""The Gymnasium door: registered, checked by Gymnasium itself, seeded, and solvable by the expert."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from src.core.errors import ProjectError
from src.sim import SUITES, Expert
from src.sim.instructions import corpus

NAMES = [f"MobileVLA/{suite.capitalize()}-v0" for suite in SUITES]


# Gymnasium recommends actions in -1..1; ours are in SI units, as the whole project's are.
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space.*:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_accepts_it(name):
    env = gymnasium.make(name, image_size=16, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_observation_and_reset_options():
    env = gymnasium.make("MobileVLA/Full1-v0", image_size=24)
    one, info = env.reset(seed=0, options={"index": 5})
    two, _ = env.reset(seed=9, options={"index": 5})
    assert info["index"] == 5
    assert one["image"].shape == (24, 24, 3) and np.array_equal(one["image"], two["image"])
    assert one["instruction"] == two["instruction"] and one["instruction"] in corpus("en")
    a, info_a = env.reset(seed=3)
    b, info_b = env.reset(seed=3)
    c, info_c = env.reset(seed=4)
    assert info_a == info_b and info_a["index"] != info_c["index"]
    with pytest.raises(ProjectError, match="expected only 'index'"):
        env.reset(options={"idx": 5})


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_instruction_fits_the_text_space(language):
    env = gymnasium.make("MobileVLA/Reach-v0", image_size=16, language=language)
    space = env.observation_space["instruction"]
    assert all(text in space for text in corpus(language))


def test_expert_earns_the_reward_and_idling_is_truncated():
    env = gymnasium.make("MobileVLA/Full1-v0", image_size=16)
    for drive, expected in ((True, (1.0, True, False)), (False, (0.0, False, True))):
        env.reset(options={"index": 2})
        expert = Expert(env.unwrapped.world)
        total, ended, cut = 0.0, False, False
        while not (ended or cut):
            _, reward, ended, cut, info = env.step(expert.act() if drive else np.zeros(3, np.float32))
            total += reward
        assert (total, ended, cut) == expected
        assert info["outcome"]["success"] is drive and info["outcome"]["timeout"] is not drive


def test_wrong_names_fail_when_the_environment_is_made():
    with pytest.raises(ProjectError, match="split is 'tset'"):
        gymnasium.make("MobileVLA/Reach-v0", split="tset")
