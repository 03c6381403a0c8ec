"""Perp-Neg in the priors: the step equals a plain loop; prompts, weights and scales are right."""

import pytest
import torch

import threestudio
from tests.helpers import reference
from tests.helpers.doubles import WavyPrior, extension, guidance, render
from tests.helpers.tiny_models import TEXT_WIDTH, save_diffusion
from threestudio.models.prompt_processors.output import PromptProcessorOutput
from threestudio.models.prompt_processors.views import NAMES, make_directions

base = extension("priors.base")
prediction = extension("priors.prediction")
text = extension("priors.text")
CAMERAS = {"elevation": [0.0, 20.0, 70.0, 10.0], "azimuth": [30.0, -140.0, 10.0, -80.0]}
"""In front, behind, overhead, at the side."""
COUNT, TEXTS = 5, 4


@threestudio.register("wavy-words-prior")
class WavyWordsPrior(WavyPrior):
    """A double that reads the prompts: their mean takes the place of the half."""

    scale_from_text = True

    def conditioning(self, prompt_utils, cameras):
        found = text.single_view_text(prompt_utils, cameras, True)
        words = found.inputs["encoder_hidden_states"].mean(dim=(1, 2))
        return base.Conditioning({"half": words}, found.negative_weights)


def prompts(use_perp_neg=True, width=3):
    """Return random embeddings in float64, and the default weights."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(6, 4, width, generator=generator, dtype=torch.float64)
    return PromptProcessorOutput(
        text_embeddings=table[4:5],
        uncond_text_embeddings=table[5:],
        text_embeddings_vd=table[:4],
        uncond_text_embeddings_vd=table[5:].repeat(4, 1, 1),
        directions=make_directions(45.0, 45.0, 60.0, False),
        direction2idx={name: i for i, name in enumerate(NAMES)},
        use_perp_neg=use_perp_neg,
        perp_neg_f_sb=(1.0, 0.5, -0.606),
        perp_neg_f_fsb=(1.0, 0.5, 0.967),
        perp_neg_f_fs=(4.0, 0.5, -2.426),
        perp_neg_f_sf=(4.0, 0.5, -2.426),
        prompt="a cube",
        prompts_vd=[f"a cube, {name} view" for name in NAMES],
    )


def numbers(name):
    return torch.tensor(CAMERAS[name], dtype=torch.float64)


def cameras():
    distance = torch.full_like(numbers("azimuth"), 2.0)
    return base.Cameras(numbers("elevation"), numbers("azimuth"), distance)


def texts_of(index, width=3):
    """Return the four embeddings of a camera (as the reference numbers them) and its weights."""
    given = prompts(width=width)
    views = dict(zip(NAMES, given.text_embeddings_vd, strict=True))
    place = CAMERAS["elevation"][index], CAMERAS["azimuth"][index]
    return reference.perp_neg_texts(views, given.uncond_text_embeddings[0], *place)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def step(built, batch):
    """Take one step; return outputs and gradient."""
    rgb = render(batch)
    where = {"elevation": numbers("elevation"), "azimuth": numbers("azimuth")}
    out = built(rgb, prompts(), **where, camera_distances=torch.ones(batch))
    out["loss_sds"].backward()
    return out, rgb.grad


def reference_gradient(built, form, preview_steps):
    """Do the same step image by image; gradient with respect to the render."""
    prior, batch = built.prior, len(CAMERAS["azimuth"])
    z = render(batch).detach().permute(0, 3, 1, 2)
    low, high = built.min_step, built.max_step + 1
    timesteps = torch.randint(low, high, (batch,), generator=built.streams("timestep", 0))
    drawn = torch.randn((COUNT, *z.shape), generator=built.streams("noise", 0)).double()
    residual = {"plain": reference.plain_residual, "recon": reference.reconstruction_residual}[form]
    total = torch.zeros_like(z)
    for g, t in enumerate(timesteps.tolist()):
        words, weights = texts_of(g)
        negatives = list(zip((2, 3), weights, strict=True))

        def network(noisy, t, half, words=words):
            given = {"half": words[half].mean()[None]}
            return prior.network(noisy, torch.tensor([t]), given)

        image, a, rewards = z[g : g + 1], prior.alpha_bar[t], []
        times = reference.even_times(t, preview_steps)
        for eps in drawn[:, g : g + 1]:
            x = a.sqrt() * image + (1 - a).sqrt() * eps
            x = reference.ddim_preview(x, times, prior.alpha_bar, network, 7.5, None, negatives)
            rewards.append(float(x.clamp(0, 1).mean()))
        shares = reference.strategy_weights("min-max", rewards)
        for eps, share in zip(drawn[:, g : g + 1], shares, strict=True):
            total[g : g + 1] += share * residual(
                image, eps, t, prior.alpha_bar, network, 6.5, negatives=negatives
            )
    return total.permute(0, 2, 3, 1) / batch


@pytest.mark.parametrize("form", ["plain", "recon"])
@pytest.mark.parametrize("chunk_size", [1, 6, 1000])
def test_a_step_equals_the_plain_loop(form, chunk_size):
    """Five candidates of four images, two preview steps, published scale 6.5, which is no 7.5."""
    built = guidance(
        "wavy-words-prior",
        n_noises=COUNT,
        reward_strategy="min-max",
        preview_steps=2,
        recon_loss=form == "recon",
        guidance_scale=6.5,
        chunk_size=chunk_size,
    )
    out, gradient = step(built, 4)
    expected = reference_gradient(built, form, 2)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(gradient, expected, atol=1e-10, rtol=0)
    assert out["unet_calls"] == TEXTS * 2 * COUNT * 4  # the loss shares the first preview step


def test_stable_diffusion_predicts_for_all_four_texts(tmp_path):
    """The network called by hand, one image and one text at a time, and combined by hand."""
    folder = save_diffusion(tmp_path, camera=False)
    prior = threestudio.find("stable-diffusion-prior")({"pretrained_model_name_or_path": folder})
    prior.unet.double()
    denoiser = prior.bind(prompts(width=TEXT_WIDTH), cameras(), chunk_size=7)
    noisy, timesteps = noise(2, 4, 4, 8, 8), torch.tensor([10, 300, 600, 900])
    found = denoiser(noisy, timesteps).guided(5.0)
    for g, t in enumerate(timesteps.tolist()):
        words, weights = texts_of(g, TEXT_WIDTH)

        def network(x, t, half, words=words):
            return prior.unet(x, t, encoder_hidden_states=words[half][None].double()).sample

        negatives = list(zip((2, 3), weights, strict=True))
        for k in range(2):
            expected = reference.guided_noise(noisy[k, g : g + 1], t, network, 5.0, negatives)
            assert torch.allclose(found[k, g : g + 1], expected, atol=1e-10, rtol=0)
    assert denoiser.images_evaluated == TEXTS * 2 * 4


def test_the_perpendicular_part_is_taken_of_the_whole_image():
    """e_c = (3, 4) over two channels: of e_1 = (5, 0) the part along it is (1.8, 2.4), the rest is
    (3.2, -2.4); e_2 = 2 e_c adds nothing. 10 + 2 ((3, 4) - 0.5 (3.2, -2.4)) = (12.8, 20.4)."""
    values = {"cond": (13, 14), "uncond": (10, 10), "first": (15, 10), "second": (16, 18)}
    eps = {
        name: torch.tensor(pair, dtype=torch.float64).view(1, 2, 1, 1)
        for name, pair in values.items()
    }
    weights = tuple(torch.full((1, 1, 1, 1), w, dtype=torch.float64) for w in (-0.5, -7.0))
    found = prediction.NoisePrediction(
        eps["cond"], eps["uncond"], (eps["first"], eps["second"]), weights
    ).guided(2.0)
    expected = torch.tensor([12.8, 20.4], dtype=torch.float64)
    assert torch.allclose(found.flatten(), expected, atol=1e-12)


def test_without_negatives_it_is_classifier_free_guidance_to_the_last_bit():
    cond, uncond = noise(2, 3, 4, 8, 8), noise(2, 3, 4, 8, 8, seed=1)
    found = prediction.NoisePrediction(cond, uncond).guided(7.3)
    assert torch.equal(found, uncond + 7.3 * (cond - uncond))


def test_published_scales_count_from_the_text_only_without_perp_neg():
    prior = WavyWordsPrior()
    scales = [prior.bind(prompts(on), cameras(), 8).guided_scale(100.0) for on in (False, True)]
    assert scales == [101.0, 100.0]


def test_what_was_predicted_before_is_kept_with_its_negatives():
    """The mask grows from one image to all: nothing is evaluated twice, nothing is lost."""
    prior = WavyWordsPrior()
    denoiser = prior.bind(prompts(), cameras(), 8)
    noisy, timesteps = noise(1, 4, 3, 4, 4), torch.tensor([500, 400, 300, 200])
    candidates = extension("search").Candidates(noisy, noisy, timesteps)
    first = candidates.prediction(denoiser, torch.tensor([[True, False, False, False]]))
    assert denoiser.images_evaluated == TEXTS and not first.guided(5.0)[:, 1:].any()
    whole = candidates.prediction(denoiser)
    assert denoiser.images_evaluated == TEXTS * 4
    assert torch.equal(whole.guided(5.0), denoiser(noisy, timesteps).guided(5.0))


def test_perp_neg_needs_the_prompts_of_the_views():
    with pytest.raises(ValueError, match="view_dependent_prompting: true.*use_perp_neg: false"):
        text.single_view_text(prompts(), cameras(), False)
