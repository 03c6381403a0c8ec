"""Rewards on CLIPModel folders against a forward pass of our own.

Folders are as published: OpenAI's networks have the sigmoid's approximation of GELU, those of
OpenCLIP (PickScore) GELU itself, and all call token 2 the end of text, by which transformers knows
that a text ends at its highest id.
"""

import pytest
import torch
import torch.nn.functional as F

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.open_clip import encode_image, encode_text, quick_gelu, random_state
from tests.helpers.tiny_models import save_aesthetic, save_tokenizer
from tests.reward_sds.test_rewards_hps import HEADS, PROMPTS, padded_with_zero, unit

images_of = extension("rewards.images")
weights = extension("rewards.open_clip_weights")
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


def save_clip(folder, activation):
    """Save a CLIPModel with tokenizer; returns its tensors by OpenCLIP's names, in double."""
    from transformers import CLIPModel

    state = random_state(save_tokenizer(folder, marks_last=True))
    config = weights.clip_config(state, HEADS)
    config.text_config.hidden_act = config.vision_config.hidden_act = activation
    config.text_config.eos_token_id = 2
    tensors = weights.to_transformers(state)
    CLIPModel.from_pretrained(None, config=config, state_dict=tensors).save_pretrained(folder)
    return {name: tensor.double() for name, tensor in state.items()}


def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def image_features(state, activation):
    pixels = images_of.normalised(images(), 32, images_of.CLIP_MEAN, images_of.CLIP_STD).double()
    return unit(encode_image(state, pixels, HEADS, ACTIVATIONS[activation]))


def largest(found, expected):
    return (found - expected).abs().max().item()


@pytest.mark.parametrize(
    "name, activation", [("clip", "quick_gelu"), ("clip", "gelu"), ("pick-score", "gelu")]
)
def test_both_towers_and_the_score_equal_the_architecture(name, activation, tmp_path):
    """Double precision there, single precision here; padding 0 there, the tokenizer's here."""
    state = save_clip(tmp_path, activation)
    keys = ["pretrained_model_name_or_path"]
    keys += ["processor_name_or_path"] if name == "pick-score" else []
    reward = threestudio.find(f"reward-model-{name}")(dict.fromkeys(keys, str(tmp_path)))
    ids = padded_with_zero(reward.tokenizer, PROMPTS)
    image = image_features(state, activation)
    text = unit(encode_text(state, ids, HEADS, ACTIVATIONS[activation]))
    scale = 100.0 if name == "clip" else state["logit_scale"].exp().item()
    cosines = (image * text).sum(dim=-1)
    differences = {
        "image": largest(reward.image_features(images()), image),
        "text": largest(reward.text_features(PROMPTS), text),
        "score / scale": largest(reward(images(), PROMPTS) / scale, cosines),
    }
    print(f"{name}, {activation}, against plain torch, largest difference:", differences)
    assert max(differences.values()) <= 1e-5
    assert cosines.std() > 0.01 and abs(scale - 1) > 0.01


def test_aesthetic_equals_the_architecture(tmp_path):
    state = save_clip(tmp_path / "network", "quick_gelu")
    block = save_aesthetic(tmp_path, "v1")
    block["pretrained_model_name_or_path"] = str(tmp_path / "network")
    head = {name: t.double() for name, t in torch.load(block["head_path"]).items()}
    expected = F.linear(image_features(state, "quick_gelu"), head["weight"], head["bias"])[:, 0]
    scores = threestudio.find("reward-model-aesthetic")(block)(images(), PROMPTS)
    difference = largest(scores, expected)
    print(f"aesthetic against plain torch, largest difference: {difference:.1e}")
    assert difference <= 1e-5 and expected.std() > 0.01
