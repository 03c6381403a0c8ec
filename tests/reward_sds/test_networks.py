"""Folders whose weights are not all of the network's, or more; what published files may differ in.

The libraries themselves only warn of these.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.tiny_models import save_aesthetic, save_clip, save_diffusion, save_tokenizer

UserError = extension("errors").UserError
DIFFUSION_FILE = "diffusion_pytorch_model.safetensors"
KEY = "pretrained_model_name_or_path"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each component, and which of its files has the weights."""
    root = tmp_path_factory.mktemp("models")
    diffusion = save_diffusion(root / "diffusion")
    clip = save_clip(root / "clip")
    return {
        "stable-diffusion-prior": diffusion,
        "mvdream-prior": diffusion,
        "deep-floyd-prior": extension("tiny_deep_floyd").save_unet(root / "pixels"),
        "reward-model-clip": clip,
        "reward-model-pick-score": clip,
        "reward-model-aesthetic": clip,
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Settings that components need besides their model."""
    root = tmp_path_factory.mktemp("others")
    save_tokenizer(root / "processor")
    head = save_aesthetic(root / "aesthetic", "v1")
    return {
        "reward-model-pick-score": {"processor_name_or_path": str(root / "processor")},
        "reward-model-aesthetic": {"head_path": head["head_path"]},
    }


def edited(source, target, file, edit):
    """Copy a folder with one of its weights files changed; returns the copy."""
    shutil.copytree(source, target)
    state = load_file(target / file)
    edit(state)
    save_file(state, target / file, metadata={"format": "pt"})
    return str(target)


FILES = [
    ("stable-diffusion-prior", f"unet/{DIFFUSION_FILE}", "conv_in.weight", "UNet2DCondition"),
    ("stable-diffusion-prior", f"vae/{DIFFUSION_FILE}", "quant_conv.bias", "AutoencoderKL"),
    ("mvdream-prior", f"unet/{DIFFUSION_FILE}", "class_embedding.linear_1.bias", "UNet2DCondi"),
    ("deep-floyd-prior", f"unet/{DIFFUSION_FILE}", "encoder_hid_proj.weight", "UNet2DConditi"),
    ("reward-model-clip", "model.safetensors", "text_projection.weight", "CLIPModel"),
    ("reward-model-pick-score", "model.safetensors", "logit_scale", "CLIPModel"),
    ("reward-model-aesthetic", "model.safetensors", "visual_projection.weight", "CLIPModel"),
]


@pytest.mark.parametrize("name, file, tensor, kind", FILES)
def test_missing_extra_and_misshapen_tensors_are_named(
    name, file, tensor, kind, folders, others, tmp_path
):
    def renamed(state):
        state["odd.one"] = state.pop(tensor)

    def bent(state):
        state[tensor] = torch.zeros(3, 5)

    component = threestudio.find(name)
    told = f"`system.guidance.*{KEY}` is .*not those of the {kind}.*: "
    for edit, text in (
        (renamed, f"missing {tensor}; unexpected odd.one. Download"),
        (bent, f"of another shape {tensor}. Download"),
    ):
        copy = edited(folders[name], tmp_path / edit.__name__, file, edit)
        with pytest.raises(UserError, match=told + text):
            component({KEY: copy, **others.get(name, {})})


def test_a_network_of_another_kind_names_the_first_tensors_and_counts_the_rest(folders, tmp_path):
    """The weights of a VAE where those of a UNet belong."""
    copy = Path(shutil.copytree(folders["stable-diffusion-prior"], tmp_path / "copy"))
    shutil.copy(copy / "vae" / DIFFUSION_FILE, copy / "unet" / DIFFUSION_FILE)
    text = r"\(`unet`\).*missing class_embed.* and \d+ more; unexpected .* and \d+ more\. Download"
    with pytest.raises(UserError, match=text):
        threestudio.find("stable-diffusion-prior")({KEY: str(copy)})


def test_a_config_of_another_size_is_refused(folders, tmp_path):
    """One block more than the weights have."""
    copy = Path(shutil.copytree(folders["reward-model-clip"], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="missing text_model.encoder.layers.2.*and 12 more"):
        threestudio.find("reward-model-clip")({KEY: str(copy)})


def test_position_ids_of_old_clip_files_are_no_fault(folders, tmp_path):
    """Published CLIPs have these buffers, which the class makes itself."""

    def old(state):
        state["text_model.embeddings.position_ids"] = torch.arange(12)[None]
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]

    copy = edited(folders["reward-model-clip"], tmp_path / "copy", "model.safetensors", old)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores = [
        threestudio.find("reward-model-clip")({KEY: path})(images, ["a cube", "a cone"])
        for path in (copy, folders["reward-model-clip"])
    ]
    assert torch.equal(*scores)


def test_attention_names_of_old_autoencoders_are_no_fault(folders, tmp_path):
    """Stable Diffusion's VAE is published with the names that diffusers had before 0.17."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(state):
        for new, former in names.items():
            for name in [name for name in state if f".{new}." in name]:
                state[name.replace(f".{new}.", f".{former}.")] = state.pop(name)
        assert any("query" in name for name in state)

    source = folders["stable-diffusion-prior"]
    copy = edited(source, tmp_path / "copy", f"vae/{DIFFUSION_FILE}", old)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = [
        threestudio.find("stable-diffusion-prior")({KEY: path}).decode(latents)
        for path in (copy, source)
    ]
    assert torch.equal(*pictures)
