"""DDS: equal to the reference, cheap, and clear about what an edit needs."""

import pytest
import torch
from PIL import Image

from tests.helpers import doubles, reference
from tests.helpers.doubles import (
    DoublePromptProcessor,
    Words,
    camera_batch,
    guidance,
    render,
    spoken,
)
from tests.reward_sds.test_guidance import drawn
from threestudio.utils.errors import UserError

BATCH, COUNT, SCALE = 2, 5, 3.0
SOURCE, TARGET = "a cat", "a dog"


@pytest.fixture
def picture(tmp_path):
    values = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(values.to(torch.uint8).numpy()).save(tmp_path / "source.png")
    return str(tmp_path / "source.png")


def settings(picture, **more):
    return {
        "objective_type": "dds-objective",
        "guidance_scale": SCALE,
        "source_image": picture,
        "source_prompt": SOURCE,
        "prompt_processor_type": "double-prompt-processor",
        "prompt_processor": {"prompt": TARGET},
        "n_noises": COUNT,
        **more,
    }


def build(picture, **more):
    return guidance("listening-prior", **settings(picture, **more))


def step(built, targets=(TARGET,)):
    built.do_update_step(0, 0)
    rgb = render(BATCH)
    out = built(rgb, Words(list(targets)), **camera_batch(BATCH, torch.float64))
    out["loss_dds"].backward()
    return out, rgb.grad


def network(prior, prompt):
    """The prior given a prompt, as the reference's network."""

    def evaluate(noisy, t, half):
        given = torch.full((len(noisy),), spoken(prompt) if half else 0.0, dtype=torch.float64)
        return prior.network(noisy, torch.full((len(noisy),), t), {"half": given})

    return evaluate


def expected_gradient(built, picture, weights, sources, targets):
    """Do the step with plain loops."""
    timesteps, noise = drawn(built, BATCH, COUNT)
    z = render(BATCH).detach().permute(0, 3, 1, 2)
    pixels = Image.open(picture).get_flattened_data()
    source = torch.tensor(list(pixels), dtype=torch.float64).view(1, 4, 4, 3) / 255
    source = source.permute(0, 3, 1, 2).float().double()
    scenes = iter(list(range(BATCH)) * COUNT)

    def residual(latents, eps, t):
        scene, prior = next(scenes), built.prior
        pair = (network(prior, targets[scene]), network(prior, sources[scene]))
        return reference.dds_residual(latents, source, eps, t, prior.alpha_bar, *pair, SCALE)

    gradient = reference.weighted_gradient(z, noise, timesteps, weights, residual)
    return gradient.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["min-max", "best", "mean"])
def test_weighted_differences_equal_the_plain_loop(picture, name):
    scores = list(range(COUNT * BATCH))
    built = build(
        picture, reward_strategy=name, reward_model_type="fixed", reward_model={"scores": scores}
    )
    _, gradient = step(built)
    column = reference.strategy_weights(name, list(range(COUNT)))
    weights = [[column[k]] * BATCH for k in range(COUNT)]
    expected = expected_gradient(built, picture, weights, [SOURCE] * 2, [TARGET] * 2)
    assert torch.allclose(gradient, expected, atol=1e-7)
    assert gradient.abs().max() > 1e-3


def test_scenes_have_prompts_of_their_own(picture):
    sources, targets = ["a cat", "a cow"], ["a dog", "a fox"]
    built = build(
        picture,
        reward_strategy="mean",
        source_prompt=None,
        source_prompts=sources,
        prompt_processor={"prompts": targets},
    )
    _, gradient = step(built, targets)
    weights = [[1 / COUNT] * BATCH for _ in range(COUNT)]
    expected = expected_gradient(built, picture, weights, sources, targets)
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_the_source_under_its_own_prompt_stays(picture):
    """Both branches cancel to the last bit, whatever the noise, and whatever the encoder draws."""
    built = build(picture, reward_strategy="mean", noise_scale=0.5)
    built.do_update_step(0, 0)
    source = built.objective._source.permute(0, 2, 3, 1).double().repeat(BATCH, 1, 1, 1)
    rgb = source.requires_grad_(True)
    out = built(rgb, Words([SOURCE]), **camera_batch(BATCH, torch.float64))
    out["loss_dds"].backward()
    assert not rgb.grad.any() and out["loss_dds"] == 0


@pytest.mark.parametrize(
    ("name", "preview_steps", "images"),
    [
        ("mean", 1, 2 * COUNT + 2 * COUNT),
        ("min-max", 1, 2 * COUNT + 2 * 4),
        ("best", 1, 2 * COUNT + 2 * 1),
        ("best", 4, 4 * 2 * COUNT + 2 * 1),
    ],
)
def test_the_source_is_evaluated_once_and_only_for_kept_candidates(
    picture, name, preview_steps, images
):
    built = build(picture, reward_strategy=name, preview_steps=preview_steps)
    out, _ = step(built)
    assert out["unet_calls"] == images * BATCH == sum(built.prior.calls)


def test_only_the_source_prompt_is_encoded_again(picture):
    DoublePromptProcessor.encoded.clear()
    step(build(picture))
    assert DoublePromptProcessor.encoded == [SOURCE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_image": None}, "edits a picture, but there is none.*`system.guidance.source_im"),
        ({"source_image": "none.png"}, "none.png', but there is no such file"),
        ({"source_image": []}, "`system.guidance.source_image` names no picture"),
        ({"source_prompt": " "}, "needs the prompt of the source"),
        ({"source_prompts": ["a", ""]}, "needs the prompt of the source"),
        ({"source_prompt": None}, "needs the prompt of the source. Set `system.guidance.source_p"),
        ({"source_prompt": TARGET}, "prompt are both 'a dog': there is nothing to edit"),
        ({"source_prompts": ["a", "b"]}, "source_prompts` has 2 prompts, but .* has 1"),
        ({"prompt_processor_type": ""}, "encodes prompts of its own. Add `prompt_processor_type"),
        ({"prompt_processor": {}}, "`system.guidance.prompt_processor` has no prompt"),
        ({"weighting_strategy": "dds"}, "must be one of sds, uniform, fantasia3d"),
    ],
)
def test_what_an_edit_needs(picture, change, message):
    with pytest.raises(ValueError, match=message):
        build(picture, **change)


def test_an_alpha_channel_is_refused(tmp_path):
    Image.new("RGBA", (4, 4), (1, 2, 3, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="alpha channel"):
        build(str(tmp_path / "a.png"))


def test_many_sources_are_encoded_in_parts(picture, monkeypatch):
    sizes, encode = [], doubles.WavyPrior.encode
    monkeypatch.setattr(
        doubles.WavyPrior, "encode", lambda self, x, g: sizes.append(len(x)) or encode(self, x, g)
    )
    built = build([picture] * 20)
    assert sizes == [16, 4] and len(built.objective._source) == 20


def test_one_source_for_all_or_one_for_each(picture):
    with pytest.raises(UserError, match="Give one picture for all images"):
        step(build([picture] * 3))
