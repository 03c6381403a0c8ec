"""Rewards: CLIPScore on the real class, a user's own function, pooling and messages."""

import shutil
import textwrap

import numpy as np
import pytest
import torch

import threestudio
from tests.helpers.doubles import BrightnessReward, FixedReward, extension
from tests.helpers.tiny_models import damage, save_clip

rewards = extension("rewards")
clip = extension("rewards.clip")
preparing = extension("rewards.images")
UserError = extension("errors").UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("reward"))


def images(count, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def load(folder):
    return threestudio.find("reward-model-clip")({"pretrained_model_name_or_path": folder})


PROMPTS = ["a cube", "a cone, front view", "a cube"]


def test_clip_score_is_100_times_the_cosine(folder):
    """The model's own logits are `exp(logit_scale) cos`."""
    reward = load(folder)
    scores = reward(images(3), PROMPTS)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (preparing.CLIP_MEAN, preparing.CLIP_STD)
    )
    tokens = reward.tokenizer(
        PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = reward.model(pixel_values=(images(3) - mean) / std, **tokens)
    cosine = output.logits_per_image.diagonal() / reward.model.logit_scale.exp()
    assert torch.allclose(scores, 100 * cosine, atol=1e-4)
    assert scores[0] != scores[1]


def test_clip_score_is_differentiable_in_the_image(folder):
    x = images(1, size=48).requires_grad_(True)
    load(folder)(x, ["a red cube"]).sum().backward()
    assert x.grad.abs().sum() > 0


def test_clip_score_is_single_precision_whatever_the_caller_computes_in(folder):
    expected = load(folder)(images(3), PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = load(folder)(images(3), PROMPTS)
    assert scores.dtype == torch.float32 and torch.equal(scores, expected)
    for dtype in (torch.float16, torch.float64):
        scores = load(folder)(images(3).to(dtype), PROMPTS)
        assert scores.dtype == torch.float32 and torch.allclose(scores, expected, atol=0.1)


def test_each_prompt_is_encoded_once(folder):
    reward = load(folder)
    reward.text_features(PROMPTS)
    reward.tokenizer = None  # a second call would fail
    features = reward.text_features(PROMPTS[::-1])
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])


def test_the_text_cache_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(clip, "CACHE_SIZE", 3)
    reward = load(folder)
    for prompt in ("a", "b", "c", "d", "e"):
        reward.text_features([prompt, "z"])
    assert len(reward._text_cache) <= 3


def test_long_prompts_are_cut(folder):
    assert torch.isfinite(load(folder)(images(1), ["a red cube, " * 1000])).all()


def test_preprocessing_is_the_one_of_clip():
    """Shorter side to 32 by bicubic with antialiasing, centre crop, mean and deviation."""
    from transformers import CLIPImageProcessor

    picture = images(1, size=200)[..., :100, :]
    smooth = torch.nn.functional.avg_pool2d(picture, 9, stride=1, padding=4)
    array = (smooth[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    theirs = torch.from_numpy(np.asarray(processor(array)["pixel_values"][0]))
    ours = preparing.resize_and_crop(smooth, 32)[0]
    assert (ours - theirs).abs().max() < 3 / 255  # theirs is rounded to 8 bits


def test_preprocessing_reads_the_folder(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(
        '{"crop_size": {"height": 30}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'
    )
    assert preparing.preprocessing(str(tmp_path), 32) == (30, [0, 0, 0], [1, 1, 1])
    file.write_text('{"size": {"shortest_edge": 28}}')
    assert preparing.preprocessing(str(tmp_path), 32)[0] == 28
    file.unlink()
    assert preparing.preprocessing(str(tmp_path), 32) == (
        32,
        [*preparing.CLIP_MEAN],
        [*preparing.CLIP_STD],
    )


def test_a_missing_reward_folder_is_explained():
    with pytest.raises(
        ValueError, match="reward_model.pretrained_model_name_or_path.*no such fold"
    ):
        load("load/no-reward")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_reward_is_one_message(file, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / file)
    text = "'.*copy' cannot be loaded: .*CLIPModel folder.*`system.guidance.reward_model.pretrained"
    with pytest.raises(UserError, match=text):
        load(str(copy))


def test_a_damaged_preprocessing_is_one_message(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "preprocessor_config.json").write_text('{"size":')
    with pytest.raises(UserError, match="preprocessor_config.json' is damaged.*again"):
        load(str(copy))


SCORER = textwrap.dedent(
    """
    def tensor(images, prompts): return images.mean(dim=(1, 2, 3))
    def array(images, prompts): return images.mean(dim=(1, 2, 3)).numpy()
    def numbers(images, prompts): return [len(p) for p in prompts]
    def text(images, prompts): return "good"
    def none(images, prompts): return None
    constant = 3
    """
)


@pytest.fixture
def scorers(tmp_path, monkeypatch):
    (tmp_path / "my_scorers.py").write_text(SCORER)
    (tmp_path / "my_broken.py").write_text("import does_not_exist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))


def python_reward(function):
    return threestudio.find("reward-model-python")({"function": function})


@pytest.mark.parametrize("name", ["tensor", "array"])
def test_a_users_function_scores(name, scorers):
    x = images(3)
    scores = python_reward(f"my_scorers:{name}")(x, PROMPTS)
    assert torch.allclose(scores, x.mean(dim=(1, 2, 3)))


def test_whole_numbers_are_scores_too(scorers):
    scores = python_reward("my_scorers:numbers")(images(3), PROMPTS)
    assert scores.tolist() == [6.0, 18.0, 6.0] and scores.dtype == torch.float32


@pytest.mark.parametrize(
    "function, text",
    [
        ("", "`function` is '', but must be \"module:function\""),
        ("my_scorers", 'must be "module:function"'),
        ("no_such_module:score", "module 'no_such_module' cannot be imported"),
        ("my_broken:score", "ModuleNotFoundError: No module named 'does_not_exist'"),
        ("my_scorers:tensr", "has no function 'tensr'. It has: array, none, numbers, tensor, text"),
        ("my_scorers:constant", "has no function 'constant'"),
    ],
)
def test_a_bad_function_is_explained(function, text, scorers):
    (fault,) = rewards.PythonRewardModel.check(
        threestudio.find("reward-model-python").Config(function)
    )
    assert text in fault
    with pytest.raises(ValueError):
        python_reward(function)


@pytest.mark.parametrize("name", ["text", "none"])
def test_a_result_that_is_no_number_is_explained(name, scorers):
    with pytest.raises(rewards.RewardError, match="is not 3 numbers"):
        python_reward(f"my_scorers:{name}")(images(3), PROMPTS)


def test_a_candidate_is_rewarded_for_the_mean_of_its_views():
    """Candidate 1, scene 1 has views 6 and 7: mean 6.5."""
    model = FixedReward({"scores": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]})
    x = images(8).unflatten(0, (2, 4))
    pooled = rewards.candidate_rewards(model, x, ["p"] * 4, 2, 100)
    assert pooled.tolist() == [[0.5, 2.5], [4.5, 6.5]]


def test_pooled_rewards_do_not_depend_on_the_chunk_size():
    x = images(12).unflatten(0, (3, 4))
    whole = rewards.candidate_rewards(BrightnessReward(), x, ["p"] * 4, 4, 100)
    for chunk in (1, 5):
        assert torch.equal(
            rewards.candidate_rewards(BrightnessReward(), x, ["p"] * 4, 4, chunk), whole
        )


def test_reward_errors_name_candidate_prompt_and_reward():
    x = images(4).unflatten(0, (2, 2))
    model = FixedReward({"scores": [0.0, 1.0, 2.0, float("nan")]})
    text = "candidate 1, image 1 is nan .*Fixed.*'q'.*another `system.guidance.reward_model_type`"
    with pytest.raises(rewards.RewardError, match=text):
        rewards.candidate_rewards(model, x, ["p", "q"], 1, 100)
    with pytest.raises(rewards.RewardError, match="returned 4 scores .* for 3 images"):
        rewards.candidate_rewards(model, x, ["p", "q"], 1, 3)
