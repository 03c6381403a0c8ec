"""The parts of an original MVDream checkpoint on diffusers and transformers classes.

Models are built without memory of their own and take over the tensors of the state dict, which may
be mapped from the file: nothing is read before every name and shape is known to be right.
"""

from typing import Any

import torch

from ..errors import refuse
from ..networks import differing
from .mvdream_sizes import (
    CAMERA,
    CLIP,
    OPEN_CLIP,
    UNET,
    VAE,
    StateDict,
    is_open_clip,
    part,
    text_config,
    unet_config,
    vae_config,
)


def build_unet(state: StateDict) -> Any:
    """Build the denoiser; the camera's embedding becomes diffusers' class embedding."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, source = unet_config(state), part(state, UNET)
    converted = convert_ldm_unet_checkpoint(
        source, {"layers_per_block": config["layers_per_block"]}
    )
    first, second = f"{CAMERA}0.", f"{CAMERA}2."
    for name in part(state, CAMERA):
        new = name.replace(first, "class_embedding.linear_1.")
        converted[new.replace(second, "class_embedding.linear_2.")] = state[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return fill(unet, converted, source, "UNet")


def build_vae(state: StateDict) -> Any:
    """Build the autoencoder."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config, source = vae_config(state), part(state, VAE)
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    return fill(vae, convert_ldm_vae_checkpoint(source, config), source, "autoencoder")


def build_text_encoder(state: StateDict) -> Any:
    """Build the text encoder, to be saved: what is not saved with a model stays without memory."""
    from diffusers.loaders import single_file_utils
    from transformers import CLIPTextConfig, CLIPTextModel

    config = text_config(state)
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(**config))
    if is_open_clip(state):
        source = _open_clip_tensors(state, config["num_hidden_layers"])
        converted = single_file_utils.convert_open_clip_checkpoint(encoder, source)
    else:
        source = part(state, CLIP)
        source.pop(f"{CLIP}text_model.embeddings.position_ids", None)
        converted = single_file_utils.convert_ldm_clip_checkpoint(source)
    if not hasattr(encoder, "text_model"):  # transformers 5.6 and later
        converted = {name.removeprefix("text_model."): t for name, t in converted.items()}
    copied = {name: tensor for name, tensor in source.items() if "attn.in_proj_" not in name}
    return fill(encoder, converted, copied, "text encoder")


def _open_clip_tensors(state: StateDict, num_layers: int) -> StateDict:
    """Return what models from 2.1 use of open_clip's text tower.

    They read the output of the last layer but one; the last layer, and what only serves to compare
    texts with images, is left out.
    """
    unused = ("text_projection", "logit_scale", "attn_mask", f"transformer.resblocks.{num_layers}.")
    left_out = tuple(OPEN_CLIP + name for name in unused)
    tower = part(state, OPEN_CLIP)
    return {name: tensor for name, tensor in tower.items() if not name.startswith(left_out)}


def build_scheduler() -> Any:
    """Build the noise schedule that all these models were trained with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def fill(model: Any, converted: StateDict, source: StateDict, kind: str) -> Any:
    """Give a model its tensors, all that it has and no others.

    Args:
        model: Built without memory.
        converted: Tensors of the file by the model's names.
        source: The same by the names of the file, without those that were cut up.
        kind: What the model is, for messages.

    Raises:
        UserError: Tensors are missing, left over or of the wrong shape.
    """
    wanted = model.state_dict()
    found = {name: tensor for name, tensor in converted.items() if tensor is not None}
    # A tensor of the file is used if one of the model's lies at the same address.
    used = {found[name].data_ptr() for name in wanted if name in found}
    both = [name for name in wanted if name in found]
    differences = {
        "lacks (names of diffusers)": [name for name in wanted if name not in found],
        "has no place for": [name for name, t in source.items() if t.data_ptr() not in used],
        "expects another shape of": [n for n in both if found[n].shape != wanted[n].shape],
    }
    told = differing(differences)
    if told:
        refuse([f"The checkpoint is not of MVDream's architecture: its {kind} {told}."])
    model.load_state_dict(found, assign=True)
    return model
