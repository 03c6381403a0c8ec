"""Candidates and previews: DDIM against diffusers and the textbook, closed forms, calls."""

import pytest
import torch

from tests.helpers import reference
from tests.helpers.doubles import GaussianPrior, Prompts, WavyPrior, camera_batch, extension

search_module = extension("search")
Cameras = extension("priors.base").Cameras


def bind(prior, batch, chunk_size=64):
    cameras = camera_batch(batch)
    return prior.bind(
        Prompts(),
        Cameras(cameras["elevation"], cameras["azimuth"], cameras["camera_distances"]),
        chunk_size,
    )


def search(steps=1, spacing="uniform", scale=3.0):
    return search_module.CandidateSearch(steps, spacing, scale)


def propose(denoiser, batch, timesteps, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(batch, 3, 4, 4, generator=generator, dtype=torch.float64)
    return z, search().propose(z, torch.tensor(timesteps), count, denoiser, generator)


def scene_network(prior):
    """The prior as the reference's network: one scene, one half."""

    def network(noisy, t, half):
        times = torch.full((len(noisy),), t)
        return prior.network(noisy, times, {"half": torch.full((len(noisy),), float(half))})

    return network


def test_noisy_latents_follow_the_schedule_of_their_scene():
    prior = WavyPrior({"n_view": 2})
    z, candidates = propose(bind(prior, 4), 4, [100, 900])
    for image, t in enumerate([100, 100, 900, 900]):
        a = prior.alpha_bar[t]
        expected = a.sqrt() * z[image] + (1 - a).sqrt() * candidates.noise[:, image]
        assert torch.allclose(candidates.noisy[:, image], expected, atol=1e-12)


def test_the_noise_is_standard_normal_and_differs_between_candidates():
    _, candidates = propose(bind(WavyPrior(), 8), 8, [500] * 8, count=50)
    assert candidates.noise.mean().abs() < 0.02
    assert (candidates.noise.std() - 1).abs() < 0.02
    assert not torch.equal(candidates.noise[0], candidates.noise[1])


def test_our_ddim_step_equals_the_one_of_diffusers():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )
    scheduler.set_timesteps(10)
    prior = WavyPrior()
    prior.alpha_bar = scheduler.alphas_cumprod.double()
    denoiser = bind(prior, 2)
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for t, then in ((800, 700), (100, 0)):
        ours = search_module.ddim_step(
            denoiser, x[None], eps[None], torch.tensor([t] * 2), torch.tensor([then] * 2)
        )[0]
        theirs = scheduler.step(eps, t, x, eta=0.0).prev_sample
        assert torch.allclose(ours, theirs, atol=1e-12)
    clean = torch.tensor([extension("priors.base").CLEAN] * 2)
    ours = search_module.ddim_step(denoiser, x[None], eps[None], torch.tensor([0] * 2), clean)[0]
    assert torch.allclose(ours, scheduler.step(eps, 0, x, eta=0.0).prev_sample, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 15])
@pytest.mark.parametrize("views", [1, 2])
def test_previews_equal_the_textbook_loop(steps, views):
    prior = WavyPrior({"n_view": views})
    denoiser = bind(prior, 4, chunk_size=3)
    timesteps = [703, 250, 40, 980][: 4 // views]
    _, candidates = propose(denoiser, 4, timesteps)
    latents = search(steps).denoise(candidates, denoiser)
    for k in range(3):
        for g, t in enumerate(timesteps):
            scene = slice(g * views, (g + 1) * views)
            expected = reference.ddim_preview(
                candidates.noisy[k, scene],
                reference.even_times(t, steps),
                prior.alpha_bar,
                scene_network(prior),
                3.0,
            )
            assert torch.allclose(latents[k, scene], expected, atol=1e-10)


def test_official_spacing_walks_the_grid_below_t_and_ends_at_zero():
    """Of the 15 points 0, 71, 142, ..., 999 those below t = 200 are 142, 71, 0."""
    prior = WavyPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [200, 980])
    latents = search(15, "official").denoise(candidates, denoiser)
    grid = [999 * i // 14 for i in range(14, -1, -1)]
    for g, t in enumerate([200, 980]):
        times = [t, *(p for p in grid if p < t)]
        expected = reference.ddim_preview(
            candidates.noisy[0, g : g + 1],
            times[:-1],
            prior.alpha_bar,
            scene_network(prior),
            3.0,
            end=0,
        )
        assert torch.allclose(latents[0, g : g + 1], expected, atol=1e-10)
    assert grid[:1] == [999] and 71 in grid and 142 in grid


def test_official_spacing_from_a_grid_point_takes_no_step_in_place():
    assert search_module.official_times(torch.tensor([142, 0]), 15, 1000).T.tolist() == [
        [142, 71, 0],
        [0, 0, 0],
    ]


def test_zero_steps_decode_the_noisy_latents_without_the_network():
    prior = WavyPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [500, 100])
    images = search(0).preview(candidates, denoiser)
    assert torch.equal(images, candidates.noisy.clamp(0, 1))
    assert prior.calls == []


def test_one_step_is_the_prediction_of_x0():
    prior = GaussianPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [600, 600])
    a = prior.alpha_bar[600]
    eps = candidates.prediction(denoiser).guided(3.0)
    x0 = (candidates.noisy - (1 - a).sqrt() * eps) / a.sqrt()
    assert torch.allclose(search(1).denoise(candidates, denoiser), x0, atol=1e-12)


def test_denoising_approaches_the_closed_form_as_one_over_steps():
    """It is mu + s (z_t - alpha mu) / sqrt(alpha^2 s^2 + sigma^2); the error falls with S."""
    prior = GaussianPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [900, 900])
    a, mu, s = prior.alpha_bar[900], prior.mu, prior.s
    exact = mu + s * (candidates.noisy - a.sqrt() * mu) / (a * s**2 + 1 - a).sqrt()
    errors = [
        (search(steps).denoise(candidates, denoiser) - exact).abs().mean().item()
        for steps in (5, 15, 50, 150, 450)
    ]
    assert errors[-1] < 0.01
    assert all(1.7 < fewer / more < 5 for fewer, more in zip(errors, errors[1:], strict=False))


def test_the_first_preview_step_and_the_objective_share_one_evaluation():
    prior = WavyPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [500, 100], count=3)
    search(1).preview(candidates, denoiser)
    assert denoiser.images_evaluated == 2 * 3 * 2
    candidates.prediction(denoiser)
    assert denoiser.images_evaluated == 2 * 3 * 2


def test_asking_for_more_images_evaluates_only_the_missing_ones():
    prior = WavyPrior()
    denoiser = bind(prior, 2)
    _, candidates = propose(denoiser, 2, [500, 100], count=3)
    some = torch.tensor([[True, False], [False, False], [True, True]])
    candidates.prediction(denoiser, some)
    assert denoiser.images_evaluated == 2 * 3
    both = candidates.prediction(denoiser)
    assert denoiser.images_evaluated == 2 * 6
    fresh = denoiser(candidates.noisy, candidates.timesteps)
    assert torch.allclose(both.cond, fresh.cond) and torch.allclose(both.uncond, fresh.uncond)


def test_nothing_in_the_search_is_differentiated():
    prior = WavyPrior()
    denoiser = bind(prior, 2)
    z = torch.rand(2, 3, 4, 4, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    candidates = search().propose(z, torch.tensor([500, 100]), 2, denoiser, generator)
    images = search(4).preview(candidates, denoiser)
    assert not images.requires_grad and not candidates.noisy.requires_grad
    assert prior.with_grad == [False] * 4
