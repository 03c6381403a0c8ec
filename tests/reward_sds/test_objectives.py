"""SDS, plain and as reconstruction: the reference, the Gaussian closed form, masks, scales."""

import pytest
import torch

import threestudio
from tests.helpers import reference
from tests.helpers.doubles import GaussianPrior, WavyPrior, WavyTextScalePrior
from tests.reward_sds.test_search import bind, propose, scene_network

FORMS = {"plain": {"recon_loss": False}, "recon": {"recon_loss": True}}


def make(**settings):
    return threestudio.find("sds-objective")({"guidance_scale": 7.5, **settings})


def all_of(count, scenes):
    return torch.ones(count, scenes, dtype=torch.bool)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("views", [1, 2])
def test_gradients_equal_the_reference(form, views):
    prior = WavyPrior({"n_view": views})
    denoiser = bind(prior, 4)
    timesteps = [703, 250, 40, 970][: 4 // views]
    z, candidates = propose(denoiser, 4, timesteps)
    gradients = make(**FORMS[form]).gradient(z, candidates, denoiser, all_of(3, len(timesteps)))
    residual = {"plain": reference.plain_residual, "recon": reference.reconstruction_residual}[form]
    for k in range(3):
        for g, t in enumerate(timesteps):
            scene = slice(g * views, (g + 1) * views)
            expected = residual(
                z[scene], candidates.noise[k, scene], t, prior.alpha_bar, scene_network(prior), 7.5
            )
            assert torch.allclose(gradients[k, scene], expected, atol=1e-10)


def test_gaussian_closed_form():
    """Mean of prediction - noise at fixed z: sigma alpha (z - mu) / (alpha^2 s^2 + sigma^2)."""
    prior = GaussianPrior()
    denoiser = bind(prior, 1)
    z, candidates = propose(denoiser, 1, [400], count=20000)
    gradients = make(weighting_strategy="uniform").gradient(
        z, candidates, denoiser, all_of(20000, 1)
    )
    a = prior.alpha_bar[400]
    exact = ((1 - a) * a).sqrt() * (z - prior.mu) / (a * prior.s**2 + 1 - a)
    assert torch.allclose(gradients.mean(dim=0), exact, atol=0.02)  # 4 standard errors
    assert exact.abs().max() > 0.1


@pytest.mark.parametrize("name", ["sds", "uniform", "fantasia3d"])
def test_weightings(name):
    """1 - alpha_bar, 1 and sqrt(alpha_bar) (1 - alpha_bar) times the unweighted residual."""
    prior = WavyPrior()
    denoiser = bind(prior, 1)
    z, candidates = propose(denoiser, 1, [300])
    plain = make(weighting_strategy="uniform").gradient(z, candidates, denoiser, all_of(3, 1))
    a = prior.alpha_bar[300]
    weight = {"sds": 1 - a, "uniform": 1.0, "fantasia3d": a.sqrt() * (1 - a)}[name]
    weighted = make(weighting_strategy=name).gradient(z, candidates, denoiser, all_of(3, 1))
    assert torch.allclose(weighted, weight * plain, atol=1e-12)


def test_published_scales_of_single_view_priors_count_from_the_text():
    """`eps_c + s (eps_c - eps_u)` is `guided(s + 1)`."""
    gradients = []
    for prior, scale in ((WavyTextScalePrior(), 6.5), (WavyPrior(), 7.5)):
        denoiser = bind(prior, 1)
        z, candidates = propose(denoiser, 1, [300])
        objective = make(guidance_scale=scale)
        gradients.append(objective.gradient(z, candidates, denoiser, all_of(3, 1)))
    assert torch.allclose(*gradients, atol=1e-12)
    denoiser = bind(WavyTextScalePrior(), 1)
    _, candidates = propose(denoiser, 1, [300])
    prediction = candidates.prediction(denoiser)
    from_text = prediction.cond + 6.5 * (prediction.cond - prediction.uncond)
    assert torch.allclose(prediction.guided(7.5), from_text, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_masked_candidates_cost_nothing_and_are_zero(form):
    prior = WavyPrior({"n_view": 2})
    denoiser = bind(prior, 4)
    z, candidates = propose(denoiser, 4, [500, 100])
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    gradients = make(**FORMS[form]).gradient(z, candidates, denoiser, mask)
    assert denoiser.images_evaluated == 2 * 2 * 3
    zero = gradients.abs().sum(dim=(2, 3, 4)) == 0
    assert torch.equal(zero, ~mask.repeat_interleave(2, dim=1))


@pytest.mark.parametrize("form", FORMS)
def test_a_masked_candidate_does_not_spoil_the_others(form):
    """Of two previewed candidates the second is NaN: alone, or masked, the first is the same."""
    prior = WavyPrior()
    gradients = []
    for spoil in (0.0, float("nan")):
        denoiser = bind(prior, 1)
        z, candidates = propose(denoiser, 1, [500], count=2)
        candidates.noisy[1] += spoil
        known = candidates.prediction(denoiser)  # as after a preview
        assert torch.isnan(known.cond[1]).all() == (spoil != 0)
        mask = torch.tensor([[True], [False]])
        gradients.append(make(**FORMS[form]).gradient(z, candidates, denoiser, mask))
    assert torch.equal(*gradients)
    assert gradients[1][0].abs().sum() > 0 and not gradients[1][1].any()


def test_rescale_is_off_at_zero():
    """Without the contrast correction the target is the plain x0 prediction."""
    prior = WavyPrior()
    denoiser = bind(prior, 1)
    z, candidates = propose(denoiser, 1, [300])
    objective = make(recon_loss=True, recon_std_rescale=0.0)
    a = prior.alpha_bar[300]
    eps = candidates.prediction(denoiser).guided(7.5)
    x0 = (candidates.noisy - (1 - a).sqrt() * eps) / a.sqrt()
    gradients = objective.gradient(z, candidates, denoiser, all_of(3, 1))
    assert torch.allclose(gradients, z - x0, atol=1e-10)


def test_sds_has_no_losses_of_its_own():
    denoiser = bind(WavyPrior(), 1)
    z, _ = propose(denoiser, 1, [300])
    assert make().auxiliary_losses(z, denoiser, torch.Generator()) == {}
    assert list(make().parameters()) == []


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"weighting_strategy": "dreamfusion"}, "must be one of sds, uniform, fantasia3d"),
        ({"recon_std_rescale": 1.5}, r"`recon_std_rescale` is 1.5, but must be in \[0, 1\]"),
        ({"use_sjc": True}, "`use_sjc` is not supported"),
    ],
)
def test_bad_settings_are_explained(settings, text):
    with pytest.raises(ValueError, match=text):
        make(**settings)
