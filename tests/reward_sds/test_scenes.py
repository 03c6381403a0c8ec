"""Scenes with seeds and prompts of their own: what one draws does not depend on the others."""

import pytest
import torch

from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render

Cameras = extension("priors.base").Cameras
reward_prompts = extension("prompts").reward_prompts
streams = extension("streams")

SEEDS = [11, 12, 13]


class Scenes:
    """Prompts of several scenes."""

    use_perp_neg = False

    def __init__(self, prompts):
        self.scenes = [Prompts(prompt) for prompt in prompts]


def gradient(built, rows, at=4):
    """Take one step on some of three images; return the gradient as if they were alone."""
    built.do_update_step(0, at)
    rgb = render(3).detach()[rows].requires_grad_(True)
    batch = {key: value[rows] for key, value in camera_batch(3, torch.float64).items()}
    seeds = torch.tensor(SEEDS)[rows]
    out = built(rgb, Prompts(), **batch, scene_seeds=seeds)
    losses = [value for name, value in out.items() if name.startswith("loss_")]
    sum(losses).backward()
    return rgb.grad * len(rows), out


@pytest.mark.parametrize("name", ["min-max", "random", "none", "best"])
@pytest.mark.parametrize("noise_scale", [0.0, 0.1])
def test_a_scene_alone_takes_the_step_that_it_takes_among_others(name, noise_scale):
    def built():
        return guidance(reward_strategy=name, noise_scale=noise_scale)

    together, _ = gradient(built(), [0, 1, 2])
    for row in range(3):
        alone, _ = gradient(built(), [row])
        assert torch.allclose(alone[0], together[row], atol=1e-12)
    backwards, _ = gradient(built(), [2, 1, 0])
    assert torch.allclose(backwards.flip(0), together, atol=1e-12)


def test_vsd_trains_its_adapter_on_the_draws_of_each_scene():
    built = guidance("adapted-wavy-prior", "reward-vsd-guidance")
    together = gradient(built, [0, 1, 2])[1]["loss_lora"].item()
    alone = [gradient(built, [row])[1]["loss_lora"].item() for row in range(3)]
    assert sum(alone) / 3 == pytest.approx(together, abs=1e-10)


def test_without_seeds_the_draws_are_those_of_the_run():
    drawn = []
    for seeds in ({}, {"scene_seeds": torch.tensor(SEEDS)}):
        built = guidance(reward_strategy="none")
        rgb = render(3)
        built(rgb, Prompts(), **camera_batch(3, torch.float64), **seeds)["loss_sds"].backward()
        drawn.append((rgb.grad, built.prior.timesteps[0]))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    expected = torch.randint(20, 981, (3,), generator=guidance().streams("timestep", 0))
    assert torch.equal(drawn[0][1][:3], expected)


def test_drawing_for_scenes():
    generators = streams.SceneStreams([1, 2])("noise", 7)
    drawn = streams.draw(torch.randn, (3, 4, 2), generators, 1)
    assert drawn.shape == (3, 4, 2)
    second = torch.randn(3, 2, 2, generator=streams.Streams(2)("noise", 7))
    assert torch.equal(drawn[:, 2:], second)
    one = streams.draw(torch.randn, (3, 4), streams.Streams(1)("noise", 7), 1)
    assert torch.equal(one, torch.randn(3, 4, generator=streams.Streams(1)("noise", 7)))


def test_each_image_is_rewarded_for_the_prompt_of_its_scene():
    azimuth = torch.tensor([0.0, 180.0, 0.0, 90.0])
    cameras = Cameras(torch.zeros(4), azimuth, torch.ones(4))
    scenes = Scenes(["a cat", "a dog"])
    plain = reward_prompts(scenes, cameras, view_dependent=False)
    assert plain == ["a cat", "a cat", "a dog", "a dog"]
    views = reward_prompts(scenes, cameras, view_dependent=True)
    assert views == [
        "a cat, front view",
        "a cat, back view",
        "a dog, front view",
        "a dog, side view",
    ]
