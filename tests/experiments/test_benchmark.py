"""The benchmark: its table by hand, and its loop, which is the step of the guidance."""

from types import SimpleNamespace

import pytest
import torch

from benchmark import guide_by_config, one_at_a_time, table
from tests.helpers.doubles import Prompts, Words, camera_batch, guidance, render
from tests.reward_sds.test_bridge import build

BATCH, COUNT = 4, 5


def test_ratios_are_against_sds_of_the_same_run():
    """0.6 s over 0.2 s is x3.00, 64 images over 8 is x8."""
    found = {
        ("sds", 1, 0): {"seconds": 0.2, "images": 8, "megabytes": 100},
        ("batched", 4, 1): {"seconds": 0.6, "images": 32, "megabytes": 150},
        ("loop", 4, 1): {"seconds": 1.0, "images": 64, "megabytes": 120},
    }
    text = table(found, [4], [1])
    assert "SDS: 0.200 s a step, 8 network images, 100 MB." in text
    assert "| 4 | 1 | x3.00 | x4 | 150 | x5.00 | x8 | 120 |" in text


def guided(built, prompts, guide):
    """Return the render's gradient and the network images of a step."""
    built.do_update_step(0, 0)
    rgb = render(BATCH)
    system = SimpleNamespace(guidance=built, prompt_utils=prompts)
    loss, images = guide(system, rgb, camera_batch(BATCH, torch.float64))
    loss.backward()
    return rgb.grad, images


@pytest.mark.parametrize("previews", [1, 4])
@pytest.mark.parametrize("objective", ["sds", "bridge"])
def test_the_loop_is_the_step_of_the_guidance(objective, previews):
    """Images: two texts of a view, N candidates, S steps; the loop repeats the first for the loss.
    The bound on the gradient is met by some of its elements."""
    settings = {"n_noises": COUNT, "preview_steps": previews, "min_step_percent": 0.5}
    settings |= {"grad_clip": 1.7, "noise_scale": 0.1, "guidance_scale": 3.0}
    if objective == "sds":
        built, prompts = guidance(n_view=2, **settings), Prompts()
    else:
        built, prompts = build(bridge_start=0, **settings), Words(["a cat"])
    batched, images = guided(built, prompts, guide_by_config)
    looped, more_images = guided(built, prompts, one_at_a_time)
    assert torch.allclose(looped, batched, atol=1e-10, rtol=0)
    assert 0.2 < (batched.abs() > 1.69 / BATCH).double().mean() < 0.5
    assert images == 2 * BATCH * COUNT * previews
    assert more_images == 2 * BATCH * COUNT * (previews + 1)
