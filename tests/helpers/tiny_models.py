"""Random models of the real architectures, a few thousand parameters, saved as folders."""

from pathlib import Path
from typing import Any

import torch

TEXT_WIDTH = 16
"""Width of the text embeddings the tiny UNet reads."""


def damage(file: Path) -> None:
    """Cut a file in half, as a download that broke off."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def save_diffusion(folder: Path, camera: bool = True, prediction_type: str = "epsilon") -> str:
    """Save UNet, VAE and scheduler in the diffusers layout: 64 px images, 4x8x8 latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    embedding: dict[str, Any] = (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
        if camera
        else {}
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        **embedding,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    return str(folder)


def save_clip(folder: Path) -> str:
    """Save a CLIPModel with tokenizer in the transformers layout: 32 px images, 12 tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    vocab = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "projection_dim": 8}
    text = {"vocab_size": len(vocab), "max_position_embeddings": 12}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**sizes, **heads, **text, **ids},
        vision_config={**sizes, **heads, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return str(folder)
