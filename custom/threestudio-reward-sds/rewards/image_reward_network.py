"""ImageReward's network (arXiv 2304.05977) on transformers' BLIP classes, and its checkpoint.

A ViT encodes the image; BERT reads the prompt and attends to the image in every layer; a stack of
linear layers turns BERT's first token into one number. The checkpoint keeps its original names.
"""

import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import UserError
from ..model_folders import read_json
from ..networks import differing
from .checkpoint_file import load_state
from .clip import PATH_KEY

PREFIXES = {"vision": "blip.visual_encoder.", "text": "blip.text_encoder.", "mlp": "mlp.layers."}
"""Our parts, and how their names begin in the checkpoint."""

VISION_NAMES = (
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("encoder.layers", "blocks"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn", "attn"),
    ("post_layernorm", "norm"),
    ("layer_norm", "norm"),
)
"""Pieces of names of transformers' image encoder, and what the checkpoint calls them."""

UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Beginnings of names of the checkpoint that scoring does not need."""

HEAD_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the head's linear layers; the others are dropout, which scoring leaves out."""

HEAD_WIDTH = 64
"""Features per attention head."""


class ImageRewardNetwork(nn.Module):
    """Image and prompt to the raw score, which is not yet standardised.

    Args:
        vision: Sizes of the image encoder, as `BlipVisionConfig` calls them.
        text: Sizes of the text encoder, as `BlipTextConfig` calls them.
        head: Output and input width of each linear layer of the head.
    """

    def __init__(
        self, vision: Dict[str, int], text: Dict[str, int], head: List[Tuple[int, int]]
    ) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        self.vision = BlipVisionModel(
            BlipVisionConfig(**vision, layer_norm_eps=1e-6, hidden_act="gelu")
        )
        text_config = BlipTextConfig(
            **text,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
            is_decoder=True,  # creates the cross attention; the call below is bidirectional
            bos_token_id=None,
            sep_token_id=None,
        )
        self.text = BlipTextModel(text_config, add_pooling_layer=False)
        self.mlp = nn.ModuleDict(
            {
                str(number): nn.Linear(in_width, out_width)
                for number, (out_width, in_width) in zip(HEAD_LAYERS, head, strict=True)
            }
        )

    def forward(
        self,
        pixels: Float[Tensor, "N 3 H W"],
        ids: Int[Tensor, "N S"],
        mask: Int[Tensor, "N S"],
    ) -> Float[Tensor, " N"]:
        """Score normalised images against tokens; `mask` is 1 on tokens, 0 on padding."""
        image = self.vision(pixel_values=pixels).last_hidden_state
        text = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=image,
            encoder_attention_mask=mask.new_ones(image.shape[:2]),
        )
        features = text.last_hidden_state[:, 0].float()
        for layer in self.mlp.values():  # no activations in between
            features = layer(features)
        return features.squeeze(-1)


def original_name(name: str) -> str:
    """Translate a parameter's name into the one of the checkpoint."""
    part, rest = name.split(".", 1)
    if part == "vision":
        for ours, theirs in VISION_NAMES:
            rest = rest.replace(ours, theirs)
    return PREFIXES[part] + rest


def refuse_misfit(file: Path, faults: Dict[str, List[str]]) -> None:
    """Raise one error that names the first few parameters of each kind of fault, if any."""
    found = differing(faults)
    if found:
        raise UserError(
            f"'{file}' is not an ImageReward checkpoint: {found}. Give the published "
            f"`ImageReward.pt` in `{PATH_KEY}`."
        )


def count_layers(state: Dict[str, Tensor], prefix: str) -> int:
    """Count the numbers that follow `prefix` in the names."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def telling_shapes(file: Path, state: Dict[str, Tensor]) -> Dict[str, Tuple[int, ...]]:
    """Return the shapes from which all sizes follow.

    Raises:
        UserError: One of the tensors is missing.
    """
    image, text = PREFIXES["vision"], PREFIXES["text"]
    names = {
        "patches": f"{image}patch_embed.proj.weight",
        "positions": f"{image}pos_embed",
        "image_mlp": f"{image}blocks.0.mlp.fc1.weight",
        "words": f"{text}embeddings.word_embeddings.weight",
        "places": f"{text}embeddings.position_embeddings.weight",
        "text_mlp": f"{text}encoder.layer.0.intermediate.dense.weight",
        **{f"head_{i}": f"{PREFIXES['mlp']}{i}.weight" for i in HEAD_LAYERS},
    }
    refuse_misfit(file, {"missing": [name for name in names.values() if name not in state]})
    return {key: tuple(state[name].shape) for key, name in names.items()}


def network_sizes(
    file: Path, state: Dict[str, Tensor], text_heads: Optional[int]
) -> Dict[str, Any]:
    """Return the arguments of `ImageRewardNetwork` for a checkpoint.

    Shapes do not tell the attention heads: they have 64 features, as in ViT-L/16 and BERT-base,
    unless `text_heads` says how many there are in the text encoder.
    """
    shape = telling_shapes(file, state)
    image_width, _, patch_size, _ = shape["patches"]
    vocab_size, text_width = shape["words"]
    vision = {
        "hidden_size": image_width,
        "intermediate_size": shape["image_mlp"][0],
        "num_hidden_layers": count_layers(state, f"{PREFIXES['vision']}blocks."),
        "num_attention_heads": max(image_width // HEAD_WIDTH, 1),
        "image_size": patch_size * math.isqrt(shape["positions"][1] - 1),
        "patch_size": patch_size,
    }
    text = {
        "vocab_size": vocab_size,
        "hidden_size": text_width,
        "encoder_hidden_size": image_width,
        "intermediate_size": shape["text_mlp"][0],
        "num_hidden_layers": count_layers(state, f"{PREFIXES['text']}encoder.layer."),
        "num_attention_heads": text_heads or max(text_width // HEAD_WIDTH, 1),
        "max_position_embeddings": shape["places"][0],
    }
    return {"vision": vision, "text": text, "head": [shape[f"head_{i}"] for i in HEAD_LAYERS]}


def load_image_reward(file: Path, device: Any, dtype: torch.dtype) -> ImageRewardNetwork:
    """Load a frozen network; `med_config.json` beside the file may name `num_attention_heads`.

    Args:
        file: The checkpoint.
        device: Where the network goes.
        dtype: Number type of the two encoders; the head computes in single precision.

    Raises:
        UserError: The file is damaged or holds anything but tensors by name, or names or shapes
            differ from those of the published network.
    """
    state = load_state(str(file), "", PATH_KEY)
    state = {name: value for name, value in state.items() if not name.startswith(UNUSED)}
    config = read_json(str(file.parent), "med_config.json") or {}
    sizes = network_sizes(file, state, config.get("num_attention_heads"))
    with torch.random.fork_rng(devices=[]):  # the draws of the run stay where they were
        network = ImageRewardNetwork(**sizes)
    ours = {original_name(name): value.shape for name, value in network.state_dict().items()}
    faults = {
        "missing": [name for name in ours if name not in state],
        "unexpected": [name for name in state if name not in ours],
        "of another shape": [n for n in ours if n in state and state[n].shape != ours[n]],
    }
    refuse_misfit(file, faults)
    renamed = {name: state[original_name(name)] for name in network.state_dict()}
    network.load_state_dict(renamed, assign=True)
    network.vision.to(dtype)
    network.text.to(dtype)
    network.mlp.float()
    return network.to(device).eval().requires_grad_(False)
