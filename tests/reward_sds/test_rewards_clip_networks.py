"""What all rewards on a CLIP network share, and PickScore."""

import shutil

import pytest
import torch

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.tiny_models import save_aesthetic, save_clip, save_hps, save_tokenizer

UserError = extension("errors").UserError
PROMPTS = ["a cube", "a cone, front view", "a cube"]
NAMES = ["clip", "pick-score", "hps", "aesthetic"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of each reward, on tiny models."""
    root = tmp_path_factory.mktemp("rewards")
    folder = save_clip(root / "clip")
    save_tokenizer(root / "processor")
    preparation = '{"crop_size": 32, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}'
    (root / "processor" / "preprocessor_config.json").write_text(preparation)
    return {
        "clip": {"pretrained_model_name_or_path": folder},
        "pick-score": {
            "pretrained_model_name_or_path": folder,
            "processor_name_or_path": str(root / "processor"),
        },
        "hps": save_hps(root / "hps"),
        "aesthetic": save_aesthetic(root / "aesthetic", "v1"),
    }


def images(count=3, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def load(name, settings):
    return threestudio.find(f"reward-model-{name}")(settings)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_single_precision_whatever_the_caller_computes_in(name, settings):
    expected = load(name, settings[name])(images(), PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = load(name, settings[name])(images(), PROMPTS)
    assert scores.dtype == torch.float32 and torch.equal(scores, expected)
    assert len(scores.unique()) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_scores_as_its_images_do(name, settings):
    reward = load(name, settings[name])
    one_by_one = [reward(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    assert torch.allclose(reward(images(), PROMPTS), torch.cat(one_by_one), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_differentiable_in_the_image(name, settings):
    x = images(1, size=48).requires_grad_(True)
    load(name, settings[name])(x, ["a red cube"]).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("half_type", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_networks_are_half_precision_and_scores_are_not(
    name, half_type, device, settings, monkeypatch
):
    """Of ourselves only on a GPU; the CPU is told to, too."""
    monkeypatch.setattr(extension("networks"), "HALF_DEVICES", ("cpu", "cuda"))
    block = {**settings[name], "half_precision_type": half_type}
    half, single = load(name, block), load(name, {**block, "half_precision_weights": False})
    pictures = images().to(device)
    scores, expected = half(pictures, PROMPTS), single(pictures, PROMPTS)
    network = half.vision if name == "aesthetic" else half.model
    assert network.device.type == device and network.dtype == getattr(torch, half_type)
    assert scores.dtype == torch.float32
    atol = {"float16": 0.5, "bfloat16": 4.0}[half_type]
    assert torch.allclose(scores, expected, atol=atol) and not torch.equal(scores, expected)
    assert torch.allclose(half(images(), PROMPTS).cpu(), scores.cpu(), atol=atol / 5)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_half_precision_is_refused(name, settings):
    text = "reward_model.half_precision_type` is 'fp8', but must be float16 or bfloat16"
    with pytest.raises(UserError, match=text):
        load(name, {**settings[name], "half_precision_type": "fp8"})


def test_pick_score_is_the_logit_of_the_network(settings):
    """With the tokenizer and the mean and deviation of the processor, not of the model folder."""
    reward = load("pick-score", settings["pick-score"])
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    tokens = reward.tokenizer(
        PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        pixels = (images() - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        logits = reward.model(pixel_values=pixels, **tokens).logits_per_image.diagonal()
    assert torch.allclose(reward(images(), PROMPTS), logits, atol=1e-4)


def test_a_missing_pick_score_is_explained(settings):
    block = settings["pick-score"]
    with pytest.raises(ValueError, match="processor_name_or_path` is 'load/none', but there is no"):
        load("pick-score", {**block, "processor_name_or_path": "load/none"})
    with pytest.raises(ValueError, match="pretrained_model_name_or_path` is 'load/none', but"):
        load("pick-score", {**block, "pretrained_model_name_or_path": "load/none"})


def test_a_processor_without_a_tokenizer_is_explained(settings, tmp_path):
    block = {**settings["pick-score"], "processor_name_or_path": str(tmp_path)}
    with pytest.raises(ValueError, match="that folder lacks tokenizer_config.json"):
        load("pick-score", block)
    source = settings["pick-score"]["processor_name_or_path"]
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded: .*CLIP processor folder.*`system.guid"):
        load("pick-score", {**block, "processor_name_or_path": str(copy)})
