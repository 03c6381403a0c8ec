"""Original MVDream checkpoints: random ones in the original layout, against the published maths."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

import threestudio
from tests.helpers import ldm_reference, mvdream_reference
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance
from tests.helpers.original_layout import PUBLISHED, TINY, random_state, save
from tests.helpers.original_shapes import all_shapes

parts = extension("priors.mvdream_parts")
Cameras = extension("priors.base").Cameras
UserError = extension("errors").UserError

VIEWS = 4
KINDS = pytest.mark.parametrize("kind", TINY)
PRECISIONS = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["single", "double"]
)
PARAMETERS = {
    "2.1": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "1.5": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
}
"""Of the published Stable Diffusion models; the UNet without the camera's embedding."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    return {kind: save(sizes, folder / f"{kind}.pt") for kind, sizes in TINY.items()}


def largest(found, expected):
    """Return the largest absolute difference."""
    return (found - expected).abs().max().item()


def load(path, **settings):
    settings = {"image_size": 32, "n_view": VIEWS, **settings}
    return threestudio.find("mvdream-prior")({"ckpt_path": path, **settings})


def prior_and_weights(kind, files, dtype):
    """The prior that loads the file, and the file's weights as they were drawn."""
    prior = load(files[kind], encode_sample=False)
    prior.unet.type(dtype), prior.vae.type(dtype)
    state = random_state(TINY[kind])
    return prior, {name: tensor.to(dtype) for name, tensor in state.items()}


@KINDS
@PRECISIONS
def test_the_prediction_equals_the_published_network(kind, dtype, tolerance, files):
    """Two scenes of four views, with and without the prompt."""
    sizes, (prior, state) = TINY[kind], prior_and_weights(kind, files, dtype)
    noisy = torch.randn(1, 2 * VIEWS, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    entries = camera_batch(2 * VIEWS, dtype)
    azimuth, camera = entries["azimuth"], entries["c2w"].clone()
    cameras = Cameras(entries["elevation"], azimuth, entries["camera_distances"], entries["c2w"])
    prompts, timesteps = Prompts(width=sizes.context), torch.tensor([500, 20])
    found = prior.bind(prompts, cameras, 64)(noisy, timesteps)
    camera[:, :3, 3] /= camera[:, :3, 3].norm(dim=1, keepdim=True)
    text = prompts.get_text_embeddings(0, azimuth, 0, False).to(dtype)
    unet = mvdream_reference.Unet(state, VIEWS, 0 if sizes.linear else 8)
    cond, uncond = (
        mvdream_reference.predict_noise(
            unet, noisy[0], timesteps.repeat_interleave(VIEWS), rows, camera.flatten(1)
        )
        for rows in text.chunk(2)
    )
    difference = max(largest(found.cond[0], cond), largest(found.uncond[0], uncond))
    size = cond.abs().mean()
    print(f"\n{kind}-like UNet, {dtype}: difference {difference:.1e}, mean magnitude {size:.2f}")
    assert difference <= tolerance and size > 0.1


@KINDS
@PRECISIONS
def test_encoding_and_decoding_equal_the_published_autoencoder(kind, dtype, tolerance, files):
    prior, state = prior_and_weights(kind, files, dtype)
    rgb = torch.rand(VIEWS, 32, 32, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    mean, _ = ldm_reference.encode(state, rgb.permute(0, 3, 1, 2) * 2 - 1)
    latents = prior.encode(rgb, torch.Generator())
    images = (ldm_reference.decode(state, latents / 0.18215) / 2 + 0.5).clamp(0, 1)
    encoded, decoded = largest(latents, 0.18215 * mean), largest(prior.decode(latents), images)
    print(f"\n{kind}-like autoencoder, {dtype}: differences {encoded:.1e}, {decoded:.1e}")
    assert max(encoded, decoded) <= tolerance
    assert mean.std() > 0.1 and images.std() > 0.1


@KINDS
def test_sizes_schedule_and_precision(kind, files):
    prior = load(files[kind], image_size=None)
    assert (prior.image_size, prior.latent_size, prior.num_views) == (256, 64, VIEWS)
    assert prior.prediction_type == "epsilon"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(prior.alpha_bar, torch.cumprod(1 - betas, 0), atol=1e-6)
    parameters = [*prior.unet.parameters(), *prior.vae.parameters()]
    assert {(p.dtype, p.requires_grad) for p in parameters} == {(torch.float32, False)}


@KINDS
def test_the_published_sizes_are_understood(kind):
    """Every name and shape fits, and the models are as large as those of Stable Diffusion."""
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in all_shapes(PUBLISHED[kind]).items()}
    camera = 16 * 1280 + 1280 + 1280 * 1280 + 1280
    for name, expected in PARAMETERS[kind].items():
        model = getattr(parts, f"build_{name}")(state)
        extra = camera if name == "unet" else 0
        assert sum(p.numel() for p in model.parameters()) == expected + extra
    config = parts.build_unet(state).config
    heads = (5, 10, 20, 20) if kind == "2.1" else 8
    assert (config.attention_head_dim, config.sample_size) == (heads, 32)


def in_state_dict(state, file):
    torch.save({"state_dict": state, "global_step": 7}, file)


def in_old_format(state, file):
    torch.save(state, file, _use_new_zipfile_serialization=False)


def in_half_precision(state, file):
    torch.save({name: tensor.half() for name, tensor in state.items()}, file)


@pytest.mark.parametrize(
    "write, suffix, tolerance",
    [
        (in_state_dict, "ckpt", 0),
        (in_old_format, "pt", 0),
        (save_file, "safetensors", 0),
        (in_half_precision, "pt", 1e-3),
    ],
    ids=["state_dict", "old format", "safetensors", "half"],
)
def test_other_files_of_the_same_weights(write, suffix, tolerance, files, tmp_path):
    file = tmp_path / f"copy.{suffix}"
    write(random_state(TINY["1.5"]), file)
    expected, found = load(files["1.5"]).unet.state_dict(), load(str(file)).unet.state_dict()
    assert all(
        torch.allclose(found[name], tensor, atol=tolerance, rtol=tolerance)
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("key", ["ckpt_path", "pretrained_model_name_or_path"])
def test_both_keys_take_a_file_of_any_name(key, files, tmp_path):
    """Also as a prior of the guidance, where the baseline's keys stand."""
    copy = shutil.copy(files["1.5"], tmp_path / "weights.bin")
    built = guidance("mvdream-prior", **{key: str(copy)}, n_view=VIEWS, image_size=32)
    assert built.prior.unet.config.block_out_channels == (32, 32, 64)


def cache(path, name, monkeypatch, folder):
    """Put a file where `hf download MVDream/MVDream <name>` puts it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    model = folder / "models--MVDream--MVDream"
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    shutil.copy(path, model / "snapshots" / "abc" / name)


def test_a_cached_copy_of_the_hub_is_used(files, tmp_path, monkeypatch):
    cache(files["1.5"], "sd-v1.5-4view.pt", monkeypatch, tmp_path)
    assert load(None, model_name="sd-v1.5-4view").unet.config.use_linear_projection is False
    with pytest.raises(UserError, match="no weights: 'sd-v2.1-base-4view' is not in the local"):
        load(None)
