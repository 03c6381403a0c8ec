"""The training loop resumes exactly; losses and targets are what they say."""

import argparse
import importlib
import math
import random

import pytest
import torch
from torch import nn

training = importlib.import_module("threestudio-blocks.training")
train_judge = importlib.import_module("threestudio-blocks.train_judge")
train_vae = importlib.import_module("threestudio-blocks.train_vae")
train_prior = importlib.import_module("threestudio-blocks.train_prior")
train_reward = importlib.import_module("threestudio-blocks.train_reward")
captions = importlib.import_module("threestudio-blocks.captions")

PAIR = captions.Caption(
    captions.Solid("cube", "red"), "on top of", captions.Solid("sphere", "blue")
)


def make_trainer(folder, steps, total):
    options = argparse.Namespace(steps=total, seed=0, cache=folder, output=folder, device="cpu")
    torch.manual_seed(0)
    trainer = training.Trainer("toy", {"net": nn.Linear(3, 3)}, options, learning_rate=1e-2)
    trainer.options = argparse.Namespace(**{**vars(options), "steps": steps})
    return trainer


def toy_loss(trainer):
    def losses_of(step, generator):
        x = torch.randn(4, 3, generator=generator)
        return {"mse": (trainer.modules["net"](x) - x.flip(-1)).square().mean()}

    return losses_of


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 10)
    whole = make_trainer(tmp_path / "whole", 40, total=40)
    whole.fit(toy_loss(whole))
    monkeypatch.setattr(training.Trainer, "_learning_rate_factor", _factor_of_forty)
    for stop in (20, 40):
        part = make_trainer(tmp_path / "parts", stop, total=40)
        part.fit(toy_loss(part))
    for left, right in zip(whole.averages.parameters(), part.averages.parameters(), strict=True):
        assert torch.equal(left, right)
    assert (tmp_path / "parts" / "curves" / "toy.csv").read_text().startswith("step,mse\n20,")


def _factor_of_forty(self, step):
    return (
        min(1.0, (step + 1) / 100)
        * (0.5 + 0.5 * torch.tensor(min(step / 40, 1.0) * torch.pi).cos()).item()
    )


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path):
    trainer = make_trainer(tmp_path, 5, total=5)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        trainer.fit(lambda step, generator: {"mse": torch.tensor(math.nan)})
    assert not (tmp_path / "toy.pt").exists()


def test_targets_name_the_slots_of_the_caption():
    batch = argparse.Namespace(captions=[PAIR, captions.Caption(PAIR.first)])
    shapes, colors = train_judge.slot_targets(batch)
    empty = train_judge.EMPTY
    assert shapes.tolist() == [[empty, empty, 1, 0, empty], [empty] * 4 + [1]]
    assert colors.tolist() == [[-100, -100, 0, 5, -100], [-100] * 4 + [0]]


def test_blind_captions_say_every_relation_and_order_equally_often():
    rng = random.Random(0)
    said = [train_prior.blind(PAIR, rng) for _ in range(800)]
    for relation in captions.RELATIONS:
        assert 150 < sum(c.relation == relation for c in said) < 250
    assert 320 < sum(c.first == PAIR.first for c in said) < 480


def test_foreign_captions_are_never_true():
    rng = random.Random(1)
    for _ in range(50):
        foreign = train_reward.foreign_captions(PAIR, rng)
        assert len(foreign) == train_reward.NUM_FOREIGN
        assert all(caption.slots != PAIR.slots for caption in foreign)


def test_the_group_loss_falls_when_the_right_captions_score_higher():
    """One group: with orthogonal features the right pairing is nearly free, a shuffled one is
    not."""
    pictures = torch.eye(4)
    texts = torch.eye(4)[None].expand(4, 4, 4)
    scale = torch.tensor(20.0)
    right = train_reward.group_losses(pictures, texts, scale, [True])
    wrong = train_reward.group_losses(pictures.flip(0), texts, scale, [True])
    assert right < 1e-3 < 10 < wrong


def test_disturbed_pictures_stay_in_range_and_most_stay_clean():
    images = torch.rand(300, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    disturbed = train_vae.disturb(images, torch.Generator().manual_seed(1))
    same = (disturbed == images).flatten(1).all(1).float().mean()
    assert 0.55 < same < 0.8
    assert 0 <= disturbed.min() and disturbed.max() <= 1
