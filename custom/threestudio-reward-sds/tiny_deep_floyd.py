"""Save a tiny model of the kind of DeepFloyd IF, with random weights.

    python -m custom.threestudio-reward-sds.tiny_deep_floyd outputs/tiny-if/model

The folder has IF's layout, for `deep-floyd-prior` and `deep-floyd-prompt-processor`: it shows
that a run works, with `configs/tiny-if.yaml`, where the real model (19 GB, gated) is not.
"""

import argparse
import string
import sys
from pathlib import Path
from typing import List, Optional, Sequence

import torch

TEXT_WIDTH = 16
"""Width of the text embeddings."""
PIECES = ("<pad>", "</s>", "<unk>", "\u2581", *string.ascii_letters, *string.digits, *",.-'")
"""Vocabulary: padding, end, unknown and space, then single characters."""


def main(argv: Optional[List[str]] = None) -> int:
    """Save the model; returns 0, or 2 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what to write; files in it are replaced")
    folder = parser.parse_args(argv).folder.expanduser()
    try:
        save(folder)
    except OSError as error:  # a full or read-only disk
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Saved to {folder}: UNet, scheduler, T5 encoder and its tokenizer.\n")
    return 0


def save(folder: Path) -> str:
    """Save all parts of the model."""
    save_unet(folder)
    return save_t5(folder)


def save_unet(folder: Path, out_channels: int = 6) -> str:
    """Save UNet and scheduler: 16 px images; six output channels are noise and learned variance."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=out_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=8,
        norm_num_groups=4,
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        encoder_hid_dim=TEXT_WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    ).save_pretrained(folder / "unet")
    DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    ).save_pretrained(folder / "scheduler")
    return str(folder)


def save_t5(folder: Path, pieces: Sequence[str] = PIECES) -> str:
    """Save a T5 encoder and its tokenizer in `text_encoder` and `tokenizer`.

    Args:
        folder: Where these go.
        pieces: The vocabulary: padding, end and unknown, then pieces of words.
    """
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocab = [(piece, 0.0 if i < 3 else -float(i)) for i, piece in enumerate(pieces)]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    sizes = {"d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 16}
    config = T5Config(vocab_size=len(pieces), num_layers=2, num_heads=2, **sizes)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return str(folder)


if __name__ == "__main__":
    sys.exit(main())
