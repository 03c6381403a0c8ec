"""VSD: equal to the reference loop, its adapter trained and nothing else, clear in failure."""

import pytest
import torch

from tests.helpers import reference
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render
from tests.reward_sds.test_guidance import drawn
from tests.reward_sds.test_search import scene_network
from threestudio.utils.errors import UserError

VIEWS, BATCH, COUNT = 2, 4, 5
PREDICTIONS = pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
schedules = extension("schedules")


def vsd(**settings):
    defaults = {"n_view": VIEWS, "guidance_scale": 3.0, "n_noises": COUNT}
    return guidance("adapted-wavy-prior", "reward-vsd-guidance", **{**defaults, **settings})


def step(built, at=0):
    built.do_update_step(0, at)
    rgb = render(BATCH)
    out = built(rgb, Prompts(), **camera_batch(BATCH, torch.float64))
    out["loss_vsd"].backward(retain_graph=True)
    return out, rgb.grad


def adapted_network(built, scene_of):
    """Return the adapted network of one scene as the reference wants it."""
    azimuth = camera_batch(BATCH, torch.float64)["azimuth"] / 180

    def network(noisy, t, half):
        times = torch.full((len(noisy),), t)
        seen = azimuth[scene_of(noisy)] if half else torch.zeros(len(noisy), dtype=torch.float64)
        return built.prior.adapted_network(noisy, times, {"half": seen})

    return network


@PREDICTIONS
@pytest.mark.parametrize("scale_lora", [1.0, 2.5])
@pytest.mark.parametrize(
    ("name", "chunk_size"), [("min-max", 64), ("best", 64), ("mean", 64), ("mean", 1)]
)
def test_weighted_gradients_equal_the_plain_loop(prediction_type, scale_lora, name, chunk_size):
    built = vsd(
        prediction_type=prediction_type,
        reward_strategy=name,
        guidance_scale_lora=scale_lora,
        reward_model_type="fixed",
        reward_model={"scores": list(range(COUNT * BATCH))},
        chunk_size=chunk_size,
    )
    _, gradient = step(built)
    timesteps, noise = drawn(built, BATCH, COUNT)
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    weights = reference.strategy_weights(name, list(range(COUNT)))
    alpha_bar = built.prior.alpha_bar
    scenes = iter([slice(g, g + VIEWS) for _ in range(COUNT) for g in range(0, BATCH, VIEWS)])

    def residual(latents, eps, t):
        scene = next(scenes)
        outputs = scene_network(built.prior), adapted_network(built, lambda _: scene)
        networks = (reference.noise_network(o, alpha_bar, prediction_type) for o in outputs)
        return reference.vsd_residual(latents, eps, t, alpha_bar, *networks, 3.0, scale_lora)

    columns = [[weight] * len(timesteps) for weight in weights]
    expected = reference.weighted_gradient(z, noise, timesteps, columns, residual)
    assert torch.allclose(gradient, expected.permute(0, 2, 3, 1).detach(), atol=1e-10, rtol=0)


@PREDICTIONS
def test_the_adapters_loss_and_its_gradient_equal_the_reference(prediction_type):
    built = vsd(lora_cfg_training=False, prediction_type=prediction_type)
    out, _ = step(built, at=3)
    generator = built.streams("objective", 3)
    torch.rand((), generator=generator)
    timesteps = schedules.draw_timesteps(BATCH // VIEWS, 0, 999, generator).tolist()
    noise = torch.randn((BATCH, 3, 4, 4), generator=generator).double()
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    scenes = iter([slice(g, g + VIEWS) for g in range(0, BATCH, VIEWS)])
    network = adapted_network(built, lambda _: next(scenes))
    expected = reference.denoising_loss(
        z, noise, timesteps, built.prior.alpha_bar, network, 1, prediction_type
    )
    assert torch.allclose(out["loss_lora"], expected, atol=1e-12)
    numbers = built.objective.adapter.numbers
    (ours,), (theirs,) = (
        torch.autograd.grad(loss, numbers) for loss in (out["loss_lora"], expected)
    )
    assert torch.allclose(ours, theirs, atol=1e-10) and theirs.abs().min() > 1e-4


def test_the_loss_of_the_adapter_does_not_reach_the_render_nor_vsd_the_adapter():
    built = vsd()
    built.do_update_step(0, 0)
    rgb = render(BATCH)
    out = built(rgb, Prompts(), **camera_batch(BATCH, torch.float64))
    numbers = built.objective.adapter.numbers
    assert torch.autograd.grad(out["loss_lora"], rgb, allow_unused=True, retain_graph=True) == (
        None,
    )
    assert torch.autograd.grad(out["loss_vsd"], numbers, allow_unused=True) == (None,)


def test_a_tenth_of_the_steps_trains_without_camera():
    """At step s the camera is dropped if the first draw of the stream is below 0.1."""
    built = vsd(n_noises=1)
    seen = []
    original = built.prior.adapted_network

    def spy(noisy, timesteps, conditioning):
        seen.append(bool(conditioning["half"].any()))
        return original(noisy, timesteps, conditioning)

    built.prior.adapted_network = spy
    for at in range(60):
        seen.clear()
        step(built, at)
        dropped = torch.rand((), generator=built.streams("objective", at)).item() < 0.1
        assert seen[-1] == (not dropped)


def test_the_network_is_trained_without_the_attention_of_cudnn():
    """Its gradients can be NaN; what is not trained keeps it."""
    built = vsd(n_noises=1)
    seen = []
    original = built.prior.adapted_network

    def spy(noisy, timesteps, conditioning):
        seen.append((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
        return original(noisy, timesteps, conditioning)

    built.prior.adapted_network = spy
    step(built)
    assert set(seen) == {(True, False), (False, True)}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_several_timesteps_are_averaged():
    one, two = vsd(n_noises=1), vsd(n_noises=1, lora_n_timestamp_samples=2)
    first = step(one)[0]["loss_lora"]
    assert step(two)[0]["unet_calls"] == step(one)[0]["unet_calls"] + BATCH
    assert not torch.equal(step(two)[0]["loss_lora"], first)


@pytest.mark.parametrize(("scale_lora", "halves"), [(1.0, 1), (2.0, 2)])
def test_network_images(scale_lora, halves):
    """Prior: K candidates, two halves. Adapter: its halves of the weighted ones, then its loss."""
    built = vsd(guidance_scale_lora=scale_lora, reward_strategy={"num_best": 1, "num_worst": 1})
    out, _ = step(built)
    assert out["unet_calls"] == BATCH * (COUNT * 2 + 2 * halves + 1)


def test_only_the_adapter_is_registered():
    assert set(vsd().state_dict()) == {"objective.adapter.numbers"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank` is 0, but must be 1 or more"),
        ({"lora_n_timestamp_samples": 0}, "lora_n_timestamp_samples` is 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        vsd(**settings)


def test_a_prior_without_adapter_is_refused():
    with pytest.raises(UserError, match="`WavyPrior` has no adapter, which VSD needs. Use"):
        guidance("wavy-prior", "reward-vsd-guidance")


def test_the_scale_of_sds_is_not_taken_over():
    assert guidance("adapted-wavy-prior", "reward-vsd-guidance").objective.cfg.guidance_scale == 7.5
