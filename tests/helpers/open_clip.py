"""The architecture of OpenCLIP's CLIP in plain torch, from its description; names as published.

OpenAI's CLIP (arXiv 2103.00020) is the same with another activation, `quick_gelu`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Activation = Callable[[Tensor], Tensor]


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def block(name: str, width: int) -> Shapes:
    """List the tensors of one block."""
    return {
        **norm(f"{name}.ln_1", width),
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        **dense(f"{name}.attn.out_proj", width, width),
        **norm(f"{name}.ln_2", width),
        **dense(f"{name}.mlp.c_fc", width, 4 * width),
        **dense(f"{name}.mlp.c_proj", 4 * width, width),
    }


def random_state(
    vocabulary: int,
    vision_width: int = 24,
    text_width: int = 16,
    layers: tuple[int, int] = (2, 3),
    projection: int = 8,
    patch_size: int = 8,
) -> State:
    """Draw the tensors of a tiny model, 32 px images and 12 tokens; none is 0 or 1 throughout."""
    shapes = {
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, text_width),
        "positional_embedding": (12, text_width),
        "text_projection": (text_width, projection),
        **norm("ln_final", text_width),
        "visual.class_embedding": (vision_width,),
        "visual.positional_embedding": ((32 // patch_size) ** 2 + 1, vision_width),
        "visual.conv1.weight": (vision_width, 3, patch_size, patch_size),
        "visual.proj": (vision_width, projection),
        **norm("visual.ln_pre", vision_width),
        **norm("visual.ln_post", vision_width),
    }
    for i in range(layers[0]):
        shapes |= block(f"visual.transformer.resblocks.{i}", vision_width)
    for i in range(layers[1]):
        shapes |= block(f"transformer.resblocks.{i}", text_width)
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(s, generator=generator) for name, s in shapes.items()}
    scales = {name: 1 + t for name, t in state.items() if ".ln_" in f".{name}" and "weight" in name}
    return state | scales


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU by a sigmoid."""
    return x * torch.sigmoid(1.702 * x)


def encode_image(
    state: State, pixels: Tensor, heads: int, activation: Activation = F.gelu
) -> Tensor:
    """Class token first, positions, pre-norm, blocks, norm of the class token, projection."""
    weight = state["visual.conv1.weight"]
    patches = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], dim=1) + state["visual.positional_embedding"]
    x = layer_norm(state, "visual.ln_pre", x)
    x = transform(state, "visual.transformer", x, heads, activation)
    return layer_norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]


def encode_text(state: State, ids: Tensor, heads: int, activation: Activation = F.gelu) -> Tensor:
    """Causal blocks, norm, the token with the highest id, projection."""
    x = F.embedding(ids, state["token_embedding.weight"]) + state["positional_embedding"]
    length = ids.shape[1]
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
    x = transform(state, "transformer", x, heads, activation, mask)
    x = layer_norm(state, "ln_final", x)
    return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ state["text_projection"]


def transform(
    state: State,
    name: str,
    x: Tensor,
    heads: int,
    activation: Activation,
    mask: Tensor | None = None,
) -> Tensor:
    """Run the blocks: x + attention(norm(x)), x + MLP(norm(x))."""
    i = 0
    while f"{name}.resblocks.{i}.ln_1.weight" in state:
        block = f"{name}.resblocks.{i}"
        y = layer_norm(state, f"{block}.ln_1", x)
        attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True, dtype=x.dtype)
        prefix = f"{block}.attn."
        attention.load_state_dict(
            {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
        )
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        hidden = linear(state, f"{block}.mlp.c_fc", layer_norm(state, f"{block}.ln_2", x))
        x = x + linear(state, f"{block}.mlp.c_proj", activation(hidden))
        i += 1
    return x


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
