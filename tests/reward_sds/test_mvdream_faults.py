"""What is told of original MVDream checkpoints that are missing, damaged or of another model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.original_layout import TINY, save
from tests.helpers.tiny_models import damage

UserError = extension("errors").UserError


def load(path, **settings):
    return threestudio.find("mvdream-prior")({"ckpt_path": path, **settings})


def test_nothing_given_says_what_to_run_and_to_set(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    command = "`hf download MVDream/MVDream sd-v1.5-4view.pt --local-dir models/mvdream`"
    value = '`system.guidance.ckpt_path` to "models/mvdream/sd-v1.5-4view.pt"'
    with pytest.raises(UserError) as told:
        load(None, model_name="sd-v1.5-4view")
    assert command in str(told.value) and value in str(told.value)
    with pytest.raises(UserError, match="`system.guidance.model_name` is 'v3', but the published"):
        load(None, model_name="v3")


def test_a_missing_file_of_a_published_name_says_how_to_fetch_that_one():
    with pytest.raises(UserError, match="no file 'x/sd-v1.5-4view.pt' .*MVDream sd-v1.5-4view.pt"):
        load("x/sd-v1.5-4view.pt")


def write_objects(file):
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "callback": Path("x")}, file)


def write_half_a_file(file):
    save(TINY["1.5"], file)
    damage(file)


@pytest.mark.parametrize(
    "write, text",
    [
        (lambda file: None, "There is no file .*hf download MVDream/MVDream"),
        (write_objects, "Python objects, and loading those may run any code"),
        (write_half_a_file, "is damaged, or no checkpoint. Copy it again"),
        (lambda file: file.write_text("<html>"), "is damaged, or no checkpoint"),
        (lambda file: file.write_bytes(b""), "is damaged, or no checkpoint"),
        (lambda file: torch.save(torch.zeros(3), file), "holds no state dict"),
        (lambda file: torch.save({"a": torch.zeros(3)}, file), r"no UNet .* and no autoencoder"),
    ],
    ids=["none", "objects", "half a file", "a page", "empty", "a tensor", "another model"],
)
def test_a_wrong_file_is_found_before_anything_is_loaded(write, text, tmp_path):
    prior = threestudio.find("mvdream-prior")
    file = tmp_path / "file.pt"
    write(file)
    (fault,) = prior.check(prior.Config(ckpt_path=str(file)))
    assert fault.startswith("`system.guidance.ckpt_path`")
    with pytest.raises(UserError, match=text):
        load(str(file))


def test_a_single_view_checkpoint_has_its_own_message(tmp_path):
    file = save(replace(TINY["1.5"], camera=False), tmp_path / "v1-5.ckpt")
    with pytest.raises(UserError, match="no camera embedding .* single-view model. .*stable-diff"):
        load(file)


UNET, VAE = "model.diffusion_model.", "first_stage_model."
ONE = torch.ones(1)


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {f"{UNET}input_blocks.1.0.out_layers.3.weight": None},
            "lacks `model.*out_layers.3.weight`",
        ),
        ({f"{UNET}out.2.bias": None}, r"UNet lacks .* conv_out.bias\."),
        ({f"{UNET}camera_embed.2.bias": None}, "lacks .* class_embedding.linear_2.bias"),
        ({f"{VAE}encoder.down.0.block.0.conv2.weight": None}, "lacks `first_stage_model.enc"),
        (
            {f"{VAE}decoder.up.1.upsample.conv.weight": None},
            "autoencoder lacks .*upsamplers.0.conv",
        ),
        (
            {f"{UNET}image_embed.{i}.weight": ONE for i in range(5)},
            r"no place for model.diffusion_model.image_embed.0.weight, .* and 1 more\.",
        ),
        (
            {f"{VAE}decoder.extra.weight": ONE},
            "no place for first_stage_model.decoder.extra.weight",
        ),
        (
            {f"{UNET}input_blocks.1.0.extra.bias": ONE},
            "no place for model.*1.0.extra.bias",
        ),
        (
            {f"{UNET}time_embed.0.bias": ONE},
            "another shape of time_embedding.linear_1.bias",
        ),
    ],
)
def test_wrong_contents_are_named(changes, text, tmp_path):
    file = save(TINY["1.5"], tmp_path / "file.pt", changes)
    with pytest.raises(UserError, match=text):
        load(file)
