"""Baselines are presets of the same composition, and only where nobody else has their names."""

import pytest

import threestudio
from tests.helpers.doubles import extension
from threestudio import registry

presets = extension("presets")


@pytest.mark.parametrize("name", presets.BASELINES)
def test_presets_are_the_same_class_with_other_defaults(name):
    cls = threestudio.find(name)
    assert issubclass(cls, extension("guidance").CandidateGuidance)
    assert cls.preset["reward_strategy_type"] == "none"


def test_a_preset_is_plain_and_builds_no_reward():
    built = threestudio.find("mvdream-multiview-diffusion-guidance")(
        {"prior_type": "wavy-prior", "n_view": 4}
    )
    assert built.reward is None and not built.strategy.needs_rewards
    assert built.strategy.num_candidates(built.cfg.n_noises) == 1


def test_the_user_may_override_a_preset():
    built = threestudio.find("stable-diffusion-guidance")(
        {"prior_type": "wavy-prior", "guidance_scale": 7.5}
    )
    assert built.objective.cfg.guidance_scale == 7.5


def test_no_preset_is_registered_in_an_upstream_checkout(monkeypatch):
    monkeypatch.delattr(threestudio, "IS_REWARD_SDS_RUNTIME")
    monkeypatch.setattr(threestudio, "register", lambda *args, **kwargs: pytest.fail("registered"))
    presets.register_presets()


def test_a_taken_name_stays_with_its_owner():
    foreign = type("Foreign", (), {"__module__": "another-extension.guidance"})
    state = registry.snapshot()
    try:
        threestudio.register("stable-diffusion-guidance")(foreign)
        presets.register_presets()
        assert threestudio.find("stable-diffusion-guidance") is foreign
    finally:
        registry.restore(state)
