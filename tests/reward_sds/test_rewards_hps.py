"""HPS v2: OpenCLIP's names on the classes of transformers, against a forward pass of our own."""

import shutil

import pytest
import torch

import threestudio
from tests.helpers.doubles import extension
from tests.helpers.open_clip import encode_image, encode_text, random_state
from tests.helpers.tiny_models import save_hps, save_tokenizer

images_of = extension("rewards.images")
UserError = extension("errors").UserError
HEADS = 4
PROMPTS = ["a cube", "a cone, front view", "abcdefghijklmnopqrstuvw", ""]
"""One shorter and one longer than the 12 tokens of the tiny model, one empty."""


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    return save_hps(tmp_path_factory.mktemp("hps"))


def load(block, **changes):
    return threestudio.find("reward-model-hps")({**block, **changes})


def state_of(block):
    return torch.load(block["checkpoint_path"], weights_only=True)["state_dict"]


def padded_with_zero(tokenizer, prompts):
    """Return token ids as OpenCLIP has them: zeros after the end of the text."""
    ids = torch.zeros(len(prompts), 12, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        tokens = tokenizer(prompt, max_length=12, truncation=True)["input_ids"]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


def test_hps_equals_the_architecture_of_open_clip(block):
    """Double precision there, single precision here; padding 0 there, the tokenizer's here."""
    reward = load(block)
    state = {name: tensor.double() for name, tensor in state_of(block).items()}
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels = images_of.normalised(x, 32, images_of.CLIP_MEAN, images_of.CLIP_STD).double()
    with torch.no_grad():
        image = unit(encode_image(state, pixels, HEADS))
        text = unit(encode_text(state, padded_with_zero(reward.tokenizer, PROMPTS), HEADS))
    cosines = (image * text).sum(dim=-1)
    differences = {
        "image": (reward.image_features(x) - image).abs().max().item(),
        "text": (reward.text_features(PROMPTS) - text).abs().max().item(),
        "score / 100": (reward(x, PROMPTS) / 100 - cosines).abs().max().item(),
    }
    print("HPS against plain torch, largest difference:", differences)
    assert max(differences.values()) <= 1e-5
    assert cosines.std() > 0.01


def test_half_precision_weights_are_read(block, tmp_path):
    """The published file is in half precision; the CPU computes in single."""
    state = {name: tensor.half() for name, tensor in state_of(block).items()}
    torch.save({"state_dict": state}, tmp_path / "half.pt")
    x = torch.rand(1, 3, 32, 32)
    reward = load(block, checkpoint_path=str(tmp_path / "half.pt"))
    assert reward.model.dtype == torch.float32
    assert torch.allclose(reward(x, ["a cube"]), load(block)(x, ["a cube"]), atol=1.0)


def test_loading_draws_no_random_numbers(block):
    before = torch.get_rng_state()
    load(block)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_weights_are_explained(block):
    source = "hf download xswu/HPSv2 HPS_v2.1_compressed.pt --local-dir models/HPSv2`, and set `"
    for path, file in (
        ("", "HPS_v2.1_compressed.pt"),
        ("no.pt", "no.pt"),
        ("./no", "no/HPS_v2.1_compressed.pt"),
    ):
        text = f"checkpoint_path` is '{path}', but there is no file '{file}' .*{source}"
        with pytest.raises(ValueError, match=text):
            load(block, checkpoint_path=path)
    with pytest.raises(UserError, match="checksum .*, but `system.*checkpoint_sha256` is 0000"):
        load(block, checkpoint_sha256="0" * 64)


def test_weights_come_from_their_folder_or_the_hub(block, tmp_path, monkeypatch):
    """The hub's model has one file that is read; it is fetched, or taken from the cache."""
    file, asked = tmp_path / "HPS_v2.1_compressed.pt", []
    shutil.copy(block["checkpoint_path"], file)

    def fetch(hub_id, name):
        asked.append((hub_id, name))
        return str(file)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    x = torch.rand(1, 3, 32, 32)
    expected = load(block)(x, ["a cube"])
    for path in (str(tmp_path), "xswu/HPSv2"):
        assert torch.equal(load(block, checkpoint_path=path)(x, ["a cube"]), expected)
    assert asked == [("xswu/HPSv2", file.name)]
    assert threestudio.find("reward-model-hps").Config().checkpoint_path == "xswu/HPSv2"


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_is_out_of_reach_is_explained(block, offline, monkeypatch, tmp_path):
    def fetch(hub_id, name):
        raise OSError("We couldn't connect")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    command = "`hf download a/b HPS_v2.1_compressed.pt --local-dir models/b`.*checkpoint_path`"
    with pytest.raises(UserError, match=command):
        load(block, checkpoint_path="a/b")


def test_other_weights_are_explained(block, tmp_path):
    state = {"extra": torch.zeros(1), **state_of(block)}
    del state["visual.transformer.resblocks.1.ln_2.bias"]
    torch.save(state, tmp_path / "other.pt")
    text = "missing visual.transformer.resblocks.1.ln_2.bias; unexpected extra. Set `system.guid"
    with pytest.raises(UserError, match=text):
        load(block, checkpoint_path=str(tmp_path / "other.pt"))


@pytest.mark.parametrize(
    "heads, text",
    [
        (0, "num_heads` is 0, but must be 1 or more"),
        (3, "num_heads` is 3, which does not divide the widths 24 and 16"),
    ],
)
def test_a_wrong_number_of_heads_is_explained(heads, text, block):
    with pytest.raises(ValueError, match=text):
        load(block, num_heads=heads)


def test_another_tokenizer_is_explained(block, tmp_path):
    save_tokenizer(tmp_path)
    text = "ends a text with token 1, but the weights of .*checkpoint_path` expect 55"
    with pytest.raises(UserError, match=text):
        load(block, processor_name_or_path=str(tmp_path))


def test_a_missing_processor_is_explained(block):
    with pytest.raises(ValueError, match="processor_name_or_path` is 'load/none', but there is no"):
        load(block, processor_name_or_path="load/none")


def test_sizes_follow_from_the_tensors():
    weights = extension("rewards.open_clip_weights")
    state = random_state(30, vision_width=32, layers=(1, 2), projection=6, patch_size=16)
    config = weights.clip_config(state, 8)
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size) == (32, 1, 16)
    assert (vision.image_size, vision.intermediate_size, vision.hidden_act) == (32, 128, "gelu")
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (16, 2, 30)
    assert (text.max_position_embeddings, text.eos_token_id, text.hidden_act) == (12, 29, "gelu")
    assert config.projection_dim == 6
