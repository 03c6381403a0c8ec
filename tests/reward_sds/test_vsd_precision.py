"""VSD with networks in half precision: the adapter stays single, a step stays what it is.

A CPU computes in single precision by default; here it is told to take half precision, too.
"""

import pytest
import torch

from tests.helpers.doubles import Prompts, camera_batch, extension, guidance
from tests.helpers.tiny_models import TEXT_WIDTH, save_diffusion
from threestudio.utils.misc import set_cpu_only

networks = extension("networks")
BATCH, COUNT = 4, 4
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
SETTINGS = {
    "single": {"half_precision_weights": False},
    "float16": {},
    "bfloat16": {"half_precision_type": "bfloat16"},
}
HALF = pytest.mark.parametrize("half", ["float16", "bfloat16"])
PRIORS = pytest.mark.parametrize("prior", ["stable-diffusion-prior", "mvdream-prior"])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("models"))


def build(prior, path, device, precision, monkeypatch):
    """Build RewardVSD on a device; its adapter is no longer 0 and the same in every call."""
    monkeypatch.setattr(networks, "HALF_DEVICES", ("cpu", "cuda"))
    set_cpu_only(device == "cpu")
    built = guidance(
        prior,
        "reward-vsd-guidance",
        pretrained_model_name_or_path=path,
        **SETTINGS[precision],
        guidance_scale_lora=2.0,
        reward_model_type="fixed",
        reward_model={"scores": list(range(COUNT * BATCH))},
        n_noises=COUNT,
    )
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
        for name, tensor in built.state_dict().items()
    }
    built.load_state_dict(state)
    return built


def step(built, device):
    """Take step 7; returns its outputs and the gradients of the render and of the adapter."""
    built.do_update_step(0, 7)
    rgb = torch.rand(BATCH, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    rgb = rgb.to(device).requires_grad_(True)
    batch = {name: value.to(device) for name, value in camera_batch(BATCH).items()}
    out = built(rgb, Prompts(width=TEXT_WIDTH), **batch)
    (out["loss_vsd"] + out["loss_lora"]).backward()
    return out, rgb.grad, {name: p.grad for name, p in built.named_parameters()}


@DEVICES
@PRIORS
@HALF
def test_the_adapter_of_a_network_in_half_precision_is_single(
    half, prior, device, path, monkeypatch
):
    built = build(prior, path, device, half, monkeypatch)
    _, _, gradients = step(built, device)
    frozen = [p for name, p in built.prior.unet.named_parameters() if "lora_" not in name]
    assert {p.dtype for p in frozen} == {getattr(torch, half)} and all(
        p.grad is None for p in frozen
    )
    for name, parameter in built.named_parameters():
        gradient = gradients[name]
        assert parameter.device.type == device, name
        assert parameter.dtype == gradient.dtype == torch.float32, name
        assert gradient.isfinite().all() and gradient.abs().max() > 0, name


@pytest.mark.parametrize(
    ("device", "precision", "limit"),
    [
        ("cpu", "float16", 0.02),
        ("cpu", "bfloat16", 0.16),
        pytest.param("cuda", "float16", 0.02, marks=pytest.mark.gpu),
        pytest.param("cuda", "bfloat16", 0.16, marks=pytest.mark.gpu),
        pytest.param("cuda", "single", 1e-4, marks=pytest.mark.gpu),
    ],
)
@PRIORS
def test_a_step_is_that_of_a_cpu_in_single_precision(
    prior, device, precision, limit, path, monkeypatch
):
    """float16 has 11 bits, bfloat16 8, so eight times the error; the draws are the same."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    runs = []
    for where, what in (("cpu", "single"), (device, precision)):
        out, render, adapter = step(build(prior, path, where, what, monkeypatch), where)
        together = torch.cat([gradient.flatten() for gradient in adapter.values()])
        losses = torch.stack([out["loss_vsd"].detach(), out["loss_lora"].detach()])
        runs.append([values.cpu() for values in (render, together, losses)])
    expected, found = runs
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]
    print(f"\n{prior}, {device}, {precision}: errors of render, adapter, losses {errors}")
    assert 0 < max(errors) < limit
