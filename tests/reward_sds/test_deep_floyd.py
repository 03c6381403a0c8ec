"""The pixel prior on a tiny random model of IF's kind, loaded from a folder as users have it."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import threestudio
from tests.helpers import deep_floyd_reference, reference
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render
from tests.helpers.tiny_models import damage, save_clip, save_diffusion
from tests.reward_sds.test_perp_neg import cameras, noise, prompts, texts_of

UserError = extension("errors").UserError
tiny_deep_floyd = extension("tiny_deep_floyd")
TEXT_WIDTH = tiny_deep_floyd.TEXT_WIDTH
SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_deep_floyd.save_unet(tmp_path_factory.mktemp("pixels"))


def load(folder, double=True, **settings):
    prior = threestudio.find("deep-floyd-prior")(
        {"pretrained_model_name_or_path": str(folder), **settings}
    )
    if double:
        prior.unet.double()
    return prior


def generator():
    return torch.Generator().manual_seed(0)


def build(folder, **settings):
    built = guidance("deep-floyd-prior", pretrained_model_name_or_path=folder, **settings)
    built.prior.unet.double()
    return built


def test_the_folder_says_size_schedule_and_parametrisation(folder):
    """The schedule is the cosine of arXiv 2102.09672, Eq. 17: its betas are capped at 0.999."""
    prior = load(folder)
    assert (prior.num_views, prior.latent_size, prior.prediction_type) == (1, SIZE, "epsilon")
    assert prior.alpha_bar.dtype == torch.float64 and prior.num_train_timesteps == 1000
    curve = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    expected = torch.tensor(curve[1:], dtype=torch.float64) / curve[0]
    assert torch.allclose(prior.alpha_bar[:-1], expected[:-1], rtol=1e-4, atol=0)
    assert torch.allclose(prior.alpha_bar[-1], expected[-2] * 0.001, rtol=1e-3, atol=0)


def test_the_network_is_frozen_single_precision_and_not_registered(folder):
    prior = load(folder, double=False)
    assert not any(p.requires_grad for p in prior.unet.parameters())
    assert {p.dtype for p in prior.unet.parameters()} == {torch.float32}
    built = build(folder)
    assert built.state_dict() == {} and list(built.parameters()) == []


def test_renders_are_resized_and_mapped_to_minus_one_to_one(folder):
    prior, rgb = load(folder), render(2, size=40)
    images = torch.nn.functional.interpolate(rgb.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear")
    latents = prior.encode(rgb, generator())
    assert torch.allclose(latents, 2 * images - 1, atol=1e-12)
    (gradient,) = torch.autograd.grad(latents.sum(), rgb)
    assert gradient.sum() == pytest.approx(2 * latents.numel())


def test_decoding_is_the_way_back_and_stays_an_image(folder):
    prior, rgb = load(folder), render(2, size=SIZE)
    decoded = prior.decode(prior.encode(rgb, generator()))
    assert torch.allclose(decoded, rgb.permute(0, 3, 1, 2), atol=1e-12)
    far = torch.tensor([-3.0, 0.5, 5.0]).view(1, 3, 1, 1)
    assert prior.decode(far).flatten().tolist() == [0, 0.75, 1]


def test_half_precision_renders_become_single_precision(folder):
    assert load(folder).encode(render(1).half(), generator()).dtype == torch.float32


def test_latents_are_refused(folder):
    with pytest.raises(UserError, match="`rgb_as_latents` has no meaning .* Render RGB"):
        load(folder).encode(render(1), generator(), as_latents=True)


@pytest.mark.parametrize("out_channels", [6, 3])
def test_the_noise_is_in_the_first_three_channels(out_channels, tmp_path):
    """The network called by hand: three candidates of four images, then both halves."""
    prior = load(tiny_deep_floyd.save_unet(tmp_path, out_channels))
    where = cameras()
    denoiser = prior.bind(Prompts(width=TEXT_WIDTH), where, chunk_size=5)
    noisy, timesteps = noise(3, 4, 3, SIZE, SIZE), torch.tensor([10, 300, 600, 900])
    found = denoiser(noisy, timesteps)
    text = Prompts(width=TEXT_WIDTH).get_text_embeddings(
        where.elevation, where.azimuth, where.distance
    )
    for k in range(3):
        for half, answer in enumerate((found.cond, found.uncond)):
            rows = text[4 * half : 4 * half + 4].double()
            output = prior.unet(noisy[k], timesteps, encoder_hidden_states=rows).sample
            assert output.shape[1] == out_channels
            assert torch.allclose(answer[k], output[:, :3], atol=1e-10, rtol=0)
    assert not torch.allclose(found.cond, found.uncond)


def test_the_prediction_equals_the_published_network(tmp_path):
    """Each image at its own timestep, with and without the prompt; random norms and biases too."""
    file = (
        Path(tiny_deep_floyd.save_unet(tmp_path)) / "unet" / "diffusion_pytorch_model.safetensors"
    )
    state = {
        name: tensor + 0.3 * noise(*tensor.shape, seed=i).float() if tensor.ndim == 1 else tensor
        for i, (name, tensor) in enumerate(load_file(file).items())
    }
    save_file(state, file)
    noisy, timesteps = noise(1, 4, 3, SIZE, SIZE).float(), torch.tensor([10, 300, 600, 900])
    words, where = Prompts(width=TEXT_WIDTH), cameras()
    found = load(tmp_path, double=False).bind(words, where, 64)(noisy, timesteps)
    unet = deep_floyd_reference.Unet(state, groups=4, head_channels=8, pool_heads=2)
    text = words.get_text_embeddings(where.elevation, where.azimuth, where.distance)
    cond, uncond = (
        deep_floyd_reference.predict(unet, noisy[0], timesteps, rows)[:, :3]
        for rows in text.chunk(2)
    )
    pairs = (found.cond[0], cond), (found.uncond[0], uncond)
    difference = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    size = cond.abs().mean()
    print(f"\nDeepFloyd IF: difference {difference:.1e}, mean magnitude {size:.2f}")
    assert difference <= 1e-5 and size > 0.1
    assert (cond - uncond).abs().max() > 0.01


def test_perp_neg_by_hand(folder):
    prior = load(folder)
    denoiser = prior.bind(prompts(width=TEXT_WIDTH), cameras(), chunk_size=64)
    noisy, timesteps = noise(1, 4, 3, SIZE, SIZE), torch.tensor([10, 300, 600, 900])
    found = denoiser(noisy, timesteps).guided(5.0)
    for g, t in enumerate(timesteps.tolist()):
        words, weights = texts_of(g, TEXT_WIDTH)

        def network(x, t, half, words=words):
            given = words[half][None].double()
            return prior.unet(x, t, encoder_hidden_states=given).sample[:, :3]

        negatives = list(zip((2, 3), weights, strict=True))
        expected = reference.guided_noise(noisy[0, g : g + 1], t, network, 5.0, negatives)
        assert torch.allclose(found[0, g : g + 1], expected, atol=1e-10, rtol=0)
    assert denoiser.images_evaluated == 4 * 4


@pytest.mark.parametrize("use_perp_neg", [False, True])
def test_a_step_does_not_depend_on_the_chunk_size(use_perp_neg, folder):
    gradients = []
    for chunk_size in (1, 6, 1000):
        built = build(folder, chunk_size=chunk_size, preview_steps=2)
        rgb = render(4, size=24)
        text = prompts(use_perp_neg, TEXT_WIDTH)
        built(rgb, text, **camera_batch(4, torch.float64))["loss_sds"].backward()
        gradients.append(rgb.grad)
    assert gradients[0].abs().sum() > 0
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_under_autocast_is_finite_and_single_precision(device, folder, tmp_path):
    built = guidance(
        "deep-floyd-prior",
        pretrained_model_name_or_path=folder,
        reward_model_type="clip",
        reward_model={"pretrained_model_name_or_path": save_clip(tmp_path)},
    )
    rgb = torch.rand(4, 64, 64, 3, device=device, requires_grad=True)
    batch = {name: value.to(device) for name, value in camera_batch(4).items()}
    half = torch.float16 if device == "cuda" else torch.bfloat16
    with torch.autocast(device, dtype=half):
        out = built(rgb, Prompts(width=TEXT_WIDTH), **batch)
        out["loss_sds"].backward()
    assert built.prior.unet.dtype == (torch.float16 if device == "cuda" else torch.float32)
    for name in ("loss_sds", "grad_norm", "reward"):
        assert out[name].dtype == torch.float32 and torch.isfinite(out[name]), name
    assert torch.isfinite(rgb.grad).all() and rgb.grad.abs().sum() > 0


def test_the_preset_has_the_published_defaults(folder):
    """Scale 20 from the text, that is 21 from the negative prompt; plain; 0.02 to 0.98."""
    built = threestudio.find("deep-floyd-guidance")({"pretrained_model_name_or_path": folder})
    assert built.reward is None and not built.strategy.needs_rewards
    assert (built.min_step, built.max_step) == (20, 980)
    assert not built.objective.cfg.recon_loss
    assert built.prior.cfg.enable_channels_last_format
    denoiser = built.prior.bind(Prompts(width=TEXT_WIDTH), cameras(), 8)
    assert denoiser.guided_scale(built.objective.cfg.guidance_scale) == 21.0
    default = built.prior.Config().pretrained_model_name_or_path
    assert default == "DeepFloyd/IF-I-XL-v1.0"


def test_the_options_of_the_baseline_do_not_change_the_prediction(folder):
    options = ("enable_attention_slicing", "enable_channels_last_format")
    answers = []
    for on in (False, True):
        prior = load(folder, **dict.fromkeys(options, on), enable_memory_efficient_attention=on)
        text = noise(2, 4, TEXT_WIDTH)
        answers.append(prior.unet(noise(2, 3, SIZE, SIZE), 5, encoder_hidden_states=text).sample)
    assert torch.allclose(*answers, atol=1e-6, rtol=0)  # sliced softmax is in single precision


def test_embeddings_of_another_encoder_are_refused(folder):
    with pytest.raises(UserError, match="have 8 numbers .* reads 16.*deep-floyd-prompt-processor"):
        load(folder).bind(Prompts(width=8), cameras(), 8)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"pretrained_model_name_or_path": "load/nope"}, "no such folder.*hf download Deep.*gated"),
        ({"enable_sequential_cpu_offload": True}, "lower .*chunk_size"),
        ({"half_precision_type": "half"}, "`system.guidance.half_precision_type` is 'half', but"),
    ],
)
def test_faults_are_told_before_anything_is_loaded(settings, text, folder):
    with pytest.raises(ValueError, match=text):
        threestudio.find("deep-floyd-prior")({"pretrained_model_name_or_path": folder, **settings})


def test_a_latent_model_and_an_incomplete_folder_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="reads 4 channels, not RGB.*stable-diffusion-prior"):
        load(save_diffusion(tmp_path / "latent"))
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load(copy)
    assert "gated" not in str(caught.value)
    shutil.rmtree(copy / "scheduler")
    with pytest.raises(ValueError, match="lacks scheduler/scheduler_config.json"):
        load(copy)


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_hub_model_is_answered_with_licence_and_command(offline, monkeypatch):
    """Offline it is found before anything is loaded; online the hub refuses."""
    from huggingface_hub import constants

    def gated(*args, **kwargs):
        raise OSError("403: you are trying to access a gated repo")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("diffusers.UNet2DConditionModel.from_pretrained", gated)
    command = "`hf download DeepFloyd/IF-I-XL-v1.0 --local-dir models/IF-I-XL-v1.0`"
    with pytest.raises(UserError, match=f"{command}.*accept the licence on https://") as caught:
        threestudio.find("deep-floyd-prior")({})
    assert ("403" in str(caught.value)) != offline


def test_where_the_tiny_model_cannot_be_saved_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert tiny_deep_floyd.main([str(tmp_path / "file" / "model")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
