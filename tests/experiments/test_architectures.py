"""The benchmark of real architectures: published sizes, the table, and runs of it."""

import pytest
import torch

import architectures
import random_models
from architectures import Method, Row
from tests.helpers.doubles import extension
from tests.helpers.original_layout import PUBLISHED
from tests.helpers.original_shapes import all_shapes
from threestudio.utils.misc import get_device


@pytest.fixture(autouse=True)
def stay_as_it_is(monkeypatch):
    """Keep environment and working folder."""
    monkeypatch.setattr(architectures, "prepare", lambda threads: None)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_the_published_ones():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel

    single_view = random_models.ARCHITECTURES["Stable Diffusion 2.1"]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**single_view.unet_sizes(tiny=False))
        vae = AutoencoderKL(**random_models.vae_sizes(tiny=False))
        clip = CLIPModel(random_models.clip_config(tiny=False, end_of_text=2))
    assert [parameters(m) for m in (unet, vae, clip)] == [865_910_724, 83_653_863, 427_616_513]
    assert unet.config.sample_size == 64


def test_mvdream_has_the_sizes_of_the_original_checkpoint():
    with torch.device("meta"):
        state = {n: torch.empty(shape) for n, shape in all_shapes(PUBLISHED["2.1"]).items()}
    published = extension("priors.mvdream_sizes").unet_config(state)
    ours = random_models.ARCHITECTURES["MVDream"].unet_sizes(tiny=False)
    assert {name: published[name] for name in ours} == ours


def test_ratios_are_against_sds_with_the_same_render():
    """0.6 s over 0.2 s is x3.00."""
    plain, rewarded = Method("SDS", "g"), Method("RewardSDS", "g", 7, 4)
    rows = [
        Row("MVDream", plain, 64, 0.2, 8, 2.0, 1.0),
        Row("MVDream", plain, 256, 0.3, 8, 2.0, 1.0),
        Row("MVDream", rewarded, 64, 0.6, 224, 2.875, 4.5),
    ]
    lines = architectures.table(rows, "a GPU").splitlines()
    assert lines[0] == "Device: a GPU."
    assert lines[4] == "| MVDream | SDS |  |  | 64 | 0.200 | x1.00 | 8 | 2.00 | 1.00 |"
    assert lines[6] == "| MVDream | RewardSDS | 7 | 4 | 64 | 0.600 | x3.00 | 224 | 2.88 | 4.50 |"


def cells(text):
    """Return prior, method and network images of each row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[4:]]
    return [(row[0], row[1], int(row[7])) for row in rows]


def expected(candidates, views):
    """Two texts a candidate by the prior; VSD: the adapter for up to four, and its training."""
    return [
        ("SDS", 2 * views),
        ("RewardSDS", 2 * candidates * views),
        ("VSD", (2 + 1 + 1) * views),
        ("RewardVSD", (2 * candidates + 4 + 1) * views),
    ]


def check(text, device, candidates):
    wanted = [("Stable Diffusion 2.1", *row) for row in expected(candidates, 1)]
    wanted += [("MVDream", *row) for row in expected(candidates, 4)]
    assert text.startswith(f"Device: {device}.\n") and cells(text) == wanted


@pytest.mark.slow
def test_small_networks_take_every_step_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(architectures, "WARM_UP", 0)
    arguments = ["--tiny", "--candidates", "5", "--previews", "1", "--steps", "1"]
    assert architectures.main([*arguments, "--pixels", "32"]) == 0
    check(capsys.readouterr().out, "CPU", 5)


def test_the_real_sizes_are_refused_on_a_cpu(capsys):
    assert architectures.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "needs a CUDA device. Add --tiny" in printed.err


@pytest.mark.gpu
def test_the_real_sizes_take_every_step_on_cuda(monkeypatch, capsys):
    monkeypatch.setattr(architectures, "WARM_UP", 0)
    assert architectures.main(["--steps", "1", "--previews", "1", "--pixels", "64"]) == 0
    check(capsys.readouterr().out, torch.cuda.get_device_name(get_device()), 7)
