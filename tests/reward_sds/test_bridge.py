"""The bridge: SDS first, then from one suffix of the prompt to another."""

import pytest
import torch

from tests.helpers import reference
from tests.helpers.doubles import Words, camera_batch, guidance, render
from tests.reward_sds.test_dds import network
from tests.reward_sds.test_guidance import drawn

BATCH, COUNT, START = 2, 5, 10
GOOD, BAD = ", sharp", ", blurry"


def build(**more):
    settings = {
        "objective_type": "bridge-objective",
        "guidance_scale": 3.0,
        "guidance_scale_bridge": 4.0,
        "bridge_start": START,
        "bridge_target_suffix": GOOD,
        "bridge_source_suffix": BAD,
        "prompt_processor_type": "double-prompt-processor",
        "prompt_processor": {"prompt": "a cat"},
        "n_noises": COUNT,
        **more,
    }
    return guidance("listening-prior", **settings)


def step(built, at, prompts=("a cat",)):
    built.do_update_step(0, at)
    rgb = render(BATCH)
    out = built(rgb, Words(list(prompts)), **camera_batch(BATCH, torch.float64))
    out["loss_bridge"].backward()
    return out, rgb.grad


def expected_gradient(built, at, prompts):
    """Do the step with plain loops, all candidates weighing the same."""
    timesteps, noise = drawn(built, BATCH, COUNT, at)
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    scenes = iter(list(range(BATCH)) * COUNT)

    def residual(latents, eps, t):
        prompt, alpha_bar = prompts[next(scenes)], built.prior.alpha_bar
        plain, good, bad = (network(built.prior, prompt + suffix) for suffix in ("", GOOD, BAD))
        if at < START:
            return reference.plain_residual(latents, eps, t, alpha_bar, plain, 3.0)
        return reference.bridge_residual(latents, eps, t, alpha_bar, good, bad, 4.0)

    weights = [[1 / COUNT] * BATCH for _ in range(COUNT)]
    gradient = reference.weighted_gradient(z, noise, timesteps, weights, residual)
    return gradient.permute(0, 2, 3, 1)


@pytest.mark.parametrize("at", [0, START - 1, START, START + 5])
def test_both_stages_equal_the_plain_loop(at):
    built = build(reward_strategy="mean")
    _, gradient = step(built, at)
    assert torch.allclose(gradient, expected_gradient(built, at, ["a cat"] * 2), atol=1e-10)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("at", [0, START])
def test_scenes_have_prompts_of_their_own(at):
    prompts = ["a cat", "a dog"]
    built = build(reward_strategy="mean", prompt_processor={"prompts": prompts})
    _, gradient = step(built, at, prompts)
    assert torch.allclose(gradient, expected_gradient(built, at, prompts), atol=1e-10)


@pytest.mark.parametrize("at", [0, START])
def test_previews_of_one_step_cost_nothing_in_either_stage(at):
    built = build(reward_strategy="min-max")
    out, _ = step(built, at)
    assert out["unet_calls"] == 2 * COUNT * BATCH == sum(built.prior.calls)


def test_a_3d_scene_of_two_views_equals_the_plain_loop():
    built = build(reward_strategy="mean", n_view=2)
    _, gradient = step(built, START)
    (t,), noise = drawn(built, BATCH, COUNT, START)
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    good, bad = (network(built.prior, "a cat" + suffix) for suffix in (GOOD, BAD))

    def residual(latents, eps, t):
        return reference.bridge_residual(latents, eps, t, built.prior.alpha_bar, good, bad, 4.0)

    weights = [[1 / COUNT]] * COUNT
    expected = reference.weighted_gradient(z, noise, [t], weights, residual)
    assert torch.allclose(gradient, expected.permute(0, 2, 3, 1), atol=1e-10)


def test_the_reward_reads_the_plain_prompt():
    built = build(reward_strategy="min-max")
    step(built, START)
    assert set(built.reward.prompts) == {"a cat"}


def test_a_resumed_run_is_in_the_stage_of_its_step():
    built = build()
    stages = []
    for at in (START, 0, START - 1, START):
        built.do_update_step(0, at)
        stages.append(built.objective.bridges)
    assert stages == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bridge_start": -1}, "`system.guidance.bridge_start` is -1"),
        ({"bridge_source_suffix": GOOD}, "are both ', sharp'"),
        ({"prompt_processor_type": "no"}, "is 'no', which does not exist"),
        ({"prompt_processor": {"prompt": ""}}, "has no prompt"),
        ({"weighting_strategy": "x"}, "must be one of sds, uniform, fantasia3d"),
    ],
)
def test_bad_settings_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)
