"""The composite reward: z-scores per scene, weights, logs, and messages that name the part."""

import pytest
import torch

from tests.helpers.doubles import (
    BrightnessReward,
    Prompts,
    camera_batch,
    extension,
    guidance,
    render,
)

composite = extension("rewards.composite")
settings = extension("settings")
RewardError = extension("rewards").RewardError
UserError = extension("errors").UserError
KEY = "system.guidance.reward_model"

K, B, V = 3, 4, 2
FIRST = [1.0, 3.0, 0.0, 2.0, 2.0, 4.0, 5.0, 5.0, 9.0, 9.0, 4.0, 8.0]
"""Scores of K B images; scenes of two views have the means [2, 1], [3, 5], [9, 6]."""

SECOND = [7.0, 7.0, 1.0, 1.0, 7.0, 7.0, 2.0, 2.0, 7.0, 7.0, 4.0, 2.0]
"""Means [7, 1], [7, 2], [7, 3]: equal in the first scene."""


def fixed(scores, **part):
    return {"type": "fixed", "settings": {"scores": scores}, **part}


def load(parts, **others):
    return composite.CompositeRewardModel({"parts": parts, **others})


def score(model, chunk_size=100):
    images = torch.rand(K, B, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return model.candidate_scores(images, ["p"] * B, V, chunk_size)


def z_scores(rewards):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    return (rewards - rewards.mean(dim=0)) / ((rewards - rewards.mean(dim=0)) ** 2).mean(
        dim=0
    ).sqrt()


def test_one_part_is_standardised_over_the_candidates_of_each_scene():
    found = score(load({"a": fixed(FIRST)}))
    assert torch.allclose(found.double(), z_scores([[2, 1], [3, 5], [9, 6]]), atol=1e-6)


def test_parts_are_summed_with_their_weights_after_that():
    """The second part says nothing in the first scene, where all candidates are equal."""
    found = score(load({"a": fixed(FIRST, weight=2), "b": fixed(SECOND, weight=-0.5)}))
    expected = 2 * z_scores([[2, 1], [3, 5], [9, 6]])
    expected[:, 1] -= 0.5 * z_scores([[1], [2], [3]])[:, 0]
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_scale_and_offset_of_a_part_do_not_matter():
    parts = {"a": fixed(FIRST), "b": fixed(SECOND)}
    moved = {"a": fixed([100 * s - 7 for s in FIRST]), "b": fixed(SECOND)}
    assert torch.allclose(score(load(parts)), score(load(moved)), atol=1e-5)


def test_the_deviation_has_a_floor():
    """Differences of 1e-4 are divided by 0.01, not by their own deviation."""
    scores = [1e-4 * s for s in FIRST]
    found = score(load({"a": fixed(scores)}, min_std=0.01))
    means = torch.tensor([[2.0, 1.0], [3.0, 5.0], [9.0, 6.0]], dtype=torch.float64)
    assert torch.allclose(found, 0.01 * (means - means.mean(dim=0)), atol=1e-6)


def test_one_candidate_has_no_preference():
    images = torch.rand(1, B, 3, 4, 4)
    model = load({"a": {"type": "brightness"}})
    assert torch.equal(model.candidate_scores(images, ["p"] * B, V, 8), torch.zeros(1, B // V))


def test_the_chunk_size_does_not_matter():
    parts = {"a": {"type": "brightness"}}
    assert torch.equal(score(load(parts)), score(load(parts), chunk_size=5))


def test_raw_means_are_reported():
    model = load({"a": fixed(FIRST), "b": fixed(SECOND)})
    score(model)
    report = {name: value.item() for name, value in model.report().items()}
    assert report == pytest.approx({"a": 52 / 12, "b": 54 / 12})


def test_reports_of_parts_are_passed_on():
    model = load({"inner": {"type": "composite", "settings": {"parts": {"a": fixed(FIRST)}}}})
    score(model)
    assert model.report()["inner"].abs() < 1e-6
    assert model.report()["inner_a"].item() == pytest.approx(52 / 12)


def test_parts_follow_the_step(monkeypatch):
    steps = []

    def update_step(self, epoch, step, on_load_weights=False):
        steps.append((epoch, step))

    monkeypatch.setattr(BrightnessReward, "update_step", update_step)
    load({"a": {"type": "brightness"}}).do_update_step(1, 7)
    assert steps == [(1, 7)]


def test_the_guidance_logs_every_part():
    parts = {"bright": {"type": "brightness"}, "other": {"type": "brightness", "weight": 0.5}}
    built = guidance(
        reward_model_type="composite", reward_model={"parts": parts}, reward_strategy="best"
    )
    out = built(render(4), Prompts(), **camera_batch(4))
    assert out["reward_bright"] == out["reward_other"] != 0
    assert abs(out["reward"]) < 1e-5 and out["reward_std"] > 0


def test_a_composite_of_one_selects_as_its_part_does():
    alone = guidance(reward_model_type="brightness")
    parts = {"bright": {"type": "brightness"}}
    composed = guidance(reward_model_type="composite", reward_model={"parts": parts})
    losses = [g(render(4), Prompts(), **camera_batch(4))["loss_sds"] for g in (alone, composed)]
    assert torch.equal(*losses)


def test_single_images_have_no_score():
    with pytest.raises(RewardError, match="compares the candidates of a scene.*candidate_scores"):
        load({"a": fixed(FIRST)})(torch.rand(2, 3, 4, 4), ["p", "p"])


def test_a_reward_that_is_not_finite_names_its_part():
    bad = [*FIRST[:-1], float("nan")]
    text = (
        "Part 'b' of the composite reward: The reward of candidate 2, image 3 is nan "
        f".*another `{KEY}.parts.b.type`"
    )
    with pytest.raises(RewardError, match=text):
        score(load({"a": fixed(FIRST), "b": fixed(bad)}))


def test_an_error_while_loading_names_its_part(tmp_path):
    """A file that is there but is no model is only found when it is loaded."""
    (tmp_path / "config.json").write_text("{}")
    block = {"pretrained_model_name_or_path": str(tmp_path)}
    text = f"Part 'c' .*`{KEY}.parts.c.settings.pretrained_model_name_or_path`"
    with pytest.raises(UserError, match=text):
        load({"c": {"type": "clip", "settings": block}})


def faults(**block):
    return settings.component_faults(composite.CompositeRewardModel, block, KEY)[1]


GOOD = {"type": "brightness"}


@pytest.mark.parametrize(
    "block, text",
    [
        ({}, f"`{KEY}.parts` is empty. Name one reward or more. Example: `{KEY}: {{parts: "),
        ({"parts": {"a": GOOD}, "min_std": 0}, f"`{KEY}.min_std` is 0.0, but must be a number"),
        ({"parts": {"a": GOOD}, "min_std": float("nan")}, f"`{KEY}.min_std` is nan"),
        ({"parts": {"a": GOOD}, "min_sdt": 1}, f"`{KEY}.min_sdt` is not a key"),
        ({"parts": {"a": "clip"}}, f"`{KEY}.parts.a` is 'clip', but must be a block. Example"),
        ({"parts": {"a": {"weight": 1}}}, f"`{KEY}.parts.a.type` is not set. Example"),
        (
            {"parts": {"a": {"type": "brightnes"}}},
            f"`{KEY}.parts.a.type` is 'brightnes', but there is no such component. Did you mean",
        ),
        (
            {"parts": {"a": {**GOOD, "wieght": 1}}},
            f"`{KEY}.parts.a.wieght` is not a key of this block. Did you mean 'weight'",
        ),
        (
            {"parts": {"a": {**GOOD, "weight": "big"}}},
            f"`{KEY}.parts.a.weight` is 'big' (str), but must be float, like its default 1.0",
        ),
        (
            {"parts": {"a": {**GOOD, "weight": float("inf")}}},
            f"`{KEY}.parts.a.weight` is inf, but must be a finite number",
        ),
        ({"parts": {"std": GOOD}}, f"`{KEY}.parts.std`: the log entry `reward_std` is taken"),
        (
            {"parts": {"a": {"type": "fixed", "settings": {"score": []}}}},
            f"`{KEY}.parts.a.settings.score` is not a key of this block. Did you mean 'scores'",
        ),
        (
            {"parts": {"a": {"type": "python", "settings": {"function": ""}}}},
            "Part 'a' of the composite reward: `function` is ''",
        ),
        (
            {"parts": {"a": {"type": "composite", "settings": {"parts": {"b": {}}}}}},
            f"`{KEY}.parts.a.settings.parts.b.type` is not set",
        ),
    ],
)
def test_faults_are_found_before_anything_is_loaded(block, text):
    (fault,) = faults(**block)
    assert text in fault


def test_all_faults_are_listed_at_once():
    first, second, third = faults(
        parts={"a": {"type": "klip"}, "b": {**GOOD, "weight": float("nan")}, "c": 3}
    )
    assert "parts.a.type" in first and "parts.b.weight" in second and "parts.c" in third


def test_the_guidance_lists_them_with_its_own():
    block = {"reward_model_type": "composite", "reward_model": {"parts": {"a": {"type": "klip"}}}}
    with pytest.raises(ValueError, match="n_noises` is 0(.|\n)*parts.a.type` is 'klip'"):
        guidance(**block, n_noises=0)
