"""Mixed precision: networks in half, rewards and gradients in single precision, also on CUDA."""

import pytest
import torch

import threestudio
from tests.helpers.doubles import Prompts, camera_batch, guidance
from tests.helpers.tiny_models import TEXT_WIDTH, save_clip, save_diffusion
from threestudio.utils.misc import get_device


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"prior": save_diffusion(root / "prior"), "reward": save_clip(root / "reward")}


@pytest.mark.gpu
def test_gpu_tests_never_run_without_a_device():
    """Fails where the skip in `conftest.py` does not fire."""
    assert torch.cuda.is_available()


def test_other_tests_compute_on_the_cpu(monkeypatch):
    """Fails where the hook in `conftest.py` does not set it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert get_device().type == "cpu"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("prior", ["stable-diffusion-prior", "mvdream-prior"])
def test_a_step_under_autocast_has_finite_single_precision_rewards_and_gradients(
    prior, device, folders
):
    built = guidance(
        prior,
        pretrained_model_name_or_path=folders["prior"],
        reward_model_type="clip",
        reward_model={"pretrained_model_name_or_path": folders["reward"]},
        sheet_every=1,
    )
    rgb = torch.rand(4, 64, 64, 3, device=device, requires_grad=True)
    batch = {name: value.to(device) for name, value in camera_batch(4).items()}
    with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
        out = built(rgb, Prompts(width=TEXT_WIDTH), **batch)
        out["loss_sds"].backward()
    half = torch.float16 if device == "cuda" else torch.float32
    assert built.prior.unet.dtype == built.prior.vae.dtype == built.reward.model.dtype == half
    for name in ("loss_sds", "grad_norm", "reward", "reward_std"):
        assert out[name].dtype == torch.float32 and torch.isfinite(out[name]), name
    assert out["reward_std"] > 0
    assert rgb.grad.dtype == torch.float32 and torch.isfinite(rgb.grad).all()
    assert rgb.grad.abs().sum() > 0


@pytest.mark.gpu
def test_a_reward_on_the_gpu_scores_images_from_the_cpu(folders):
    settings = {"pretrained_model_name_or_path": folders["reward"]}
    reward = threestudio.find("reward-model-clip")(settings)
    images = torch.rand(2, 3, 48, 48)
    prompts = ["a cube", "a cone"]
    scores = reward(images, prompts)
    assert torch.allclose(scores, reward(images.cuda(), prompts)) and scores.dtype == torch.float32
