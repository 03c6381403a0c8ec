"""The official 2D release's gradients on the same latents and noises, and by what factor ours
differ.

That release divides each candidate's loss by the number of kept ones, so its step shrinks with the
strategy; here the weights alone scale the gradient (`strategies.py`). w(t) is 1 - alpha_bar. Its
guidance counts from the unconditional prediction: what it calls 100 is 99 for Stable Diffusion
here, whose published SDS scales count from the text.
"""

import pytest
import torch

from tests.helpers import reference
from tests.helpers.doubles import Prompts, camera_batch, guidance, render
from tests.reward_sds.test_guidance import drawn
from tests.reward_sds.test_search import scene_network
from tests.reward_sds.test_vsd import adapted_network

COUNT = 6
TABLE_5 = {
    "random one": {
        "reward_strategy_type": "random",
        "reward_strategy": {"num_best": 1, "num_worst": 0, "lambda_best": 1.0},
    },
    "softmax": {"reward_strategy_type": "softmax"},
    "best one": {"reward_strategy_type": "best"},
    "two best": {"reward_strategy_type": "best", "reward_strategy": {"num_best": 2}},
    "best and worst": {
        "reward_strategy_type": "min-max",
        "reward_strategy": {"num_best": 1, "num_worst": 1, "lambda_best": 0.9},
    },
    "two best and two worst": {"reward_strategy_type": "min-max"},
}
SCORES = [0.3, -1.2, 2.0, 0.9, -0.1, 1.4]


def step(built):
    """Optimise a latent itself, as that release does; return its gradient [1 c h w]."""
    built.do_update_step(0, 0)
    latents = render(1)
    out = built(latents, Prompts(), **camera_batch(1, torch.float64), rgb_as_latents=True)
    out[f"loss_{built.objective.loss_name}"].backward()
    return latents.grad.permute(0, 3, 1, 2)


def official(built, name, residual):
    """Sum its weighted losses' gradients in a loop; return it, and how many candidates it keeps."""
    (t,), noise = drawn(built, 1, COUNT)
    scores = SCORES
    if name == "random one":
        scores = torch.rand(COUNT, 1, generator=built.streams("strategy", 0))[:, 0].tolist()
    weights, kept = reference.official_2d_weights(name, scores)
    z = render(1).detach().permute(0, 3, 1, 2)
    total = sum(weights[k] * residual(z, noise[k], t) for k in range(COUNT))
    return total, kept


def settings(name):
    fixed = {"reward_model_type": "fixed", "reward_model": {"scores": SCORES}}
    return {"n_noises": COUNT, **fixed, **TABLE_5[name]}


@pytest.mark.parametrize("name", TABLE_5)
def test_sds_with_the_six_weightings(name):
    built = guidance("wavy-text-scale-prior", guidance_scale=99.0, **settings(name))

    def residual(z, noise, t):
        network = scene_network(built.prior)
        return reference.plain_residual(z, noise, t, built.prior.alpha_bar, network, 100.0)

    gradient = step(built)
    expected, kept = official(built, name, residual)
    assert torch.allclose(gradient, kept * expected, atol=1e-10)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", TABLE_5)
def test_vsd_with_the_six_weightings(name):
    built = guidance(
        "adapted-wavy-prior", "reward-vsd-guidance", guidance_scale=7.5, **settings(name)
    )

    def residual(z, noise, t):
        networks = scene_network(built.prior), adapted_network(built, lambda _: slice(0, 1))
        return reference.vsd_residual(z, noise, t, built.prior.alpha_bar, *networks, 7.5, 1.0)

    gradient = step(built)
    expected, kept = official(built, name, residual)
    assert torch.allclose(gradient, kept * expected, atol=1e-10)


def test_without_a_reward_both_are_the_same():
    built = guidance("wavy-text-scale-prior", guidance_scale=99.0, reward_strategy="none")
    (t,), noise = drawn(built, 1, 1)
    z = render(1).detach().permute(0, 3, 1, 2)
    network = scene_network(built.prior)
    expected = reference.plain_residual(z, noise[0], t, built.prior.alpha_bar, network, 100.0)
    assert torch.allclose(step(built), expected, atol=1e-10)
