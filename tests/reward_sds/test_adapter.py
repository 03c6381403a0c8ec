"""The adapter on real UNets: off it is the bare prior, on it learns, and nothing else does."""

import pytest
import torch

import threestudio
from tests.helpers.doubles import Prompts, camera_batch, extension
from tests.helpers.tiny_models import TEXT_WIDTH, save_clip, save_diffusion
from threestudio.utils.errors import UserError

base = extension("priors.base")
VIEWS = 2
PRIORS = {"stable-diffusion-prior": {}, "mvdream-prior": {"n_view": VIEWS}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vsd")
    kinds = {
        "epsilon": save_diffusion(folder / "epsilon"),
        "v_prediction": save_diffusion(folder / "v", prediction_type="v_prediction"),
        "plain": save_diffusion(folder / "plain", camera=False),
    }
    return {**kinds, "reward": save_clip(folder / "reward")}


def batch_of(size):
    cameras = camera_batch(size)
    return {**cameras, "mvp_mtx": cameras["c2w"] * 0.5, "fovy": torch.full((size,), 0.7)}


def build(world, kind="epsilon", prior="stable-diffusion-prior", **settings):
    return threestudio.find("reward-vsd-guidance")(
        {
            "prior_type": prior,
            "pretrained_model_name_or_path": world[kind],
            "reward_model": {"pretrained_model_name_or_path": world["reward"]},
            "n_noises": 4,
            "preview_steps": 1,
            **PRIORS[prior],
            **settings,
        }
    )


def images(seed=0):
    return torch.rand(VIEWS, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def output(prior, adapted=False):
    """Evaluate the network at fixed input, with the adapter or without."""
    entries = batch_of(VIEWS)
    cameras = base.Cameras(
        entries["elevation"],
        entries["azimuth"],
        entries["camera_distances"],
        entries["c2w"],
        mvp=entries["mvp_mtx"],
    )
    denoiser = prior.bind(Prompts(width=TEXT_WIDTH), cameras, 64)
    noisy = torch.randn(1, VIEWS, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.full((VIEWS // prior.num_views,), 500)
    return (denoiser.adapted if adapted else denoiser)(noisy, times)


def train(built, steps=4, rate=0.05):
    optimizer = torch.optim.AdamW(built.parameters(), lr=rate)
    losses = []
    for at in range(steps):
        built.do_update_step(0, at)
        rgb = images().requires_grad_(True)
        out = built(rgb, Prompts("a cube", width=TEXT_WIDTH), **batch_of(VIEWS))
        optimizer.zero_grad()
        (out["loss_vsd"] + out["loss_lora"]).backward()
        assert rgb.grad.abs().max() > 0
        optimizer.step()
        losses.append(out["loss_lora"].item())
    return losses


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "plain"])
@pytest.mark.parametrize("prior", PRIORS)
def test_without_its_adapter_it_is_the_bare_prior_exactly(world, prior, kind):
    if (kind, prior) == ("plain", "mvdream-prior"):
        pytest.skip("needs a camera embedding")
    settings = {"pretrained_model_name_or_path": world[kind], **PRIORS[prior]}
    bare = output(threestudio.find(prior)(settings))
    built = build(world, kind, prior)
    train(built)
    off, on = output(built.prior), output(built.prior, adapted=True)
    assert torch.equal(off.cond, bare.cond) and torch.equal(off.uncond, bare.uncond)
    assert (on.cond - off.cond).abs().max() > 1e-3


@pytest.mark.parametrize("prior", PRIORS)
def test_the_terms_start_at_zero(world, prior):
    """A multi-view adapter then equals the prior, whose own camera embedding it uses."""
    built = build(world, prior=prior, view_dependent_prompting=False)
    off, on = output(built.prior), output(built.prior, adapted=True)
    equal = torch.allclose(on.cond, off.cond, atol=1e-6)
    assert equal == (prior == "mvdream-prior")


@pytest.mark.parametrize("prior", PRIORS)
def test_every_trainable_tensor_gets_a_gradient_when_the_guidance_has_returned(world, prior):
    built = build(world, prior=prior, lora_cfg_training=False)
    train(built, steps=1)  # the outer half of each term starts at 0 and blocks the inner one
    out = built(images(), Prompts(width=TEXT_WIDTH), **batch_of(VIEWS))
    for parameter in built.parameters():
        parameter.grad = None
    out["loss_lora"].backward()
    silent = [
        name
        for name, parameter in built.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    ]
    assert not silent
    assert all(p.grad is None for n, p in built.prior.unet.named_parameters() if "lora" not in n)


def test_it_learns_the_renders(world):
    losses = train(build(world, lora_cfg_training=False), steps=60, rate=0.01)
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


@pytest.mark.parametrize("prior", PRIORS)
def test_only_the_adapter_is_saved_and_it_is_restored(world, prior):
    trained = build(world, prior=prior)
    train(trained)
    state = trained.state_dict()
    own = "objective.adapter.camera." if prior == "stable-diffusion-prior" else None
    for name in state:
        assert name.startswith("objective.adapter.layers.") or (own and name.startswith(own))
    assert any("lora_A" in name for name in state)
    restored = build(world, prior=prior)
    restored.load_state_dict(state)
    ours, theirs = (output(g.prior, adapted=True).cond for g in (trained, restored))
    assert torch.equal(ours, theirs)


def test_the_cameras_of_the_adapter_follow_the_setting(world):
    outputs = []
    for kind in ("extrinsics", "mvp"):
        torch.manual_seed(0)
        built = build(world, camera_condition_type=kind)
        outputs.append(output(built.prior, adapted=True))
    assert not torch.allclose(outputs[0].cond, outputs[1].cond)
    assert torch.equal(outputs[0].uncond, outputs[1].uncond)


def test_camera_matrices_are_asked_for(world):
    built = build(world)
    entries = batch_of(VIEWS)
    del entries["c2w"]
    with pytest.raises(UserError, match="VSD needs the camera matrices `c2w`"):
        built(images(), Prompts(width=TEXT_WIDTH), **entries)


def test_images_without_a_camera_show_the_adapter_zeros(world):
    built = build(world, camera_condition_type="none")
    entries = batch_of(VIEWS)
    del entries["c2w"], entries["mvp_mtx"]
    out = built(images(), Prompts(width=TEXT_WIDTH), **entries)
    assert out["loss_vsd"].isfinite()
    seen = output(built.prior, adapted=True)
    assert torch.equal(seen.cond, seen.uncond), "camera and no camera are the same"


def test_an_unknown_camera_condition_is_refused(world):
    with pytest.raises(ValueError, match="'spherical', but must be one of extrinsics, mvp, none"):
        build(world, camera_condition_type="spherical")


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_are_images_and_repeat(world, prior):
    built = build(world, prior=prior)
    batch = batch_of(1)
    for draw in (built.sample, built.sample_lora):
        first = draw(Prompts(width=TEXT_WIDTH), **batch, seed=3)
        assert first.shape == (1, 64, 64, 3) and 0 <= first.min() and first.max() <= 1
        assert torch.equal(first, draw(Prompts(width=TEXT_WIDTH), **batch, seed=3))
        assert not torch.equal(first, draw(Prompts(width=TEXT_WIDTH), **batch, seed=4))


def test_views_of_a_sample_are_spread_around_the_z_axis():
    entries = batch_of(1)
    names = ("elevation", "azimuth", "camera_distances", "c2w")
    turned = extension("sampling").turn(base.Cameras(*(entries[n] for n in names)), 4)
    assert turned.azimuth.tolist() == [-180, -90, 0, 90]
    place = turned.c2w[:, :3, 3]
    expected = torch.tensor([[-2.8, 0, 0], [0, -2.8, 0], [2.8, 0, 0], [0, 2.8, 0]])
    assert torch.allclose(place, expected, atol=1e-5)
