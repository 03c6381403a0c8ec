"""Aesthetic predictors: heads of both versions on the real CLIP class, and their messages."""

import pytest
import torch
from torch import nn

import threestudio
from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render
from tests.helpers.tiny_models import save_aesthetic, save_clip

UserError = extension("errors").UserError
VERSIONS = ["v1", "v2"]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    root = tmp_path_factory.mktemp("aesthetic")
    return {version: save_aesthetic(root / version, version) for version in VERSIONS}


def load(block, **changes):
    return threestudio.find("reward-model-aesthetic")({**block, **changes})


def images(count):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class MLP(nn.Module):
    """The second head as it was trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features):
        return self.layers(features)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_score_is_the_head_of_the_unit_image_features(version, blocks):
    from transformers import CLIPModel

    block = blocks[version]
    head = (nn.Linear(8, 1) if version == "v1" else MLP()).eval()
    head.load_state_dict(torch.load(block["head_path"], weights_only=True))
    model = CLIPModel.from_pretrained(block["pretrained_model_name_or_path"])
    prepared = extension("rewards.images")
    pixels = prepared.normalised(images(3), 32, prepared.CLIP_MEAN, prepared.CLIP_STD)
    with torch.no_grad():
        features = model.get_image_features(pixel_values=pixels).pooler_output
        expected = head(features / features.norm(dim=-1, keepdim=True)).squeeze(-1)
    scores = load(block)(images(3), ["a", "b", "c"])
    assert torch.allclose(scores, expected, atol=1e-5) and expected.std() > 1e-4


def test_the_prompt_is_ignored(blocks):
    reward = load(blocks["v1"])
    assert torch.equal(reward(images(2), ["a cube", "a cone"]), reward(images(2), ["", "b"]))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_log_names_the_version(version, blocks):
    built = guidance(reward_model_type="aesthetic", reward_model=blocks[version])
    out = built(render(4), Prompts(), **camera_batch(4))
    assert out[f"reward_aesthetic_{version}"] == out["reward"]


@pytest.mark.parametrize(
    "version, repository, file",
    [
        ("v1", "LAION-AI/aesthetic-predictor", "sa_0_4_vit_l_14_linear.pth"),
        (
            "v2",
            "christophschuhmann/improved-aesthetic-predictor",
            r"ava%2Blogos-l14-linearMSE.pth",
        ),
    ],
)
def test_a_missing_head_is_explained(version, repository, file, blocks):
    text = f"head_path` is not set. Download https://github.com/{repository}/raw/main/{file}, and"
    with pytest.raises(ValueError, match=text):
        load(blocks[version], head_path="")


def test_a_wrong_checksum_is_explained(blocks):
    with pytest.raises(UserError, match="checksum .*, but `system.*head_sha256` is 0000"):
        load(blocks["v1"], head_sha256="0" * 64)


def test_a_version_that_does_not_exist_is_explained(blocks):
    with pytest.raises(ValueError, match="version` is 'v3', but must be 'v1' or 'v2'"):
        load(blocks["v1"], version="v3")


def test_a_missing_network_is_explained(blocks):
    with pytest.raises(ValueError, match="pretrained_model_name_or_path` is 'load/none', but"):
        load(blocks["v1"], pretrained_model_name_or_path="load/none")


def test_the_head_of_the_other_version_is_explained(blocks):
    text = "not an aesthetic head of version v2 .*missing layers.0.bias, .*6 more; unexpected bias"
    with pytest.raises(UserError, match=text):
        load(blocks["v1"], version="v2")
    text = "not an aesthetic head of version v1 .*missing bias, weight; unexpected layers.0.bias"
    with pytest.raises(UserError, match=text + ".*Set `system.guidance.reward_model.version`"):
        load(blocks["v2"], version="v1")


def test_a_head_for_other_features_is_explained(blocks, tmp_path):
    torch.save({"weight": torch.zeros(1, 9), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    text = r"for 8 image features: weight has shape \[1, 9\], not \[1, 8\]"
    with pytest.raises(UserError, match=text):
        load(blocks["v1"], head_path=str(tmp_path / "head.pth"))


def test_a_damaged_network_is_one_message(blocks, tmp_path):
    folder = save_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="clip' cannot be loaded: .*CLIPModel folder"):
        load(blocks["v1"], pretrained_model_name_or_path=folder)
