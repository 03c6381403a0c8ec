"""The first stage of DeepFloyd IF as published, in plain torch, straight from a state dict.

The UNet of guided diffusion (arXiv 2105.05233): residual blocks that are scaled and shifted by the
embedding, and also shrink and enlarge; attention in which the pixels look at the text and at each
other at once. As in Imagen (arXiv 2205.11487) the text, pooled by attention, is added to the
embedding of the timestep. Activations are GELU. Names of tensors are those of a diffusers folder.
Shares no code with the extension.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.mvdream_reference import timestep_embedding


@dataclass(frozen=True)
class Unet:
    """A state dict and what its shapes do not say."""

    state: dict[str, Tensor]
    groups: int
    """Groups of normalisation, except that of the text, which has 32."""
    head_channels: int
    pool_heads: int
    """Heads of the attention that pools the text."""

    def __getitem__(self, name: str) -> Tensor:
        return self.state[name]

    def count(self, prefix: str) -> int:
        """Count numbered members, e.g. of "down_blocks."."""
        names = (name for name in self.state if name.startswith(prefix))
        return len({name[len(prefix) :].split(".")[0] for name in names})

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def conv(self, name: str, x: Tensor) -> Tensor:
        """Convolution that keeps the size."""
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, self[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def group_norm(self, name: str, x: Tensor, groups: int = 0) -> Tensor:
        groups = groups or self.groups
        return F.group_norm(x, groups, self[f"{name}.weight"], self[f"{name}.bias"], 1e-5)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], 1e-5)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention written out; q [N L D] asks, k and v [N M D] answer."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def residual_block(unet: Unet, name: str, x: Tensor, emb: Tensor, resize: float = 1) -> Tensor:
    """Two convolutions, between them scale and shift; resized before the first one, if at all."""
    h = F.gelu(unet.group_norm(f"{name}.norm1", x))
    if resize == 2:
        x, h = (y.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for y in (x, h))
    elif resize == 0.5:
        x, h = (y.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3)) for y in (x, h))
    h = unet.conv(f"{name}.conv1", h)
    given = unet.linear(f"{name}.time_emb_proj", F.gelu(emb))[:, :, None, None]
    scale, shift = given.chunk(2, dim=1)
    h = unet.group_norm(f"{name}.norm2", h) * (1 + scale) + shift
    h = unet.conv(f"{name}.conv2", F.gelu(h))
    if f"{name}.conv_shortcut.weight" in unet.state:
        x = unet.conv(f"{name}.conv_shortcut", x)
    return x + h


def attention(unet: Unet, name: str, x: Tensor, text: Tensor) -> Tensor:
    """Each pixel looks at all tokens of the text and at all pixels, in one softmax; residual."""
    pixels = unet.group_norm(f"{name}.group_norm", x).flatten(2).transpose(1, 2)  # [N L C]
    words = unet.group_norm(f"{name}.norm_cross", text.transpose(1, 2), 32).transpose(1, 2)
    q = unet.linear(f"{name}.to_q", pixels)
    k, v = (
        torch.cat(
            [unet.linear(f"{name}.to_{p}", pixels), unet.linear(f"{name}.add_{p}_proj", words)], 1
        )
        for p in "kv"
    )
    mixed = softmax_attention(q, k, v, x.shape[1] // unet.head_channels)
    return x + unet.linear(f"{name}.to_out.0", mixed).transpose(1, 2).reshape(x.shape)


def pooled_text(unet: Unet, text: Tensor) -> Tensor:
    """Norm, a query made of the mean that looks at itself and all tokens, linear, norm."""
    name = "add_embedding.pool"
    tokens = unet.layer_norm("add_embedding.norm1", text)
    query = tokens.mean(dim=1, keepdim=True) + unet[f"{name}.positional_embedding"]
    tokens = torch.cat([query, tokens], dim=1)
    k, v = unet.linear(f"{name}.k_proj", tokens), unet.linear(f"{name}.v_proj", tokens)
    mixed = softmax_attention(unet.linear(f"{name}.q_proj", query), k, v, unet.pool_heads)
    return unet.layer_norm("add_embedding.norm2", unet.linear("add_embedding.proj", mixed[:, 0]))


def step(unet: Unet, name: str, index: int, x: Tensor, emb: Tensor, text: Tensor) -> Tensor:
    """Residual block, and the attention after it if the level has one."""
    x = residual_block(unet, f"{name}.resnets.{index}", x, emb)
    if f"{name}.attentions.{index}.to_q.weight" in unet.state:
        x = attention(unet, f"{name}.attentions.{index}", x, text)
    return x


def predict(unet: Unet, x: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
    """Return the UNet's output, noise and learned variance.

    Args:
        x: Noisy images [N 3 h w].
        t: Timesteps [N].
        embeddings: Embeddings of the text [N S D].
    """
    emb = timestep_embedding(t, unet["time_embedding.linear_1.weight"].shape[1]).to(x)
    emb = F.gelu(unet.linear("time_embedding.linear_1", emb))
    emb = unet.linear("time_embedding.linear_2", emb) + pooled_text(unet, embeddings)
    text = unet.linear("encoder_hid_proj", embeddings)
    x = unet.conv("conv_in", x)
    saved = [x]
    for level in range(unet.count("down_blocks.")):
        name = f"down_blocks.{level}"
        for i in range(unet.count(f"{name}.resnets.")):
            saved.append(x := step(unet, name, i, x, emb, text))
        if unet.count(f"{name}.downsamplers."):
            saved.append(x := residual_block(unet, f"{name}.downsamplers.0", x, emb, 0.5))
    x = step(unet, "mid_block", 0, x, emb, text)
    x = residual_block(unet, "mid_block.resnets.1", x, emb)
    for level in range(unet.count("up_blocks.")):
        name = f"up_blocks.{level}"
        for i in range(unet.count(f"{name}.resnets.")):
            x = step(unet, name, i, torch.cat([x, saved.pop()], dim=1), emb, text)
        if unet.count(f"{name}.upsamplers."):
            x = residual_block(unet, f"{name}.upsamplers.0", x, emb, 2)
    return unet.conv("conv_out", F.gelu(unet.group_norm("conv_norm_out", x)))
