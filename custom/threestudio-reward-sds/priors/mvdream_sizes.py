"""The sizes of an original MVDream checkpoint, read from the shapes of its tensors.

The file is one state dict with the names of the latent diffusion code base. Shapes do not tell the
number of attention heads: the models that grew from Stable Diffusion 1.5 have 8, those from 2.1
have one per 64 channels, and the latter are known by their linear projections around the attention
(1.5: convolutions).
"""

from typing import Any, Dict, List, Tuple

from torch import Tensor

from ..errors import UserError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
"""Prefixes of the three parts."""
CAMERA = f"{UNET}camera_embed."
OPEN_CLIP, CLIP = f"{TEXT}model.", f"{TEXT}transformer."
"""Prefixes of the two kinds of text encoder: models from 2.1, models from 1.5."""
IMAGE_SIZE = 256
"""Pixels of the images that MVDream was trained on."""
SCALING_FACTOR = 0.18215
NUM_HEADS, HEAD_CHANNELS = 8, 64

StateDict = Dict[str, Tensor]


def unet_config(state: StateDict) -> Dict[str, Any]:
    """Read the UNet's sizes; the attention's kind tells the number of its heads."""
    levels = _unet_levels(state)
    channels = [level[0][0] for level in levels]
    attends = [level[0][1] for level in levels]
    linear = len(shape(state, f"{UNET}middle_block.1.proj_in.weight")) == 2
    heads = tuple(max(c // HEAD_CHANNELS, 1) for c in channels) if linear else NUM_HEADS
    mid = f"{UNET}middle_block.1.transformer_blocks.0."
    return {
        "sample_size": IMAGE_SIZE // 2 ** (_vae_levels(state) - 1),
        "in_channels": shape(state, f"{UNET}input_blocks.0.0.weight")[1],
        "out_channels": shape(state, f"{UNET}out.2.weight")[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": len(levels[0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
        ),
        "cross_attention_dim": shape(state, f"{mid}attn2.to_k.weight")[1],
        "attention_head_dim": heads,  # in spite of its name the number of heads
        "use_linear_projection": linear,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": shape(state, f"{CAMERA}0.weight")[1],
    }


def _unet_levels(state: StateDict) -> List[List[Tuple[int, bool]]]:
    """Return, level by level, the blocks' channels and whether they have attention."""
    shape(state, f"{UNET}input_blocks.1.0.out_layers.3.weight")
    levels: List[List[Tuple[int, bool]]] = [[]]
    for i in range(1, count(state, f"{UNET}input_blocks.")):
        block = f"{UNET}input_blocks.{i}."
        if f"{block}0.op.weight" in state:
            levels.append([])
        else:
            channels = shape(state, f"{block}0.out_layers.3.weight")[0]
            levels[-1].append((channels, f"{block}1.proj_in.weight" in state))
    return [level for level in levels if level]


def vae_config(state: StateDict) -> Dict[str, Any]:
    """Read the autoencoder's sizes."""
    levels, down = range(_vae_levels(state)), f"{VAE}encoder.down"
    return {
        "in_channels": shape(state, f"{VAE}encoder.conv_in.weight")[1],
        "out_channels": shape(state, f"{VAE}decoder.conv_out.weight")[0],
        "latent_channels": shape(state, f"{VAE}post_quant_conv.weight")[1],
        "block_out_channels": tuple(
            shape(state, f"{down}.{i}.block.0.conv2.weight")[0] for i in levels
        ),
        "layers_per_block": count(state, f"{down}.0.block."),
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
        "sample_size": IMAGE_SIZE,
        "scaling_factor": SCALING_FACTOR,
    }


def _vae_levels(state: StateDict) -> int:
    """Count the autoencoder's resolutions; each level but the first halves the image."""
    shape(state, f"{VAE}encoder.down.0.block.0.conv2.weight")
    return count(state, f"{VAE}encoder.down.")


def text_config(state: StateDict) -> Dict[str, Any]:
    """Read the text encoder's sizes; both kinds have one head per 64 channels."""
    if is_open_clip(state):
        tokens, positions = f"{OPEN_CLIP}token_embedding.weight", f"{OPEN_CLIP}positional_embedding"
        layers, hidden = f"{OPEN_CLIP}transformer.resblocks.", "0.mlp.c_fc.weight"
        activation, unused = "gelu", 1
    else:
        tokens = f"{CLIP}text_model.embeddings.token_embedding.weight"
        positions = f"{CLIP}text_model.embeddings.position_embedding.weight"
        layers, hidden = f"{CLIP}text_model.encoder.layers.", "0.mlp.fc1.weight"
        activation, unused = "quick_gelu", 0
    vocabulary, width = shape(state, tokens)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape(state, layers + hidden)[0],
        "num_hidden_layers": count(state, layers) - unused,
        "num_attention_heads": max(width // HEAD_CHANNELS, 1),
        "max_position_embeddings": shape(state, positions)[0],
        "hidden_act": activation,
    }


def is_open_clip(state: StateDict) -> bool:
    """Whether the text encoder is open_clip's (models from 2.1) rather than CLIP's (from 1.5)."""
    return any(name.startswith(OPEN_CLIP) for name in state)


def part(state: StateDict, prefix: str) -> StateDict:
    """Return the tensors under a prefix, by their whole names."""
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def count(state: StateDict, prefix: str) -> int:
    """Count the different components that follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in part(state, prefix)})


def shape(state: StateDict, name: str) -> Tuple[int, ...]:
    """Return the shape of a tensor; the error of one that is missing names it."""
    if name not in state:
        raise UserError(f"The checkpoint is not of MVDream's architecture: it lacks `{name}`.")
    return tuple(state[name].shape)
