"""Models with the published sizes of Stable Diffusion 2.1, MVDream and CLIP, and random weights.

They are saved as folders, so that priors and rewards load them as they load the real ones.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER = "load/blocks/reward"
"""Whose tokenizer the reward gets: text is encoded once per prompt, whatever its tokens."""
TOKENS = 77
"""Tokens of a prompt."""

UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),  # in spite of its name the number of heads
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
"""Stable Diffusion 2.1 base: 512 pixels."""
MULTI_VIEW = {
    "sample_size": 32,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
}
"""What MVDream changes: 256 pixels, and cameras."""
TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLIP_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": TOKENS,
    "vocab_size": 49408,
}
CLIP_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
"""CLIP ViT-L/14."""
TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@dataclass(frozen=True)
class Architecture:
    """A prior whose sizes are known, and what it denoises in a step: one scene."""

    prior: str
    """Its registered name."""
    cameras: str
    """The data module's registered name."""
    num_views: int
    """Views of the scene."""
    views: dict[str, int]
    """Settings of prior and data module that say so."""
    unet: dict[str, Any]
    """What differs from `UNET`."""

    def unet_sizes(self, tiny: bool) -> dict[str, Any]:
        """Return the arguments of `UNet2DConditionModel`."""
        return {**UNET, **self.unet, **(TINY_UNET if tiny else {})}


ARCHITECTURES = {
    "Stable Diffusion 2.1": Architecture(
        "stable-diffusion-prior", "random-camera-datamodule", 1, {}, {}
    ),
    "MVDream": Architecture(
        "mvdream-prior",
        "mvdream-random-multiview-camera-datamodule",
        4,
        {"n_view": 4},
        MULTI_VIEW,
    ),
}


def save_prior(folder: Path, architecture: Architecture, device: Any, tiny: bool) -> str:
    """Save UNet, VAE and noise schedule, drawn on `device`, in half precision."""
    diffusers = importlib.import_module("diffusers")
    with device:
        _save(diffusers.UNet2DConditionModel(**architecture.unet_sizes(tiny)), folder / "unet")
        _save(diffusers.AutoencoderKL(**vae_sizes(tiny)), folder / "vae")
    diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False).save_pretrained(folder / "scheduler")
    return str(folder)


def _save(model: Any, folder: Path) -> None:
    model.half().save_pretrained(folder)


def vae_sizes(tiny: bool) -> dict[str, Any]:
    """Return the arguments of `AutoencoderKL`."""
    return {**VAE, **(TINY_VAE if tiny else {})}


def save_reward(folder: Path, device: Any, tiny: bool) -> str:
    """Save a CLIPModel, drawn on `device`, in half precision, and a tokenizer."""
    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.save_pretrained(folder)
    with device:
        _save(transformers.CLIPModel(clip_config(tiny, tokenizer.eos_token_id)), folder)
    return str(folder)


def clip_config(tiny: bool, end_of_text: int) -> Any:
    """Return the `CLIPConfig`; the text's features are read at its token `end_of_text`."""
    smaller = TINY_CLIP if tiny else {}
    text = {**CLIP_TEXT, **smaller, "eos_token_id": end_of_text}
    return importlib.import_module("transformers").CLIPConfig(
        text_config=text, vision_config={**CLIP_VISION, **smaller}, projection_dim=768
    )


def random_prompt(width: int, device: Any) -> Any:
    """Return a prompt processor's output with random embeddings, the same for all views."""
    torch = importlib.import_module("torch")
    output = importlib.import_module("threestudio.models.prompt_processors.output")
    text, negative = torch.randn(2, 1, TOKENS, width, device=device)
    return output.PromptProcessorOutput(
        text_embeddings=text,
        uncond_text_embeddings=negative,
        text_embeddings_vd=text.expand(4, -1, -1),
        uncond_text_embeddings_vd=negative.expand(4, -1, -1),
        directions=[],
        direction2idx={},
        use_perp_neg=False,
        **dict.fromkeys(output.PERP_NEG, (0.0, 0.0, 0.0)),
        prompt="a red cube on the left of a blue sphere",
        prompts_vd=[],
    )
