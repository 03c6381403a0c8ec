"""Stable Diffusion's UNet from a folder, against the published architecture in plain torch."""

import pytest
import torch

import threestudio
from tests.helpers import mvdream_reference
from tests.helpers.doubles import Prompts, camera_batch, extension
from tests.helpers.original_layout import TINY, random_state

parts = extension("priors.mvdream_parts")
Cameras = extension("priors.base").Cameras
BATCH = 3


def save(folder, sizes):
    """Save random weights in the diffusers layout, without a camera embedding; return them."""
    state = random_state(sizes)
    unet = parts.build_unet(state)
    unet.class_embedding = None
    unet.register_to_config(class_embed_type=None, projection_class_embeddings_input_dim=None)
    unet.save_pretrained(folder / "unet")
    parts.build_vae(state).save_pretrained(folder / "vae")
    parts.build_scheduler().save_pretrained(folder / "scheduler")
    return state


@pytest.mark.parametrize("kind", TINY)
def test_the_prediction_equals_the_published_network(kind, tmp_path):
    """Each image at its own timestep, with and without the prompt."""
    sizes = TINY[kind]
    state = save(tmp_path, sizes)
    prior = threestudio.find("stable-diffusion-prior")(
        {"pretrained_model_name_or_path": str(tmp_path)}
    )
    entries, prompts = camera_batch(BATCH), Prompts(width=sizes.context)
    where = (entries["elevation"], entries["azimuth"], entries["camera_distances"])
    noisy = torch.randn(1, BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([980, 500, 20])
    found = prior.bind(prompts, Cameras(*where), 64)(noisy, timesteps)
    unet = mvdream_reference.Unet(state, 1, 0 if sizes.linear else 8)
    cond, uncond = (
        mvdream_reference.predict_noise(unet, noisy[0], timesteps, rows)
        for rows in prompts.get_text_embeddings(*where).chunk(2)
    )
    pairs = (found.cond[0], cond), (found.uncond[0], uncond)
    difference = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    size = cond.abs().mean()
    print(f"\nStable Diffusion {kind}: difference {difference:.1e}, mean magnitude {size:.2f}")
    assert difference <= 1e-5 and size > 0.1
