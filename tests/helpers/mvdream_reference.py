"""MVDream's multi-view UNet as published, in plain torch, straight from an original state dict.

The UNet of latent diffusion (arXiv 2112.10752) with the changes of MVDream (arXiv 2308.16512):
self-attention runs over the tokens of all views of a scene, and an embedding of the camera is added
to that of the timestep. With one view and no camera it is Stable Diffusion's. No class, no config:
names of the file, and functions. Shares no code with the extension.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Unet:
    """A state dict and what its shapes do not say."""

    state: dict[str, Tensor]
    num_views: int
    num_heads: int = 0
    """Heads of every attention (1.5); 0: one per `head_channels` channels (2.1)."""
    head_channels: int = 64

    def __getitem__(self, name: str) -> Tensor:
        return self.state[UNET + name]

    def __contains__(self, name: str) -> bool:
        return UNET + name in self.state

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Linear layer; attention projections have no bias."""
        bias = self[f"{name}.bias"] if f"{name}.bias" in self else None
        return F.linear(x, self[f"{name}.weight"], bias)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """Convolution that keeps the size, up to the stride."""
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, self[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def group_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        """Normalise in 32 groups."""
        return F.group_norm(x, 32, self[f"{name}.weight"], self[f"{name}.bias"], eps)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise each token."""
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], 1e-5)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of `t` at frequencies from 1 down to nearly 1/10000."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def two_layers(unet: Unet, name: str, x: Tensor) -> Tensor:
    """Linear, SiLU, linear: the embeddings of timestep and camera."""
    return unet.linear(f"{name}.2", F.silu(unet.linear(f"{name}.0", x)))


def residual_block(unet: Unet, name: str, x: Tensor, emb: Tensor) -> Tensor:
    """Two convolutions, between them the embedding is added; 1x1 shortcut where widths differ."""
    h = F.silu(unet.group_norm(f"{name}.in_layers.0", x, 1e-5))
    h = unet.conv(f"{name}.in_layers.2", h)
    h = h + unet.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    h = F.silu(unet.group_norm(f"{name}.out_layers.0", h, 1e-5))
    h = unet.conv(f"{name}.out_layers.3", h)
    if f"{name}.skip_connection.weight" in unet:
        x = unet.conv(f"{name}.skip_connection", x)
    return x + h


def attention(unet: Unet, name: str, x: Tensor, context: Tensor) -> Tensor:
    """Softmax attention written out; x [N L D] asks, context [N M E] answers."""
    heads = unet.num_heads or x.shape[-1] // unet.head_channels
    q, k, v = (
        unet.linear(f"{name}.{part}", source).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, source in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    similarity = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    mixed = (similarity.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    return unet.linear(f"{name}.to_out.0", mixed)


def feed_forward(unet: Unet, name: str, x: Tensor) -> Tensor:
    """Gated linear unit with GELU."""
    value, gate = unet.linear(f"{name}.net.0.proj", x).chunk(2, dim=-1)
    return unet.linear(f"{name}.net.2", value * F.gelu(gate))


def transformer(unet: Unet, name: str, x: Tensor, context: Tensor) -> Tensor:
    """Self-attention over all views, cross-attention to the text, feed-forward; residual."""
    n, c, h, w = x.shape
    normed = unet.group_norm(f"{name}.norm", x, 1e-6)
    linear = unet[f"{name}.proj_in.weight"].ndim == 2
    if linear:
        tokens = unet.linear(f"{name}.proj_in", normed.flatten(2).transpose(1, 2))
    else:
        tokens = unet.conv(f"{name}.proj_in", normed).flatten(2).transpose(1, 2)
    block = f"{name}.transformer_blocks.0"
    scenes = tokens.reshape(n // unet.num_views, unet.num_views * h * w, c)
    asking = unet.layer_norm(f"{block}.norm1", scenes)
    scenes = scenes + attention(unet, f"{block}.attn1", asking, asking)
    tokens = scenes.reshape(n, h * w, c)
    asking = unet.layer_norm(f"{block}.norm2", tokens)
    tokens = tokens + attention(unet, f"{block}.attn2", asking, context)
    tokens = tokens + feed_forward(unet, f"{block}.ff", unet.layer_norm(f"{block}.norm3", tokens))
    if linear:
        tokens = unet.linear(f"{name}.proj_out", tokens)
        return x + tokens.transpose(1, 2).reshape(n, c, h, w)
    return x + unet.conv(f"{name}.proj_out", tokens.transpose(1, 2).reshape(n, c, h, w))


def sequence(unet: Unet, name: str, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
    """Apply the members of a block, whatever they are: their tensors' names tell."""
    index = 0
    while any(key.startswith(f"{UNET}{name}.{index}.") for key in unet.state):
        layer = f"{name}.{index}"
        if f"{layer}.in_layers.0.weight" in unet:
            x = residual_block(unet, layer, x, emb)
        elif f"{layer}.proj_in.weight" in unet:
            x = transformer(unet, layer, x, context)
        elif f"{layer}.op.weight" in unet:
            x = unet.conv(f"{layer}.op", x, stride=2)
        elif f"{layer}.conv.weight" in unet:
            enlarged = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
            x = unet.conv(f"{layer}.conv", enlarged)
        else:
            x = unet.conv(layer, x)
        index += 1
    return x


def num_blocks(unet: Unet, group: str) -> int:
    """Count the blocks of a group, e.g. "input_blocks"."""
    prefix = f"{UNET}{group}."
    return 1 + max(int(k[len(prefix) :].split(".")[0]) for k in unet.state if k.startswith(prefix))


def predict_noise(
    unet: Unet, x: Tensor, t: Tensor, context: Tensor, camera: Tensor | None = None
) -> Tensor:
    """Return the UNet's output.

    Args:
        x: Noisy latents [N c h w], the views of a scene side by side.
        t: Timesteps [N].
        context: Text embeddings [N S D].
        camera: Flattened camera matrices [N 16]; None for a single-view model.
    """
    width = unet["time_embed.0.weight"].shape[1]
    emb = two_layers(unet, "time_embed", timestep_embedding(t, width).to(x))
    if camera is not None:
        emb = emb + two_layers(unet, "camera_embed", camera)
    saved = []
    for i in range(num_blocks(unet, "input_blocks")):
        x = sequence(unet, f"input_blocks.{i}", x, emb, context)
        saved.append(x)
    x = sequence(unet, "middle_block", x, emb, context)
    for i in range(num_blocks(unet, "output_blocks")):
        x = torch.cat([x, saved.pop()], dim=1)
        x = sequence(unet, f"output_blocks.{i}", x, emb, context)
    return unet.conv("out.2", F.silu(unet.group_norm("out.0", x, 1e-5)))
