"""The weights of a reward are read by the first step that scores something, and by nothing else."""

import pytest
import torch

from tests.helpers.doubles import BrightnessReward, guidance
from tests.helpers.tiny_models import save_clip
from tests.reward_sds.test_guidance import step


def test_the_reward_is_loaded_by_the_first_step_that_reads_it():
    built = guidance(reward_duration=[2, 4], trainer_max_steps=10)
    for at in (0, 1, 4, 9):
        out, _ = step(built, at=at)
        assert built.reward is None and "reward" not in out
    out, _ = step(built, at=2)
    loaded = built.reward
    assert loaded is not None and "reward" in out
    step(built, at=3)
    assert built.reward is loaded
    never = guidance(reward_duration=0, trainer_max_steps=10)
    step(never)
    assert never.reward is None


def test_it_does_not_matter_when_the_reward_is_loaded(monkeypatch):
    """Neither for later steps nor for who draws from torch's global state."""

    def configure(self):
        self.prompts, self.drawn = [], torch.rand(3)

    def gradients(early):
        torch.manual_seed(0)
        built = guidance(reward_duration=[1, 3], trainer_max_steps=3)
        if early:
            built.load_reward()
        found = [step(built, at=at)[1] for at in range(3)]
        return torch.stack(found), torch.rand(1)

    monkeypatch.setattr(BrightnessReward, "configure", configure)
    for early, late in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(early, late)


def test_a_reward_that_is_loaded_late_knows_the_step(monkeypatch):
    seen = []
    monkeypatch.setattr(
        BrightnessReward, "update_step", lambda self, epoch, at, **_: seen.append(at)
    )
    built = guidance(reward_duration=[2, 4], trainer_max_steps=10)
    for at in (1, 2, 3):
        step(built, at=at)
    assert seen == [2, 3]


def test_a_missing_reward_is_told_before_anything_is_loaded():
    """Although its weights are only read later."""
    with pytest.raises(ValueError, match="reward_model.pretrained_model_name_or_path` is './no'"):
        guidance(reward_model_type="clip", reward_model={"pretrained_model_name_or_path": "./no"})


def test_the_parts_of_a_composite_are_loaded_with_it(tmp_path):
    settings = {"pretrained_model_name_or_path": save_clip(tmp_path)}
    parts = {"light": {"type": "brightness"}, "fit": {"type": "clip", "settings": settings}}
    built = guidance(reward_model_type="composite", reward_model={"parts": parts})
    assert built.reward is None
    out, _ = step(built)
    assert set(built.reward.parts) == {"light", "fit"}
    assert out["reward_light"].isfinite() and out["reward_fit"].isfinite()
