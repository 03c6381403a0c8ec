"""ImageReward: equality with the published network on a tiny checkpoint, tokens, preprocessing."""

from pathlib import Path

import pytest
import torch

from tests.helpers import image_reward_reference as published
from tests.helpers.doubles import extension

image_reward = extension("rewards.image_reward")
network = extension("rewards.image_reward_network")
candidate_rewards = extension("rewards").candidate_rewards

PROMPTS = ["a red cube", "cones", "a red cube, front view of a cone"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.save(tmp_path_factory.mktemp("image-reward"))


@pytest.fixture(scope="module")
def reward(folder):
    return published.load(folder)


def images(count):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def reference_scores(pictures, reward):
    """Score 32 px images in float64; only the tokens come from the reward."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    tokens = torch.stack([reward.tokens(prompt) for prompt in PROMPTS]).cpu()
    reference = published.Reference(published.random_state())
    raw = reference((pictures - mean) / std, tokens[:, 0], tokens[:, 1])
    return (raw - 0.16717362830052426) / 1.0333394966054072


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_scores_and_gradients_are_the_published_ones(device, folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(extension("networks"), "HALF_DEVICES", ())
    reward = published.load(folder)
    assert reward.device.type == device
    ours, theirs = images(3).requires_grad_(True), images(3).double().requires_grad_(True)
    scores, expected = reward(ours, PROMPTS).cpu(), reference_scores(theirs, reward)
    scores.sum().backward()
    expected.sum().backward()
    score_error = (scores - expected).abs().max().item()
    gradient_error = (ours.grad - theirs.grad).abs().max().item()
    print(f"ImageReward against float64: scores {score_error:.1e}, gradient {gradient_error:.1e}")
    assert score_error <= 1e-5 and expected.std() > 0.01
    assert gradient_error <= 1e-5 and theirs.grad.abs().max() > 0.01


def test_scores_do_not_depend_on_the_batch(reward):
    alone = [reward(images(3)[i : i + 1], [PROMPTS[i]]) for i in range(3)]
    assert torch.allclose(torch.cat(alone), reward(images(3), PROMPTS), atol=1e-5)


def test_scores_are_single_precision_whatever_the_caller_computes_in(reward):
    expected = reward(images(3), PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = reward(images(3), PROMPTS)
    assert scores.dtype == torch.float32 and torch.equal(scores, expected)
    assert torch.allclose(reward(images(3).double(), PROMPTS), expected)


def test_encoders_in_half_precision_score_nearly_the_same(folder, reward):
    tokens = torch.stack([reward.tokens(prompt) for prompt in PROMPTS])
    pixels, scores = reward.preprocess(images(3)), {}
    for dtype in (torch.float32, torch.float16):
        model = network.load_image_reward(Path(folder, "ImageReward.pt"), "cpu", dtype)
        scores[dtype] = model(pixels.to(dtype), tokens[:, 0], tokens[:, 1])
    half, single = scores[torch.float16], scores[torch.float32]
    assert half.dtype == torch.float32 and not torch.equal(half, single)
    assert torch.allclose(half, single, atol=0.02)


def test_the_constants_of_the_score():
    assert image_reward.SCORE_MEAN == 0.16717362830052426
    assert image_reward.SCORE_STD == 1.0333394966054072


@pytest.mark.parametrize(
    "prompt, ids",
    [
        ("A red CUBES, front view", [2, 5, 6, 7, 8, 10, 11, 12, 3]),
        ("a green cone", [2, 5, 1, 9, 3]),
        ("[ENC] cube [DEC]", [2, 14, 7, 13, 3]),
        ("a red cube " * 50, [2, *([5, 6, 7] * 11), 3]),
    ],
)
def test_tokens_by_hand(prompt, ids, reward):
    """[CLS] 2, [SEP] 3, unknown 1; [DEC], [ENC] follow the 13 words; padded with 0 to 35."""
    found, mask = reward.tokens(prompt).tolist()
    assert found == ids + [0] * (35 - len(ids))
    assert mask == [1] * len(ids) + [0] * (35 - len(ids))


def test_each_prompt_is_tokenised_once(folder):
    reward = published.load(folder)
    expected = reward(images(3), PROMPTS)
    reward.tokenizer = None  # a second call would fail
    assert torch.equal(reward(images(3), PROMPTS), expected)


def test_the_centre_is_cropped_and_normalised_by_hand(reward):
    """Of 48 columns with the values 0/50, 1/50, ... the columns 8 to 39 stay."""
    ramp = (torch.arange(48.0) / 50).expand(1, 3, 32, 48)
    pixels = reward.preprocess(ramp)
    assert pixels.shape == (1, 3, 32, 32)
    for channel in range(3):
        for column in (0, 31):
            value = ((column + 8) / 50 - MEAN[channel]) / STD[channel]
            assert torch.allclose(pixels[0, channel, :, column], torch.full((32,), value))


def test_large_images_are_resized_by_their_shorter_side(reward):
    """Left half 0, right half 1, 64x128: 32x64 after resizing, 16 columns of each value remain."""
    pixels = reward.preprocess((torch.arange(128) >= 64).float().expand(1, 3, 64, 128))
    low, high = (-MEAN[0] / STD[0], (1 - MEAN[0]) / STD[0])
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels[0, 0, :, :12], torch.tensor(low))
    assert torch.allclose(pixels[0, 0, :, 20:], torch.tensor(high))


def test_candidates_are_scored_against_their_prompts(reward):
    """Two candidates of three scenes with one view each, in chunks that cut candidates."""
    pictures = images(6).unflatten(0, (2, 3))
    pooled = candidate_rewards(reward, pictures, PROMPTS, 1, 4)
    expected = torch.stack([reference_scores(p.double(), reward) for p in pictures])
    assert torch.allclose(pooled.double(), expected, atol=1e-5)
