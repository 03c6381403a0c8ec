"""The autoencoder and the text encoders of Stable Diffusion as published, in plain torch.

Straight from an original state dict, as `mvdream_reference.py`: arXiv 2112.10752 (autoencoder),
2103.00020 (CLIP, Stable Diffusion 1.5) and open_clip's ViT-H text tower (2.1).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

VAE = "first_stage_model."
OPEN_CLIP = "cond_stage_model.model."
CLIP = "cond_stage_model.transformer.text_model."

State = dict[str, Tensor]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    """Convolution that keeps the size."""
    weight, bias = state[f"{VAE}{name}.weight"], state[f"{VAE}{name}.bias"]
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """Normalise in 32 groups."""
    return F.group_norm(x, 32, state[f"{VAE}{name}.weight"], state[f"{VAE}{name}.bias"], 1e-6)


def block(state: State, name: str, x: Tensor) -> Tensor:
    """Residual block without an embedding."""
    h = conv(state, f"{name}.conv1", F.silu(norm(state, f"{name}.norm1", x)))
    h = conv(state, f"{name}.conv2", F.silu(norm(state, f"{name}.norm2", h)))
    if f"{VAE}{name}.nin_shortcut.weight" in state:
        x = conv(state, f"{name}.nin_shortcut", x)
    return x + h


def middle(state: State, name: str, x: Tensor) -> Tensor:
    """Block, attention of one head between all pixels, block."""
    x = block(state, f"{name}.block_1", x)
    normed = norm(state, f"{name}.attn_1.norm", x)
    q, k, v = (conv(state, f"{name}.attn_1.{p}", normed).flatten(2) for p in "qkv")  # [N C L]
    weights = (q.transpose(1, 2) @ k / x.shape[1] ** 0.5).softmax(dim=-1)  # [N L L]
    mixed = (v @ weights.transpose(1, 2)).view_as(x)
    x = x + conv(state, f"{name}.attn_1.proj_out", mixed)
    return block(state, f"{name}.block_2", x)


def count(state: State, prefix: str) -> int:
    """Count numbered members, e.g. of "encoder.down."."""
    prefix = VAE + prefix
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def encode(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the latents of images in [-1, 1], unscaled."""
    x = conv(state, "encoder.conv_in", images)
    levels = count(state, "encoder.down.")
    for i in range(levels):
        for j in range(count(state, f"encoder.down.{i}.block.")):
            x = block(state, f"encoder.down.{i}.block.{j}", x)
        if i < levels - 1:
            name = f"{VAE}encoder.down.{i}.downsample.conv"
            padded = F.pad(x, (0, 1, 0, 1))  # right and bottom only
            x = F.conv2d(padded, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
    x = middle(state, "encoder.mid", x)
    x = conv(state, "encoder.conv_out", F.silu(norm(state, "encoder.norm_out", x)))
    return conv(state, "quant_conv", x).chunk(2, dim=1)


def decode(state: State, latents: Tensor) -> Tensor:
    """Return images in about [-1, 1] of unscaled latents."""
    x = conv(state, "decoder.conv_in", conv(state, "post_quant_conv", latents))
    x = middle(state, "decoder.mid", x)
    for i in reversed(range(count(state, "decoder.up."))):
        for j in range(count(state, f"decoder.up.{i}.block.")):
            x = block(state, f"decoder.up.{i}.block.{j}", x)
        if i > 0:
            enlarged = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
            x = conv(state, f"decoder.up.{i}.upsample.conv", enlarged)
    return conv(state, "decoder.conv_out", F.silu(norm(state, "decoder.norm_out", x)))


def causal_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Let each token see itself and those before it; [N S D] each."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    similarity = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    later = torch.ones_like(similarity, dtype=torch.bool).triu(1)
    weights = similarity.masked_fill(later, float("-inf")).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """Linear layer."""
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    """Normalise each token."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def open_clip_text(state: State, tokens: Tensor, num_layers: int) -> Tensor:
    """Return what Stable Diffusion 2.1 reads [N S D]: the last layer's input, normalised."""
    x = state[f"{OPEN_CLIP}token_embedding.weight"][tokens]
    x = x + state[f"{OPEN_CLIP}positional_embedding"]
    for i in range(num_layers - 1):
        name = f"{OPEN_CLIP}transformer.resblocks.{i}"
        normed = layer_norm(state, f"{name}.ln_1", x)
        weight, bias = state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
        q, k, v = F.linear(normed, weight, bias).chunk(3, dim=-1)
        mixed = causal_attention(q, k, v, num_heads=x.shape[-1] // 64)
        x = x + linear(state, f"{name}.attn.out_proj", mixed)
        hidden = linear(state, f"{name}.mlp.c_fc", layer_norm(state, f"{name}.ln_2", x))
        x = x + linear(state, f"{name}.mlp.c_proj", F.gelu(hidden))
    return layer_norm(state, f"{OPEN_CLIP}ln_final", x)


def clip_text(state: State, tokens: Tensor, num_layers: int) -> Tensor:
    """Return what Stable Diffusion 1.5 reads [N S D]: the last layer's output, normalised."""
    x = state[f"{CLIP}embeddings.token_embedding.weight"][tokens]
    x = x + state[f"{CLIP}embeddings.position_embedding.weight"]
    for i in range(num_layers):
        name = f"{CLIP}encoder.layers.{i}"
        project = partial(linear, state)
        normed = layer_norm(state, f"{name}.layer_norm1", x)
        q, k, v = (project(f"{name}.self_attn.{p}_proj", normed) for p in "qkv")
        mixed = causal_attention(q, k, v, num_heads=x.shape[-1] // 64)
        x = x + project(f"{name}.self_attn.out_proj", mixed)
        hidden = project(f"{name}.mlp.fc1", layer_norm(state, f"{name}.layer_norm2", x))
        x = x + project(f"{name}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    return layer_norm(state, f"{CLIP}final_layer_norm", x)
