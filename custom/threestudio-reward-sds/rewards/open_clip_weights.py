"""Weights with the names of OpenCLIP on the classes of transformers.

The architecture is the same (pre-norm transformers, class token, end-of-text pooling); names, the
fused query-key-value matrices and the orientation of the two projections differ. Sizes follow from
the shapes, except the number of attention heads, which no tensor shows.
"""

from typing import Any, Dict, List

import torch
from torch import Tensor

from ..errors import UserError
from .checkpoint_file import name_differences

TOWERS = {"visual.transformer.resblocks.": "vision_model", "transformer.resblocks.": "text_model"}
"""Prefix of the blocks of a tower -> the tower in transformers."""

OUTSIDE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
"""Tensors outside the blocks."""

PROJECTIONS = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
"""Matrices that are multiplied from the right there, so stored the other way round."""

IN_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Layers of a block, each with weight and bias."""

FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""Thirds of `attn.in_proj_weight` and `attn.in_proj_bias`."""


def num_blocks(state: Dict[str, Tensor], prefix: str) -> int:
    """Count the blocks of a tower, at least one."""
    return max(sum(n.startswith(prefix) and n.endswith(".ln_1.weight") for n in state), 1)


def expected_names(state: Dict[str, Tensor]) -> List[str]:
    """List the names of all tensors of a model with as many blocks as `state` has."""
    in_block = ["attn.in_proj_weight", "attn.in_proj_bias"]
    in_block += [f"{layer}.{kind}" for layer in IN_BLOCK for kind in ("weight", "bias")]
    blocks = [
        f"{prefix}{i}.{name}"
        for prefix in TOWERS
        for i in range(num_blocks(state, prefix))
        for name in in_block
    ]
    return [*OUTSIDE, *PROJECTIONS, *blocks]


def to_transformers(state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename, split and transpose a complete set of tensors for `CLIPModel`."""
    renamed = {new: state[old] for old, new in OUTSIDE.items()}
    renamed |= {new: state[old].T.contiguous() for old, new in PROJECTIONS.items()}
    for prefix, tower in TOWERS.items():
        for i in range(num_blocks(state, prefix)):
            old, new = f"{prefix}{i}", f"{tower}.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                thirds = state[f"{old}.attn.in_proj_{kind}"].chunk(3)
                renamed |= {
                    f"{new}.{layer}.{kind}": third.contiguous()
                    for layer, third in zip(FUSED, thirds, strict=True)
                }
                renamed |= {
                    f"{new}.{layer}.{kind}": state[f"{old}.{name}.{kind}"]
                    for name, layer in IN_BLOCK.items()
                }
    return renamed


def clip_config(state: Dict[str, Tensor], num_heads: int) -> Any:
    """Read the sizes off the tensors; the activation is GELU, as in all ViT-H/14 of OpenCLIP."""
    from transformers import CLIPConfig

    patches = state["visual.positional_embedding"].shape[0] - 1
    patch_size = state["visual.conv1.weight"].shape[-1]
    vocabulary = state["token_embedding.weight"].shape[0]
    projection = state["text_projection"].shape[1]
    common = {"num_attention_heads": num_heads, "hidden_act": "gelu", "projection_dim": projection}
    sizes = {
        tower: {
            "hidden_size": state[f"{prefix}0.ln_1.weight"].shape[0],
            "intermediate_size": state[f"{prefix}0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": num_blocks(state, prefix),
            **common,
        }
        for prefix, tower in TOWERS.items()
    }
    image = {"image_size": round(patches**0.5) * patch_size, "patch_size": patch_size}
    # OpenCLIP pools the text where the id is highest, transformers where it is first the
    # end-of-text token: the same place, as that token is the last of the vocabulary.
    text = {
        "vocab_size": vocabulary,
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    return CLIPConfig(
        text_config={**sizes["text_model"], **text},
        vision_config={**sizes["vision_model"], **image},
        projection_dim=projection,
    )


def load_open_clip(
    state: Dict[str, Tensor], num_heads: int, dtype: torch.dtype, path_key: str, heads_key: str
) -> Any:
    """Build a `CLIPModel` on the CPU from the tensors of an OpenCLIP model.

    Args:
        state: The tensors by their names in OpenCLIP.
        num_heads: Attention heads of both towers.
        dtype: Number type of the network.
        path_key: The YAML key of the file, for messages.
        heads_key: The YAML key of `num_heads`, for messages.

    Raises:
        UserError: It is another model, or `num_heads` does not divide the widths.
    """
    from transformers import CLIPModel

    differences = name_differences(state, expected_names(state))
    if differences:
        raise UserError(
            f"The file of `{path_key}` is not an OpenCLIP model with two transformers: "
            f"{differences}. Set `{path_key}` to the published weights."
        )
    widths = [state[f"{prefix}0.ln_1.weight"].shape[0] for prefix in TOWERS]
    if any(width % num_heads for width in widths):
        raise UserError(
            f"`{heads_key}` is {num_heads}, which does not divide the widths {widths[0]} and "
            f"{widths[1]} of the two transformers. Take the number that the model was trained with "
            "(ViT-H/14: 16)."
        )
    config = clip_config(state, num_heads)
    return CLIPModel.from_pretrained(
        None, config=config, state_dict=to_transformers(state), dtype=dtype
    )
