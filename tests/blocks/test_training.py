"""The training loop resumes exactly; losses and targets are what they say."""

import argparse
import importlib
import math
import random

import pytest
import torch
from torch import nn

training = importlib.import_module("threestudio-blocks.training")
train_prior = importlib.import_module("threestudio-blocks.train_prior")
train_reward = importlib.import_module("threestudio-blocks.train_reward")
train_vae = importlib.import_module("threestudio-blocks.train_vae")
augment = importlib.import_module("threestudio-blocks.augment")
evaluate = importlib.import_module("threestudio-blocks.evaluate")
groups = importlib.import_module("threestudio-blocks.groups")
latents = importlib.import_module("threestudio-blocks.latents")
previews = importlib.import_module("threestudio-blocks.previews")
renders = importlib.import_module("threestudio-blocks.renders")
slots = importlib.import_module("threestudio-blocks.slots")
text = importlib.import_module("threestudio-blocks.text")
captions = importlib.import_module("threestudio-blocks.captions")

PAIR = captions.Caption(
    captions.Solid("cube", "red"), "on top of", captions.Solid("sphere", "blue")
)


def options_for(folder, steps=40, **changed):
    options = training.parser("", steps=steps, batch_size=2)
    parsed = training.parse(options, ["--cache", str(folder), "--output", str(folder)])
    return argparse.Namespace(**{**vars(parsed), "num_scenes": 24, "device": "cpu", **changed})


def make_trainer(folder, steps=40, **changed):
    options = options_for(folder, steps, **changed)
    return training.Trainer("toy", {"net": nn.Linear(3, 3)}, options, learning_rate=1e-2)


def toy_loss(trainer, stop=None):
    def losses_of(step, generator):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=generator)
        return {"mse": (trainer.modules["net"](x) - x.flip(-1)).square().mean()}

    return losses_of


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 10)
    whole = make_trainer(tmp_path / "whole")
    whole.fit(toy_loss(whole))
    stopped = make_trainer(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(toy_loss(stopped, stop=27))
    again = make_trainer(tmp_path / "parts")
    assert again.step == 20
    again.fit(toy_loss(again))
    for left, right in zip(whole.averages.parameters(), again.averages.parameters(), strict=True):
        assert torch.equal(left, right)
    curves = [(tmp_path / run / "curves" / "toy.csv").read_text() for run in ("whole", "parts")]
    assert curves[0] == curves[1]
    assert curves[0].startswith("step,mse\n20,")


def test_a_checkpoint_of_other_settings_is_refused_unless_restarted(tmp_path):
    trainer = make_trainer(tmp_path, steps=2)
    trainer.fit(toy_loss(trainer))
    with pytest.raises(ValueError, match="seed 7.*seed 8.*--restart"):
        make_trainer(tmp_path, seed=8)
    assert make_trainer(tmp_path, seed=8, restart=True).step == 0


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        trainer.fit(lambda step, generator: {"mse": torch.tensor(math.nan)})
    assert not (tmp_path / "toy.pt").exists()


def test_targets_name_the_slots_of_the_caption():
    shapes, colors = slots.slot_targets([PAIR.slots, captions.Caption(PAIR.first).slots, None])
    empty, ignored = slots.EMPTY, slots.IGNORED
    assert shapes.tolist() == [
        [empty, empty, 1, 0, empty],
        [empty] * 4 + [1],
        [ignored] * 5,
    ]
    assert colors.tolist() == [
        [ignored, ignored, 0, 5, ignored],
        [ignored] * 4 + [0],
        [ignored] * 5,
    ]


def test_the_view_decides_where_a_caption_puts_its_solids():
    left = PAIR.with_relation("on the left of")
    cube, ball = PAIR.first, PAIR.second
    assert slots.slots_in_view(f"{left}, front view") == {"left": cube, "right": ball}
    assert slots.slots_in_view(f"{left}, back view") == {"right": cube, "left": ball}
    assert slots.slots_in_view(f"{left}, side view") is None
    for view in captions.VIEWS:
        assert slots.slots_in_view(f"{PAIR}, {view} view") == {"top": cube, "bottom": ball}


def test_blind_captions_say_every_relation_and_order_equally_often():
    rng = random.Random(0)
    said = [captions.blind(PAIR, rng) for _ in range(800)]
    for relation in captions.RELATIONS:
        assert 150 < sum(c.relation == relation for c in said) < 250
    assert 320 < sum(c.first == PAIR.first for c in said) < 480


def test_foreign_captions_are_never_true():
    rng = random.Random(1)
    for _ in range(50):
        foreign = groups.foreign_captions(PAIR, rng)
        assert len(set(map(str, foreign))) == 4
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
    disturbed = augment.disturb(images, torch.Generator().manual_seed(1))
    same = (disturbed == images).flatten(1).all(1).float().mean()
    assert 0.55 < same < 0.8
    assert 0 <= disturbed.min() and disturbed.max() <= 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A few renders and an untrained prior of the real architecture, in its published layout."""
    folder = tmp_path_factory.mktemp("world")
    options = options_for(folder)
    torch.manual_seed(0)
    train_vae.build_vae().save_pretrained(folder / "prior" / "vae")
    tokenizer = text.build_tokenizer()
    parts = {
        "unet": train_prior.build_unet(),
        "text_encoder": train_prior.build_text_encoder(tokenizer),
    }
    trainer = training.Trainer("prior", parts, options, learning_rate=1e-3)
    train_prior.publish(trainer, tokenizer, folder / "prior")
    return options, renders.load_or_render(folder, 240, seed=1)


def test_a_group_shows_the_same_solids_in_four_relations_from_the_same_sides(world):
    sampler = groups.GroupSampler(world[1])
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        group = sampler.draw(generator, training.python_rng(generator))
        assert [c.relation for c in group.captions] == list(captions.RELATIONS)
        assert len({(c.first, c.second) for c in group.captions}) == 1
        offset = (group.azimuth_deg - torch.tensor([0.0, 90.0, 180.0, 270.0]) + 180) % 360 - 180
        assert (offset.abs() <= 45.001).all()


def test_a_batch_of_groups_names_eight_captions_a_picture_and_can_show_previews(world):
    options, scenes = world
    previewer = previews.Previewer(options.output / "prior", "cpu")
    sampler = groups.GroupSampler(scenes)
    batch = groups.draw_groups(sampler, previewer, 2, torch.Generator().manual_seed(0))
    assert len(batch.images) == 4 * len(batch.sided) == len(batch.texts) // 8 == 16
    for start in range(0, len(batch.texts), 8):
        assert len(set(batch.texts[start : start + 8])) == 8
    assert batch.images.min() >= 0 and batch.images.max() <= 1


def test_latents_are_encoded_once_per_autoencoder_and_drawn_with_blind_captions(world):
    options, scenes = world
    folder = options.output / "prior" / "vae"
    pool = latents.LatentPool(scenes, folder, options)
    assert pool.latents.shape == (latents.VARIANTS * len(scenes), 4, 4, 8, 8)
    files = list(options.cache.glob("latents-*.pt"))
    assert len(files) == 1 and training.digest(folder) in files[0].name
    batch = pool.draw_scenes(3, torch.Generator().manual_seed(0))
    assert batch.latents.shape == (12, 4, 8, 8) and batch.c2w.shape == (12, 4, 4)
    assert all(len(set(batch.texts[i : i + 4])) == 1 for i in range(0, 12, 4))
    views = pool.draw_views(12, torch.Generator().manual_seed(0))
    assert views.c2w is None
    assert all(not t or t.endswith(("front view", "back view", "side view")) for t in views.texts)


def test_the_noise_loss_of_an_untrained_prior_reaches_text_and_camera(world):
    options, scenes = world
    pool = latents.LatentPool(scenes, options.output / "prior" / "vae", options)
    tokenizer = text.build_tokenizer()
    unet, encoder = train_prior.build_unet(), train_prior.build_text_encoder(tokenizer)
    loss = train_prior.NoiseLoss(unet, encoder, tokenizer, "cpu")
    generator = torch.Generator().manual_seed(0)
    loss(pool.draw_views(4, generator), generator).backward()
    assert unet.class_embedding.linear_1.weight.grad is None
    loss(pool.draw_scenes(2, generator), generator).backward()
    for module in (unet.class_embedding.linear_1, encoder.embeddings.token_embedding):
        assert module.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("split", ["dev", "held-out"])
def test_the_reward_is_measured_on_every_pair_of_the_split_in_all_relations(split):
    measured, size = evaluate.relation_groups(split), len(captions.RELATIONS)
    groups_of_pairs = [measured[start : start + size] for start in range(0, len(measured), size)]
    for group in groups_of_pairs:
        assert group == [group[0].with_relation(relation) for relation in captions.RELATIONS]
    found = [frozenset((group[0].first, group[0].second)) for group in groups_of_pairs]
    known = {frozenset(pair) for pair in captions.pair_splits()[split]}
    assert len(found) == len(known) and set(found) == known


def test_preferences_count_what_the_reward_ranks_right():
    """A stub that reads the relation from the picture's mean: first always right, then only twisted
    between left and right."""
    pair_captions = [PAIR.with_relation(relation) for relation in captions.RELATIONS]
    images = torch.arange(4.0)[:, None, None, None, None].expand(4, 4, 3, 2, 2)

    def oracle(pictures, texts):
        shown = pictures[:, 0, 0, 0].long().tolist()
        rows = zip(texts, shown, strict=True)
        return torch.tensor([float(captions.RELATIONS[s] in t) for t, s in rows])

    def twisted(pictures, texts):
        shown = pictures[:, 0, 0, 0].long()
        return oracle(torch.where(shown < 2, 1 - shown, shown)[:, None, None, None], texts)

    assert set(evaluate.preferences(oracle, images, pair_captions).values()) == {100.0}
    found = evaluate.preferences(twisted, images, pair_captions)
    # front and back: left-right lost both ways; four views: top-under won both ways
    # left and right lost on two views, top and under won on four, three comparisons each
    assert found["text"] == found["picture"] == pytest.approx(100 * 24 / 36, abs=0.1)
    assert found["text_inverse"] == found["picture_inverse"] == pytest.approx(100 * 8 / 12, abs=0.1)


def test_the_reward_losses_reach_both_towers_and_both_heads(world):
    tokenizer = text.build_tokenizer()
    reward = train_reward.build_reward(tokenizer)
    heads = nn.ModuleDict(
        {name: slots.SlotHead(train_reward.PROJECTION) for name in ("image", "text")}
    )
    losses = train_reward.RewardLosses(reward, heads, tokenizer, "cpu")
    sampler = groups.GroupSampler(world[1])
    parts = losses(groups.draw_groups(sampler, None, 2, torch.Generator().manual_seed(0)))
    assert set(parts) == {"contrast", "image", "text"}
    sum(parts.values()).backward()
    for tower in (reward.vision_model, reward.text_model, heads["image"], heads["text"]):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())
