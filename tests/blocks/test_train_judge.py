"""What the judges are trained on: half of the front views went through the autoencoder."""

import importlib
from pathlib import Path

import torch

train_judge = importlib.import_module("threestudio-blocks.train_judge")
decoded = importlib.import_module("threestudio-blocks.decoded")
edits = importlib.import_module("threestudio-blocks.edits")
VAE = Path(__file__).resolve().parents[2] / "load/blocks/prior/vae"


def test_some_of_a_batch_comes_from_the_pool_with_its_targets():
    drawn = (torch.zeros(400, 1, 3, 2, 2), torch.zeros(400, 5), torch.zeros(400, 5))
    numbers = torch.arange(1, 9).float()
    pool = (
        numbers.view(8, 1, 1, 1, 1).expand(8, 1, 3, 2, 2),
        *(numbers[:, None].expand(8, 5),) * 2,
    )
    views, shapes, colors = train_judge.some_of(pool, drawn, torch.Generator().manual_seed(0))
    assert torch.equal(views[:, 0, 0, 0, 0], shapes[:, 0]) and torch.equal(shapes, colors)
    assert set(shapes[:, 0].tolist()) == {0.0, *numbers.tolist()}
    assert 0.4 < (shapes[:, 0] > 0).float().mean() < 0.6
    assert not any(value.any() for value in drawn)


def test_decoded_pictures_are_those_that_went_in_a_little_worse():
    made = edits.edits("dev", 3)
    pictures = torch.stack([edits.front_picture(edit.source, 1) for edit in made])
    back = decoded.through_autoencoder(pictures, VAE, "cpu", chunk=2)
    assert back.shape == pictures.shape and back.min() >= 0 and back.max() <= 1
    assert 0 < (back - pictures).abs().mean() < 0.04
