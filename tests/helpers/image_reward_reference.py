"""ImageReward as published, in plain float64 torch on the original names, and tiny checkpoints.

The image encoder has pre-norm blocks with one matrix for query, key and value; the text encoder
has post-norm layers that attend to the prompt, then to the image; the head is linear throughout.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from torch import Tensor

import threestudio

NAME = "reward-model-image-reward"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red cube ##s cone , front view".split()
"""The vocabulary's words in the order of their ids; [DEC] is 13 and [ENC] is 14."""

IMAGE_WIDTH, PATCH, GRID, IMAGE_LAYERS, IMAGE_HEADS = 128, 16, 2, 2, 2
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, PLACES = 24, 2, 3, 40
HEAD = {0: (TEXT_WIDTH, 20), 2: (20, 12), 4: (12, 8), 6: (8, 4), 7: (4, 1)}
State = Dict[str, Tensor]
Shapes = Dict[str, tuple[int, ...]]


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def image_shapes() -> Shapes:
    top, width = "blip.visual_encoder", IMAGE_WIDTH
    found: Shapes = {
        f"{top}.cls_token": (1, 1, width),
        f"{top}.pos_embed": (1, GRID**2 + 1, width),
        f"{top}.patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        f"{top}.patch_embed.proj.bias": (width,),
        **norm(f"{top}.norm", width),
    }
    for i in range(IMAGE_LAYERS):
        block = f"{top}.blocks.{i}"
        found |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        found |= linear(f"{block}.attn.qkv", width, 3 * width)
        found |= linear(f"{block}.attn.proj", width, width)
        found |= linear(f"{block}.mlp.fc1", width, 48) | linear(f"{block}.mlp.fc2", 48, width)
    return found


def text_shapes() -> Shapes:
    top, width = "blip.text_encoder", TEXT_WIDTH
    found: Shapes = {
        f"{top}.embeddings.word_embeddings.weight": (len(WORDS) + 2, width),
        f"{top}.embeddings.position_embeddings.weight": (PLACES, width),
        **norm(f"{top}.embeddings.LayerNorm", width),
    }
    for i in range(TEXT_LAYERS):
        layer = f"{top}.encoder.layer.{i}"
        for name, source in (("attention", width), ("crossattention", IMAGE_WIDTH)):
            found |= linear(f"{layer}.{name}.self.query", width, width)
            found |= linear(f"{layer}.{name}.self.key", source, width)
            found |= linear(f"{layer}.{name}.self.value", source, width)
            found |= linear(f"{layer}.{name}.output.dense", width, width)
            found |= norm(f"{layer}.{name}.output.LayerNorm", width)
        found |= linear(f"{layer}.intermediate.dense", width, 36)
        found |= linear(f"{layer}.output.dense", 36, width)
        found |= norm(f"{layer}.output.LayerNorm", width)
    return found


def shapes() -> Shapes:
    """Name the tensors of a tiny checkpoint, those included that scoring does not use."""
    found = image_shapes() | text_shapes()
    found |= linear("blip.vision_proj", IMAGE_WIDTH, 8) | linear("blip.text_proj", TEXT_WIDTH, 8)
    for i, (inputs, outputs) in HEAD.items():
        found |= linear(f"mlp.layers.{i}", inputs, outputs)
    return found


def random_state(seed: int = 0) -> State:
    """Draw a checkpoint; matrices keep the size of what they map, embeddings are small.

    Small embeddings make the epsilons of the layer norms count.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes().items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            value = 0.2 * value + (1 if name.endswith("weight") else 0)
        elif "embed" in name or "cls_token" in name:
            value *= 0.002 if "patch" in name else 0.02
        else:
            value *= shape[-1] ** -0.5
        state[name] = value
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(PLACES)[None]
    return state


def save(folder: Path, state: Optional[State] = None) -> str:
    """Save checkpoint, `med_config.json` and vocabulary in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_state() if state is None else state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps({"num_attention_heads": TEXT_HEADS}))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return str(folder)


def load(path: str, words: Optional[str] = None, **settings: Any) -> Any:
    """Build the reward from a checkpoint and the folder of its vocabulary, by default the same."""
    names = {"pretrained_model_name_or_path": path, "tokenizer_name_or_path": words or path}
    return threestudio.find(NAME)({**names, **settings})


class Reference:
    """The published forward pass.

    Args:
        state: Checkpoint under its original names; computed with in float64.
    """

    def __init__(self, state: State) -> None:
        self.state = {name: value.double() for name, value in state.items()}

    def __call__(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return raw scores of normalised images [N 3 32 32] against tokens [N S]."""
        features = self.text(ids, mask, self.image(pixels))[:, 0]
        for i in HEAD:
            features = self.linear(features, f"mlp.layers.{i}")
        return features[:, 0]

    def image(self, pixels: Tensor) -> Tensor:
        """Encode the class token and 2x2 patches of 16 pixels."""
        top = "blip.visual_encoder"
        kernel = self.state[f"{top}.patch_embed.proj.weight"]
        patches = [
            (pixels[:, None, :, y : y + PATCH, x : x + PATCH] * kernel).sum(dim=(2, 3, 4))
            + self.state[f"{top}.patch_embed.proj.bias"]
            for y in range(0, GRID * PATCH, PATCH)
            for x in range(0, GRID * PATCH, PATCH)
        ]
        first = self.state[f"{top}.cls_token"][:, 0].expand(len(pixels), -1)
        x = torch.stack([first, *patches], dim=1) + self.state[f"{top}.pos_embed"]
        for i in range(IMAGE_LAYERS):
            block = f"{top}.blocks.{i}"
            q, k, v = self.linear(self.norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").split(
                IMAGE_WIDTH, dim=-1
            )
            x = x + self.linear(attend(q, k, v, IMAGE_HEADS), f"{block}.attn.proj")
            hidden = self.linear(self.norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1")
            x = x + self.linear(gelu(hidden), f"{block}.mlp.fc2")
        return self.norm(x, f"{top}.norm", 1e-6)

    def text(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """Encode tokens that attend to one another where `mask` is 1, and to the whole image."""
        top = "blip.text_encoder"
        words = self.state[f"{top}.embeddings.word_embeddings.weight"][ids]
        places = self.state[f"{top}.embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self.norm(words + places, f"{top}.embeddings.LayerNorm", 1e-12)
        for i in range(TEXT_LAYERS):
            layer = f"{top}.encoder.layer.{i}"
            x = self.post_norm_attention(x, x, mask, f"{layer}.attention")
            x = self.post_norm_attention(x, image, None, f"{layer}.crossattention")
            hidden = gelu(self.linear(x, f"{layer}.intermediate.dense"))
            added = x + self.linear(hidden, f"{layer}.output.dense")
            x = self.norm(added, f"{layer}.output.LayerNorm", 1e-12)
        return x

    def post_norm_attention(
        self, x: Tensor, source: Tensor, mask: Optional[Tensor], name: str
    ) -> Tensor:
        q = self.linear(x, f"{name}.self.query")
        k, v = (self.linear(source, f"{name}.self.{part}") for part in ("key", "value"))
        added = x + self.linear(attend(q, k, v, TEXT_HEADS, mask), f"{name}.output.dense")
        return self.norm(added, f"{name}.output.LayerNorm", 1e-12)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, epsilon: float) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    """Multiply x by the normal distribution function of x."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Optional[Tensor] = None) -> Tensor:
    """Attend head by head; tokens where `mask` [N S] is 0 are not seen."""
    results = []
    for one_q, one_k, one_v in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        logits = one_q @ one_k.transpose(1, 2) / math.sqrt(one_q.shape[-1])
        if mask is not None:
            logits = logits.masked_fill(mask[:, None, :] == 0, -math.inf)
        results.append(logits.softmax(dim=-1) @ one_v)
    return torch.cat(results, dim=-1)
