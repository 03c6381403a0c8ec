"""The VSD benchmark: its table by hand, one measured step, and what its memory depends on."""

import pytest
import torch

import benchmark_vsd
from measuring import peak_megabytes
from tests.helpers.doubles import Prompts, camera_batch, guidance
from tests.helpers.tiny_models import TEXT_WIDTH, save_diffusion

BATCH = 4


def test_ratios_are_against_vsd_with_the_same_chunks():
    """0.6 s over 0.2 s is x3.00, 0.9 over 0.1 is x9.00."""
    found = {
        (0, 4): {"seconds": 0.2, "images": 16, "megabytes": 40.0},
        (0, 16): {"seconds": 0.1, "images": 16, "megabytes": 41.0},
        (7, 4): {"seconds": 0.6, "images": 76, "megabytes": 42.0},
        (7, 16): {"seconds": 0.9, "images": 76, "megabytes": 60.04},
    }
    lines = benchmark_vsd.table(found).splitlines()
    assert lines[0] == "VSD: 0.200 s (4), 0.100 s (16) a step, 16 network images."
    assert lines[2] == "| method | N | network images | time: 4 | time: 16 | MB: 4 | MB: 16 |"
    assert lines[4] == "| VSD |  | 16 | x1.00 | x1.00 | 40.0 | 41.0 |"
    assert lines[5] == "| RewardVSD | 7 | 76 | x3.00 | x9.00 | 42.0 | 60.0 |"


@pytest.mark.slow
def test_steps_are_measured(monkeypatch):
    """Images: 2 of each view and candidate by the prior, then 1 by the adapter, 4 to train it."""
    monkeypatch.setattr(benchmark_vsd, "WARM_UP", 0)
    found = benchmark_vsd.measure([(0, 16), (4, 16)], steps=1)
    assert [case["images"] for case in found.values()] == [8 + 4 + 4, 32 + 16 + 4]
    assert found[4, 16]["seconds"] > 0
    assert found[4, 16]["megabytes"] >= found[0, 16]["megabytes"] > 1


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("models"))


def step_megabytes(path, candidates, chunk_size):
    built = guidance(
        "stable-diffusion-prior",
        "reward-vsd-guidance",
        pretrained_model_name_or_path=path,
        n_noises=candidates,
        chunk_size=chunk_size,
    )
    rgb = torch.rand(BATCH, 64, 64, 3, requires_grad=True)

    def step():
        out = built(rgb, Prompts(width=TEXT_WIDTH), **camera_batch(BATCH))
        (out["loss_vsd"] + out["loss_lora"]).backward()

    return peak_megabytes(step, torch.device("cpu"))


def test_memory_is_bounded_by_the_chunk_and_not_by_the_number_of_candidates(path):
    """What grows with it are only the previews and their latents."""
    few, many, chunk = 4, 10, 4
    bounded = step_megabytes(path, many, chunk) - step_megabytes(path, few, chunk)
    whole = step_megabytes(path, many, many * BATCH) - step_megabytes(path, few, many * BATCH)
    previews = (many - few) * BATCH * 3 * 64 * 64 * 4 / 1e6
    print(f"\nmegabytes: bounded {bounded:.2f}, whole {whole:.2f}, previews {previews:.2f}")
    assert bounded < 1.5 * previews < 0.2 * whole
