"""The image loss of SDS and VSD: equal to the plain loop, on real networks, refused elsewhere."""

import pytest
import torch

from tests.helpers import reference
from tests.helpers.doubles import Prompts, camera_batch, guidance, render
from tests.reward_sds.test_adapter import batch_of, build, images
from tests.reward_sds.test_adapter import world as world
from tests.reward_sds.test_guidance import drawn
from tests.reward_sds.test_search import scene_network
from tests.reward_sds.test_vsd import adapted_network
from threestudio.utils.errors import UserError

VIEWS, BATCH, COUNT = 2, 4, 3
NAMES = {"reward-sds-guidance": "sds", "reward-vsd-guidance": "vsd"}


def reference_gradient(built, kind):
    """`w (D(x0 of the reference) - D(x0 of the prior)) alpha / sigma`, one image at a time."""
    timesteps, noise = drawn(built, BATCH, COUNT)
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    total, alpha_bar = torch.zeros_like(z), built.prior.alpha_bar
    for k in range(COUNT):
        for g, t in enumerate(timesteps):
            scene = slice(g * VIEWS, (g + 1) * VIEWS)
            a, s = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()
            noisy = a * z[scene] + s * noise[k, scene]
            network = scene_network(built.prior)
            eps_c, eps_u = network(noisy, t, 1), network(noisy, t, 0)
            x0 = (noisy - s * (eps_u + 3.0 * (eps_c - eps_u))) / a
            other = z[scene]
            if kind == "vsd":
                lora = adapted_network(built, lambda _, scene=scene: scene)(noisy, t, 1)
                other = ((noisy - s * lora) / a).clamp(0, 1)
            weight = reference.strategy_weights("mean", [0.0] * COUNT)[k]
            total[scene] += weight * s * a * (other - x0.clamp(0, 1))
    return total / BATCH


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_plain_loop(name):
    kind = NAMES[name]
    settings = {"n_view": VIEWS, "guidance_scale": 3.0, "n_noises": COUNT, "chunk_size": 3}
    built = guidance(
        "adapted-wavy-prior", name, use_img_loss=True, reward_strategy="mean", **settings
    )
    built.do_update_step(0, 0)
    rgb = render(BATCH)
    out = built(rgb, Prompts(), **camera_batch(BATCH, torch.float64))
    out[f"loss_{kind}_img"].backward()
    expected = reference_gradient(built, kind).permute(0, 2, 3, 1).detach()
    assert torch.allclose(rgb.grad, expected, atol=1e-10, rtol=0)
    assert expected.abs().max() > 1e-3


def test_candidates_of_weight_zero_are_not_decoded():
    built = guidance(
        n_view=VIEWS, use_img_loss=True, n_noises=4, reward_strategy="best", preview_steps=0
    )
    built(render(BATCH), Prompts(), **camera_batch(BATCH, torch.float64))
    assert built.prior.decoded == 4 * BATCH + BATCH


@pytest.mark.parametrize(("scale_lora", "halves"), [(1.0, 1), (2.0, 2)])
def test_the_image_loss_of_vsd_costs_no_network_images(scale_lora, halves):
    """Prior: K candidates, two halves. Adapter: its halves of the weighted ones, then its loss."""
    built = guidance(
        "adapted-wavy-prior",
        "reward-vsd-guidance",
        n_view=VIEWS,
        use_img_loss=True,
        n_noises=4,
        reward_strategy={"num_best": 1, "num_worst": 1},
        guidance_scale_lora=scale_lora,
    )
    out = built(render(BATCH), Prompts(), **camera_batch(BATCH, torch.float64))
    assert out["unet_calls"] == sum(built.prior.calls) == BATCH * (4 * 2 + 2 * halves + 1)


def test_without_the_setting_there_is_no_such_loss():
    built = guidance(n_view=VIEWS)
    out = built(render(BATCH), Prompts(), **camera_batch(BATCH, torch.float64))
    assert not [name for name in out if name.endswith("_img")]


def test_real_networks_give_the_render_a_gradient(world):
    built = build(world, use_img_loss=True)
    rgb = images().requires_grad_(True)
    out = built(rgb, Prompts(width=16), **batch_of(VIEWS))
    out["loss_vsd_img"].backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


def test_renders_that_are_latents_are_refused(world):
    built = build(world, use_img_loss=True)
    with pytest.raises(UserError, match="compares pictures, but the renders have 4 channels"):
        built(torch.rand(2, 8, 8, 4), Prompts(width=16), **batch_of(VIEWS), rgb_as_latents=True)


def test_the_reconstruction_form_has_no_image_loss():
    with pytest.raises(ValueError, match="`use_img_loss` belongs to the plain form"):
        guidance(use_img_loss=True, recon_loss=True)
