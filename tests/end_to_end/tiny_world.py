"""Models of the real architectures with random weights, and settings for runs of seconds."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.helpers import image_reward_reference, tiny_models
from tests.helpers.doubles import extension

TOKENS = 12


def save_prior(folder: Path, camera: bool = True) -> str:
    """Save a diffusers folder: UNet, VAE, scheduler, text encoder and tokenizer."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tiny_models.save_diffusion(folder, camera=camera)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS
    ).save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=tiny_models.TEXT_WIDTH,
        intermediate_size=tiny_models.TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=TOKENS,
    )
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return str(folder)


def save_picture(path: Path) -> str:
    """Save a picture to edit."""
    Image.new("RGB", (32, 32), (20, 160, 40)).save(path)
    return str(path)


def save_world(folder: Path) -> dict[str, str]:
    """Save a multi-view, a single-view and a pixel prior, and the parts of three rewards; return
    their paths."""
    return {
        "multi-view": save_prior(folder / "multi-view"),
        "single-view": save_prior(folder / "single-view", camera=False),
        "pixels": extension("tiny_deep_floyd").save(folder / "pixels"),
        "reward": tiny_models.save_clip(folder / "reward"),
        "image-reward": image_reward_reference.save(folder / "image-reward"),
        "picture": save_picture(folder / "picture.png"),
        "aesthetic-head": tiny_models.save_aesthetic(folder / "aesthetic", "v1")["head_path"],
    }


def reward_settings(name: str, world: dict[str, str]) -> dict[str, str]:
    """Return the settings of a reward that say where its files are."""
    if name == "image-reward":
        path = world["image-reward"]
        return {"pretrained_model_name_or_path": path, "tokenizer_name_or_path": path}
    head = {"head_path": world["aesthetic-head"]} if name == "aesthetic" else {}
    return {"pretrained_model_name_or_path": world["reward"], **head}


def scene_settings(system: dict[str, Any]) -> dict[str, Any]:
    """Return what makes cameras, scene and renderer small.

    Grids are those of configs/tiny-blocks.yaml: a later stage may have either.
    """
    settings: dict[str, Any] = {
        "data.width": "[8, 12]",
        "data.height": "[8, 12]",
        "data.resolution_milestones": "[2]",
        "data.eval_width": 16,
        "data.eval_height": 16,
        "data.n_test_views": 3,
        "system.geometry.isosurface_resolution": 16,
        "system.exporter.texture_size": 32,
    }
    if system["geometry_type"] == "volume-grid":
        settings["system.geometry.grid_size"] = "[8, 8, 8]"
    if system["geometry_type"] in ("volume-grid", "implicit-volume"):
        settings["system.geometry.isosurface_threshold"] = "auto"
    if "num_samples_per_ray" in system["renderer"]:
        settings["system.renderer.num_samples_per_ray"] = 8
    if "init_num_pts" in system["geometry"]:
        settings["system.geometry.init_num_pts"] = 100
    if "pos_encoding_config" in system["geometry"]:
        settings["system.geometry.pos_encoding_config.log2_hashmap_size"] = 12
        settings["system.geometry.pos_encoding_config.n_levels"] = 4
    return settings


def overrides(config: dict[str, Any], world: dict[str, str], out: Path) -> list[str]:
    """Return the overrides that make a run of any committed YAML tiny.

    Args:
        config: The YAML as plain data, to see which keys it has.
        world: Paths of `save_world`.
        out: Where the run folder goes.
    """
    system, data = config["system"], config["data"]
    kind = "multi-view" if "n_view" in data else "single-view"
    if system["prompt_processor_type"] == "deep-floyd-prompt-processor":
        kind = "pixels"
    prior = world[kind]
    path_key = "ckpt_path" if "ckpt_path" in system["guidance"] else "pretrained_model_name_or_path"
    settings = {
        "exp_root_dir": out,
        "system.prompt_processor.prompt": "a red cube on the left of a blue sphere",
        "system.prompt_processor.pretrained_model_name_or_path": prior,
        f"system.guidance.{path_key}": prior,
        "trainer.max_steps": 3,
        "trainer.val_check_interval": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.precision": "32-true",
        "checkpoint.rolling_every_n_steps": 2,
    }
    if "image" in system:
        settings["data.seeds"] = "[1, 2]"
    else:
        settings |= scene_settings(system)
    if "source_image" in system["guidance"]:
        settings["system.guidance.source_image"] = world["picture"]
        settings["system.guidance.source_prompt"] = "a green cube"
    if "reward_model" in system["guidance"]:
        for key, path in reward_settings(system["guidance"]["reward_model_type"], world).items():
            settings[f"system.guidance.reward_model.{key}"] = path
        settings["system.guidance.preview_steps"] = 1
        settings["system.guidance.sheet_every"] = 2
    return [f"{key}={value}" for key, value in settings.items()]
