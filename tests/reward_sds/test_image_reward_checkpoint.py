"""ImageReward's checkpoint: where it may lie, what follows from it, what is wrong with it."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

import threestudio
from tests.helpers import image_reward_reference as published
from tests.helpers.doubles import extension
from tests.helpers.image_reward_reference import NAME, load
from tests.helpers.tiny_models import damage

image_reward = extension("rewards.image_reward")
network = extension("rewards.image_reward_network")
UserError = extension("errors").UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.save(tmp_path_factory.mktemp("image-reward"))


def score(reward):
    """Score one picture, to tell rewards apart."""
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return reward(picture, ["a red cube"])


def faults(path, words, **settings):
    """Check settings without loading anything."""
    return image_reward.ImageRewardModel.check(
        threestudio.find(NAME).Config(path, words, **settings)
    )


def test_loading_does_not_move_the_draws_of_the_run(folder):
    state = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_published_sizes_follow_from_the_shapes():
    """ViT-L/16 at 224 px (14 x 14 patches and the class token), BERT-base, 768-1024-128-64-16-1."""
    image, text = "blip.visual_encoder.", "blip.text_encoder."
    shapes = {
        f"{image}pos_embed": (1, 197, 1024),
        f"{image}patch_embed.proj.weight": (1024, 3, 16, 16),
        **{f"{image}blocks.{i}.mlp.fc1.weight": (4096, 1024) for i in range(24)},
        f"{text}embeddings.word_embeddings.weight": (30524, 768),
        f"{text}embeddings.position_embeddings.weight": (512, 768),
        **{f"{text}encoder.layer.{i}.intermediate.dense.weight": (3072, 768) for i in range(12)},
    }
    head = [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
    shapes |= {f"mlp.layers.{i}.weight": s for i, s in zip((0, 2, 4, 6, 7), head, strict=True)}
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    sizes = network.network_sizes(Path("x"), state, None)
    assert sizes == {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 16,
        },
        "text": {
            "vocab_size": 30524,
            "hidden_size": 768,
            "encoder_hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 512,
        },
        "head": head,
    }
    with torch.device("meta"):
        model = network.ImageRewardNetwork(**sizes)
    count = [sum(p.numel() for p in part.parameters()) for part in (model.vision, model.text)]
    assert count == [303_301_632, 141_977_088]


def test_the_file_may_be_named_itself(folder):
    named = load(f"{folder}/ImageReward.pt", folder)
    assert torch.equal(score(named), score(load(folder)))


def test_without_med_config_heads_have_64_features(folder, tmp_path):
    """The tiny text encoder is 24 wide, so it has one head instead of the three of the file."""
    shutil.copy(Path(folder) / "ImageReward.pt", tmp_path)
    assert load(str(tmp_path), folder).model.text.config.num_attention_heads == 1
    assert load(folder).model.text.config.num_attention_heads == 3


def test_a_hub_id_fetches_the_checkpoint_and_its_sizes(folder, monkeypatch):
    fetched = []

    def fetch(name, file):
        fetched.append((name, file))
        return f"{folder}/{file}"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert torch.equal(score(load("zai-org/ImageReward", folder)), score(load(folder)))
    assert sorted(fetched) == [
        ("zai-org/ImageReward", "ImageReward.pt"),
        ("zai-org/ImageReward", "med_config.json"),
    ]


def test_an_offline_hub_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model, words = faults("zai-org/ImageReward", "google-bert/bert-base-uncased")
    assert "`hf download zai-org/ImageReward ImageReward.pt med_config.json --local-dir" in model
    assert "pretrained_model_name_or_path` is 'zai-org/ImageReward', which is not in the" in model
    assert "tokenizer_name_or_path` is 'google-bert/bert-base-uncased', which is not in" in words


@pytest.mark.parametrize(
    "path, file",
    [
        ("./load/no-reward", "load/no-reward/ImageReward.pt"),
        ("load/no-reward/ImageReward.pt", "load/no-reward/ImageReward.pt"),
        ("no-reward/ImageReward.pt", "no-reward/ImageReward.pt"),
        ("ImageReward-v1.0", "ImageReward-v1.0/ImageReward.pt"),
    ],
)
def test_a_missing_checkpoint_is_explained(path, file, folder):
    (fault,) = faults(path, folder)
    assert f"reward_model.pretrained_model_name_or_path` is '{path}', but there is no file" in fault
    assert f"'{file}'" in fault and "`hf download zai-org/ImageReward Im" in fault


def test_a_missing_vocabulary_is_explained(folder, tmp_path):
    (fault,) = faults(folder, str(tmp_path))
    assert "reward_model.tokenizer_name_or_path` is" in fault and "lacks vocab.txt" in fault
    with pytest.raises(ValueError, match="tokenizer_name_or_path.*no such folder"):
        load(folder, "./load/no-words")


def test_a_checksum_is_compared_before_loading(folder, tmp_path):
    content = Path(folder, "ImageReward.pt").read_bytes()
    right = hashlib.sha256(content).hexdigest()
    assert load(folder, sha256=right.upper()).model is not None
    published.save(tmp_path)
    (tmp_path / "ImageReward.pt").write_bytes(b"no checkpoint")
    wrong = hashlib.sha256(b"no checkpoint").hexdigest()
    text = f"ImageReward.pt' have the SHA-256 checksum {wrong}, but `.*sha256` is {right}"
    with pytest.raises(UserError, match=text):
        load(str(tmp_path), sha256=right)


@pytest.mark.parametrize("digest", ["abc", "g" * 64])
def test_a_checksum_that_is_none_is_explained(digest, folder):
    (fault,) = faults(folder, folder, sha256=digest)
    assert f"reward_model.sha256` is '{digest}', but a SHA-256 checksum has 64 hexadecimal" in fault


def refused(tmp_path, state, match):
    with pytest.raises(UserError, match=match):
        load(published.save(tmp_path, state))


def test_missing_tensors_are_named(tmp_path):
    state = published.random_state()
    del state["mlp.layers.7.bias"]
    refused(tmp_path, state, "not an ImageReward checkpoint: missing mlp.layers.7.bias. Give the")
    kept = {name: state[name] for name in state if not name.startswith("blip.visual")}
    text = "missing blip.*blocks.0.mlp.fc1.weight, .*.patch_embed.proj.weight, .*pos_embed. Give"
    refused(tmp_path, kept, text)


def test_missing_and_unexpected_tensors_are_counted(tmp_path):
    state = published.random_state()
    for name in [name for name in state if "blocks.1." in name]:
        state[name.replace("blocks.1", "blocks.9")] = state.pop(name)
    text = (
        r"missing blip.visual_encoder.blocks.1.\S+, blip\S+, blip\S+, blip\S+ and 8 more; "
        r"unexpected blip.visual_encoder.blocks.9.\S+, blip\S+, blip\S+, blip\S+ and 8 more. Give"
    )
    refused(tmp_path, state, text)


def test_tensors_of_another_shape_are_named(tmp_path):
    state = published.random_state()
    state["blip.visual_encoder.norm.bias"] = torch.zeros(3)
    refused(tmp_path, state, ": of another shape blip.visual_encoder.norm.bias. Give the published")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 1}, {"epoch": 3}])
def test_a_file_of_something_else_is_explained(content, tmp_path):
    refused(tmp_path, content, "not a dictionary of tensors, so `system.guidance.reward_model.pre")


def test_a_damaged_checkpoint_is_one_message(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copy / "ImageReward.pt")
    text = "ImageReward.pt' cannot be read: .*Download it again, and set `system.guidance.reward_m"
    with pytest.raises(UserError, match=text):
        load(str(copy))


@pytest.mark.parametrize(
    "content, text",
    [
        ('{"num_attention', "med_config.json' is damaged"),
        ('{"num_attention_heads": 5}', "cannot be loaded: ValueError.*24.*5"),
    ],
)
def test_a_bad_med_config_is_one_message(content, text, folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "med_config.json").write_text(content)
    with pytest.raises(UserError, match=text):
        load(str(copy))


@pytest.mark.parametrize("words, count", [("[PAD] [UNK] [CLS] [SEP] [MASK] a", 8), ("", 7)])
def test_another_vocabulary_is_explained(words, count, folder, tmp_path):
    """A vocabulary that was not read at all is one of them: five special words and two."""
    (tmp_path / "vocab.txt").write_text("\n".join(words.split()))
    text = f"tokenizer_name_or_path` is .* has {count} words .* but the checkpoint has 15. Give a"
    with pytest.raises(UserError, match=text):
        load(folder, str(tmp_path))


def test_a_damaged_tokenizer_is_one_message(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "tokenizer.json").write_text('{"version":')
    text = "cannot be loaded: .*BERT tokenizer folder.*`system.guidance.reward_model.tokenizer_name"
    with pytest.raises(UserError, match=text):
        load(folder, str(copy))
