"""Random models of the real architectures, a few thousand parameters, saved as folders."""

from pathlib import Path
from typing import Any

import torch

from tests.helpers.open_clip import random_state

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


def save_tokenizer(folder: Path, marks_last: bool = False) -> int:
    """Save a CLIP tokenizer of single letters, 12 tokens a text; returns the vocabulary's size.

    `marks_last` puts start and end of text where the real vocabulary has them, at its end.
    """
    from transformers import CLIPTokenizer

    marks = ["<|startoftext|>", "<|endoftext|>"]
    letters = "abcdefghijklmnopqrstuvwxyz,"
    texts = [*letters, *(c + "</w>" for c in letters)]
    tokens = texts + marks if marks_last else marks + texts
    vocab = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12).save_pretrained(folder)
    return len(vocab)


def save_clip(folder: Path) -> str:
    """Save a CLIPModel with tokenizer in the transformers layout: 32 px images, 12 tokens."""
    from transformers import CLIPConfig, CLIPModel

    vocabulary = save_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "projection_dim": 8}
    text = {"vocab_size": vocabulary, "max_position_embeddings": 12}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**sizes, **heads, **text, **ids},
        vision_config={**sizes, **heads, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return str(folder)


def save_hps(folder: Path) -> dict[str, Any]:
    """Save HPS weights with OpenCLIP's names, and a tokenizer; returns the reward's settings."""
    vocabulary = save_tokenizer(folder / "processor", marks_last=True)
    file = folder / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": random_state(vocabulary)}, file)
    return {
        "checkpoint_path": str(file),
        "processor_name_or_path": str(folder / "processor"),
        "num_heads": 4,
    }


def save_aesthetic(folder: Path, version: str) -> dict[str, Any]:
    """Save a CLIPModel and a head for its 8 features; returns the reward's settings."""
    widths = {"v1": [1], "v2": [1024, 128, 64, 16, 1]}[version]
    names = {"v1": [""], "v2": [f"layers.{i}." for i in (0, 2, 4, 6, 7)]}[version]
    generator, head = torch.Generator().manual_seed(1), {}
    for name, inputs, outputs in zip(names, [8, *widths], widths, strict=False):
        head[f"{name}weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        head[f"{name}bias"] = torch.randn(outputs, generator=generator)
    path = save_clip(folder / "clip")
    torch.save(head, folder / "head.pth")
    return {
        "version": version,
        "head_path": str(folder / "head.pth"),
        "pretrained_model_name_or_path": path,
    }
