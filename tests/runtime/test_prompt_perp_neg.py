"""Perp-Neg between the views: embeddings are one number each, weights are worked out by hand."""

import math

import pytest
import torch

from threestudio.models.prompt_processors.output import PromptProcessorOutput
from threestudio.models.prompt_processors.views import NAMES, make_directions

SIDE, FRONT, BACK, OVERHEAD, NEGATIVE = 1.0, 2.0, 4.0, 8.0, -1.0
DEFAULTS = {
    "perp_neg_f_sb": (1.0, 0.5, -0.606),
    "perp_neg_f_fsb": (1.0, 0.5, 0.967),
    "perp_neg_f_fs": (4.0, 0.5, -2.426),
    "perp_neg_f_sf": (4.0, 0.5, -2.426),
}


def perp_neg(azimuth, elevation=0.0, **weights):
    """Return positive, unconditional, two negatives and their weights for one camera."""
    prompts = PromptProcessorOutput(
        text_embeddings=torch.zeros(1, 1, 1),
        uncond_text_embeddings=torch.full((1, 1, 1), NEGATIVE),
        text_embeddings_vd=torch.tensor([SIDE, FRONT, BACK, OVERHEAD]).view(4, 1, 1),
        uncond_text_embeddings_vd=torch.full((4, 1, 1), NEGATIVE),
        directions=make_directions(45.0, 45.0, 60.0, False),
        direction2idx={name: i for i, name in enumerate(NAMES)},
        use_perp_neg=True,
        prompt="",
        prompts_vd=[""] * 4,
        **{**DEFAULTS, **weights},
    )
    found, weights = prompts.get_text_embeddings_perp_neg(
        torch.tensor([elevation]), torch.tensor([azimuth]), torch.tensor([2.0])
    )
    positive, uncond, first, second = found.flatten().tolist()
    return positive, uncond, (first, second), weights.flatten().tolist()


@pytest.mark.parametrize("azimuth", [30.0, -30.0, 330.0, 390.0, -690.0])
def test_in_front(azimuth):
    """A third of the way to the side: r = 2/3, (2 front + side) / 3; the front's weight is -f(2/3)
    = -(4 exp(-1/3) - 2.426) = -0.4401, the side's -f(1/3) = -(4 exp(-1/6) - 2.426) = -0.9599."""
    positive, uncond, negatives, weights = perp_neg(azimuth)
    assert positive == pytest.approx((2 * FRONT + SIDE) / 3)
    assert uncond == NEGATIVE and negatives == (FRONT, SIDE)
    assert weights == pytest.approx([-0.4401, -0.9599], abs=1e-4)


@pytest.mark.parametrize("azimuth", [120.0, -120.0, 240.0, 480.0, -600.0])
def test_behind(azimuth):
    """A third of the way to the back: r = 2/3, (2 side + back) / 3; the side's weight is
    -(exp(-1/3) - 0.606) = -0.1105, the front's -(exp(-1/3) + 0.967) = -1.6835."""
    positive, uncond, negatives, weights = perp_neg(azimuth)
    assert positive == pytest.approx((2 * SIDE + BACK) / 3)
    assert uncond == NEGATIVE and negatives == (SIDE, FRONT)
    assert weights == pytest.approx([-0.1105, -1.6835], abs=1e-4)


def test_at_a_view_the_view_itself_is_hardly_negative():
    """f_fs(1) = 4 exp(-1/2) - 2.426 = 0.0001 and f_sf(0) = 4 - 2.426 = 1.574 in front; f_sb(1) =
    exp(-1/2) - 0.606 = 0.0005 and f_fsb(1) = exp(-1/2) + 0.967 = 1.5735 at the side."""
    positive, _, negatives, weights = perp_neg(0.0)
    assert positive == FRONT and negatives == (FRONT, SIDE)
    assert weights == pytest.approx([-0.0001, -1.574], abs=1e-4)
    for azimuth in (90.0, -90.0, 270.0):
        positive, _, negatives, weights = perp_neg(azimuth)
        assert positive == SIDE and negatives == (SIDE, FRONT)
        assert weights == pytest.approx([-0.0005, -1.5735], abs=1e-4)


def test_both_halves_meet_at_the_side():
    before, after = perp_neg(89.99), perp_neg(90.01)
    assert before[0] == pytest.approx(after[0], abs=1e-3)
    front_and_side = dict(zip(before[2], before[3], strict=True))
    assert front_and_side == pytest.approx(dict(zip(after[2], after[3], strict=True)), abs=2e-3)


def test_each_weight_has_its_own_settings_and_argument():
    """With f(r) = a exp(-r): at 30 degrees a_fs exp(-2/3), a_sf exp(-1/3); at 120 degrees a_sb and
    a_fsb, both times exp(-2/3)."""
    names = ("perp_neg_f_fs", "perp_neg_f_sf", "perp_neg_f_sb", "perp_neg_f_fsb")
    settings = {name: (a, 1.0, 0.0) for name, a in zip(names, (2.0, 3.0, 5.0, 7.0), strict=True)}
    third, two_thirds = math.exp(-1 / 3), math.exp(-2 / 3)
    ahead, behind = perp_neg(30.0, **settings)[3], perp_neg(120.0, **settings)[3]
    assert ahead == pytest.approx([-2 * two_thirds, -3 * third])
    assert behind == pytest.approx([-5 * two_thirds, -7 * two_thirds])


@pytest.mark.parametrize("azimuth", [0.0, 100.0, 180.0])
def test_overhead_has_no_negatives(azimuth):
    positive, uncond, negatives, weights = perp_neg(azimuth, elevation=61.0)
    assert (positive, uncond) == (OVERHEAD, NEGATIVE)
    assert negatives == (NEGATIVE, NEGATIVE) and weights == [0.0, 0.0]
    assert perp_neg(azimuth, elevation=60.0)[0] != OVERHEAD
