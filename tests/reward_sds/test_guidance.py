"""The whole step: equal to the reference loop, plain when it should be, cheap, clear in failure."""

import itertools

import pytest
import torch

import threestudio
from tests.helpers import reference
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render
from tests.reward_sds.test_search import scene_network
from threestudio.utils import random
from threestudio.utils.errors import NonFiniteError

STRATEGIES = ["min-max", "best", "softmax", "mean", "random"]
VIEWS, BATCH, COUNT = 2, 4, 5


def step(built, batch=BATCH, at=0, dtype=torch.float64, prompts=None):
    """Run one step; return the outputs and the gradient with respect to the render."""
    built.do_update_step(0, at)
    rgb = render(batch, dtype=dtype)
    out = built(rgb, prompts or Prompts(), **camera_batch(batch))
    out[f"loss_{built.objective.loss_name}"].backward()
    return out, rgb.grad


def drawn(built, batch, count, at=0):
    """Repeat the draws of a step from its streams."""
    scenes = batch // built.prior.num_views
    timesteps = torch.randint(
        built.min_step, built.max_step + 1, (scenes,), generator=built.streams("timestep", at)
    )
    noise = torch.randn((count, batch, 3, 4, 4), generator=built.streams("noise", at))
    return timesteps.tolist(), noise.double()


def reference_gradient(built, form, count, strategy, preview_steps, scale=7.5):
    """Do the same step with plain loops; gradient with respect to the render [B H W 3]."""
    prior, z = built.prior, render(BATCH).detach().permute(0, 3, 1, 2)
    network = scene_network(prior)
    timesteps, noise = drawn(built, BATCH, count)
    rewards = torch.zeros(count, len(timesteps), dtype=torch.float64)
    for k, (g, t) in itertools.product(range(count), enumerate(timesteps)):
        scene = slice(g * VIEWS, (g + 1) * VIEWS)
        a = prior.alpha_bar[t]
        x = a.sqrt() * z[scene] + (1 - a).sqrt() * noise[k, scene]
        if preview_steps > 0:
            times = reference.even_times(t, preview_steps)
            x = reference.ddim_preview(x, times, prior.alpha_bar, network, 7.5)
        rewards[k, g] = x.clamp(0, 1).mean()
    columns = [strategy(rewards[:, g].tolist()) for g in range(len(timesteps))]
    weights = [[column[k] for column in columns] for k in range(count)]
    residual = {"plain": reference.plain_residual, "recon": reference.reconstruction_residual}[form]
    gradient = reference.weighted_gradient(
        z,
        noise,
        timesteps,
        weights,
        lambda latents, eps, t: residual(latents, eps, t, prior.alpha_bar, network, scale),
    )
    return gradient.permute(0, 2, 3, 1)


def settings(form, **more):
    return {"n_view": VIEWS, "guidance_scale": 7.5, "recon_loss": form == "recon", **more}


@pytest.mark.parametrize("form", ["plain", "recon"])
def test_strategy_none_equals_the_reference(form):
    built = guidance(**settings(form, reward_strategy="none"))
    _, gradient = step(built)
    expected = reference_gradient(built, form, 1, lambda rewards: [1.0], 0)
    assert torch.allclose(gradient, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", ["plain", "recon"])
@pytest.mark.parametrize("preview_steps", [0, 1, 4])
@pytest.mark.parametrize("chunk_size", [1, 6, 64])
@pytest.mark.parametrize("name", ["min-max", "best", "softmax", "mean"])
def test_weighted_gradients_equal_the_plain_loop(form, preview_steps, chunk_size, name):
    built = guidance(
        **settings(
            form,
            reward_strategy=name,
            n_noises=COUNT,
            preview_steps=preview_steps,
            chunk_size=chunk_size,
        )
    )
    _, gradient = step(built)
    expected = reference_gradient(
        built, form, COUNT, lambda rewards: reference.strategy_weights(name, rewards), preview_steps
    )
    assert torch.allclose(gradient, expected, atol=1e-10, rtol=0)


def test_random_follows_drawn_candidates():
    built = guidance(**settings("plain", reward_strategy="random", n_noises=COUNT))
    _, gradient = step(built)
    scores = torch.rand((COUNT, BATCH // VIEWS), generator=built.streams("strategy", 0))
    weights = torch.tensor(
        [reference.strategy_weights("min-max", column.tolist()) for column in scores.T],
        dtype=torch.float64,
    ).T
    timesteps, noise = drawn(built, BATCH, COUNT)
    expected = reference.weighted_gradient(
        render(BATCH).detach().permute(0, 3, 1, 2),
        noise,
        timesteps,
        weights.tolist(),
        lambda z, eps, t: reference.plain_residual(
            z, eps, t, built.prior.alpha_bar, scene_network(built.prior), 7.5
        ),
    ).permute(0, 2, 3, 1)
    assert torch.allclose(gradient, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_results_do_not_depend_on_the_chunk_size(name):
    results = [
        step(guidance(**settings("recon", reward_strategy=name, chunk_size=chunk)))[1]
        for chunk in (1, 3, 8, 1000)
    ]
    for other in results[1:]:
        assert torch.allclose(other, results[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "plain",
    [
        {"reward_strategy": "none"},
        {"n_noises": 1},
        {"reward_duration": 0},
        {"reward_duration": [5, 9]},
        {"reward_duration": 0.0, "trainer_max_steps": 10},
    ],
)
@pytest.mark.parametrize("form", ["plain", "recon"])
def test_every_way_to_plain_is_plain_to_the_last_bit(plain, form):
    baseline = threestudio.find("stable-diffusion-guidance")(
        {"prior_type": "wavy-prior", **settings(form)}
    )
    out, gradient = step(guidance(**settings(form, **plain)))
    expected, expected_gradient = step(baseline)
    assert torch.equal(gradient, expected_gradient)
    assert set(out) == set(expected) and out["unet_calls"] == expected["unet_calls"] == 2 * BATCH
    assert "reward" not in out and out["candidates"] == 1


def test_the_reward_stops_after_its_duration():
    built = guidance(reward_duration=0.7, trainer_max_steps=10)
    assert "reward" in step(built, at=6)[0]
    assert "reward" not in step(built, at=7)[0]


@pytest.mark.parametrize(
    "name, count, preview_steps, images",
    [
        ("none", 4, 1, 1),  # one candidate, no preview
        ("min-max", 4, 1, 4),  # the preview's prediction is the objective's
        ("min-max", 7, 1, 7),
        ("min-max", 7, 4, 7 * 4),
        ("best", 7, 0, 1),  # previews without the network, then the best one only
        ("min-max", 7, 0, 4),
        ("mean", 7, 15, 7),  # no reward, no preview
        ("random", 7, 15, 4),
    ],
)
def test_number_of_network_images(name, count, preview_steps, images):
    """Images are counted with both halves of guidance: 2 B per candidate and evaluation."""
    built = guidance(
        reward_strategy=name, n_noises=count, preview_steps=preview_steps, min_step_percent=0.5
    )
    out, _ = step(built)
    assert sum(built.prior.calls) == out["unet_calls"] == 2 * BATCH * images
    assert built.prior.with_grad == [False] * len(built.prior.calls)
    assert max(built.prior.calls) <= 16


def test_only_previews_are_decoded():
    built = guidance(reward_strategy="mean")
    step(built)
    assert built.prior.decoded == 0
    built = guidance(n_noises=4)
    step(built)
    assert built.prior.decoded == 4 * BATCH


def test_the_surrogate_has_the_gradient_it_is_given():
    surrogate_loss = extension("guidance").surrogate_loss
    z = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    loss = surrogate_loss(z, g)
    loss.backward()
    assert torch.allclose(z.grad, g / 3, atol=1e-15)
    assert torch.allclose(loss, 0.5 * (g**2).sum() / 3)


@pytest.fixture
def seed_run():
    """A function that seeds the run as the launcher does; undone after the test."""
    before = random.get_run_seed()
    yield random.set_run_seed
    random.set_run_seed(before)


def test_ranks_share_the_seed_of_the_run_and_draw_their_own_noise(seed_run, monkeypatch):
    seed_run(7)
    first = guidance(noise_scale=0.1)
    monkeypatch.setenv("RANK", "1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7 + 1)
        second = guidance(noise_scale=0.1)
    assert (second.streams.seed, second.streams.rank) == (first.streams.seed, 1) == (7, 1)
    assert not torch.equal(step(first)[1], step(second)[1])


def test_a_step_is_fixed_by_seed_and_step(seed_run):
    seed_run(7)
    first = step(guidance(noise_scale=0.1), at=3)[1]
    again = guidance(noise_scale=0.1)
    step(again, at=2)  # what happened before does not matter
    torch.randn(10)
    assert torch.equal(step(again, at=3)[1], first)
    assert not torch.equal(step(again, at=4)[1], first)
    seed_run(8)
    assert not torch.equal(step(guidance(noise_scale=0.1), at=3)[1], first)


def test_rewards_are_pooled_per_scene_not_over_the_batch():
    """Two scenes of two views; candidate 0 is best in scene 0, candidate 1 in scene 1."""
    scores = [3.0, 1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 4.0]  # [K B] = [2, 4], means [2, .5], [.5, 3]
    built = guidance(
        n_view=2,
        n_noises=2,
        reward_model_type="fixed",
        reward_model={"scores": scores},
        reward_strategy="best",
    )
    kept = []
    built.objective.gradient = lambda z, candidates, denoiser, mask: (
        kept.append(mask) or (torch.zeros_like(candidates.noise))
    )
    out, _ = step(built)
    assert kept[0].tolist() == [[True, False], [False, True]]
    assert out["reward"].item() == pytest.approx((2 + 0.5 + 0.5 + 3) / 4)
    assert out["selected_share"].item() == 0.5


def test_the_reward_reads_one_prompt_per_image():
    """Four cameras at azimuth -180, -90, 0, 90 look from the back, side, front, side."""
    built = guidance(n_noises=4, reward_view_dependent=True)
    step(built)
    views = ["back", "side", "front", "side"]
    assert built.reward.prompts == [f"a red cube, {view} view" for view in views] * 4
    built = guidance(n_noises=4)
    step(built)
    assert built.reward.prompts == ["a red cube"] * 16


def test_outputs_are_scalars():
    out, _ = step(guidance(sheet_every=1))
    for name, value in out.items():
        assert isinstance(value, (int, float)) or value.numel() == 1, name
    assert {"grad_norm", "min_step", "max_step", "timestep", "unet_calls", "candidates"} < set(out)
    assert {"reward", "reward_std", "selected_share"} < set(out)


def test_gradient_clipping_bounds_the_combined_gradient():
    _, free = step(guidance())
    _, clipped = step(guidance(grad_clip=[0, 0.5, 0.5, 10]))
    bound = 0.5 / BATCH
    assert free.abs().max() > bound
    assert torch.allclose(clipped, free.clamp(-bound, bound), atol=1e-12)


def test_schedules_move_with_the_step():
    built = guidance(max_step_percent=[0, 0.98, 0.5, 100], reward_strategy="none")
    assert step(built, at=50)[0]["max_step"] == 740
    assert step(built, at=500)[0]["max_step"] == 500
    annealed = guidance(sqrt_anneal=True, trainer_max_steps=100, reward_strategy="none")
    out, _ = step(annealed, at=25)
    assert out["min_step"] == out["max_step"] == out["timestep"] == 500


def test_nothing_frozen_is_registered():
    built = guidance()
    assert list(built.parameters()) == [] and built.state_dict() == {}


def test_the_whole_batch_is_accepted():
    built = guidance()
    rays = torch.zeros(BATCH, 4, 4, 3)
    mvp = torch.zeros(BATCH, 4, 4)
    built(render(BATCH), Prompts(), **camera_batch(BATCH), rays_o=rays, height=4, mvp_mtx=mvp)


def test_a_nan_gradient_stops_with_a_message():
    """With the type of error for which Gaussians skip a step."""
    with pytest.raises(NonFiniteError, match=r"NaN or infinite at step 5 .*guidance_scale"):
        step(guidance("nan-prior", reward_strategy="none"), at=5)


@pytest.mark.parametrize(
    "scores, text",
    [
        ([0.0] * 15 + [float("nan")], "reward of candidate 3, image 3 is nan .*FixedReward"),
        ([float("inf")] + [0.0] * 15, "reward of candidate 0, image 0 is inf"),
        ([0.0] * 3, r"FixedReward returned 3 scores .* for 16 images"),
    ],
)
def test_a_bad_reward_stops_with_a_message(scores, text):
    built = guidance(reward_model_type="fixed", reward_model={"scores": scores})
    with pytest.raises(ValueError, match=text):
        step(built)


def test_bad_weights_stop_with_a_message(monkeypatch):
    built = guidance(reward_strategy="softmax")
    monkeypatch.setattr(built.strategy.cfg, "temperature", float("nan"))
    with pytest.raises(ValueError, match="weight of candidate 0, scene 0 is nan .*Softmax"):
        step(built)


def test_a_batch_that_is_not_whole_scenes_is_explained():
    check_scenes = extension("priors.latent").check_scenes
    with pytest.raises(ValueError, match="6 images, .* 4 views .*multiview-camera-datamodule"):
        check_scenes(6, 4)


AXES = {
    "prior": ["gaussian-prior", "wavy-prior", "wavy-text-scale-prior"],
    "recon_loss": [False, True],
    "preview_steps": [0, 1, 3],
    "preview_spacing": ["uniform", "official"],
    "reward_model_type": ["brightness"],
    "reward_strategy": ["none", *STRATEGIES],
    "n_view": [1, 2],
    "sqrt_anneal": [False, True],
    "grad_clip": [None, 1.0],
}


def all_pairs():
    """Every pair of values of two axes, the other axes cycling through theirs."""
    counter = itertools.count()
    for first, second in itertools.combinations(AXES, 2):
        for pair in itertools.product(AXES[first], AXES[second]):
            i = next(counter)
            chosen = {name: values[i % len(values)] for name, values in AXES.items()}
            yield {**chosen, first: pair[0], second: pair[1]}


@pytest.mark.parametrize("chosen", list({str(c): c for c in all_pairs()}.values()), ids=str)
def test_every_pair_of_options_takes_a_step(chosen):
    out, gradient = step(guidance(**chosen, trainer_max_steps=10), at=1)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    assert torch.isfinite(out["loss_sds"])
