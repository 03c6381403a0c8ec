"""The judge's comparison of slots with a caption, and its files."""

import importlib

import pytest
import torch

judge = importlib.import_module("threestudio-blocks.judge")
captions = importlib.import_module("threestudio-blocks.captions")

CUBE, BALL = captions.Solid("cube", "red"), captions.Solid("sphere", "blue")
RED_BALL, BLUE_CUBE = captions.Solid("sphere", "red"), captions.Solid("cube", "blue")
ASKED = captions.Caption(CUBE, "on the left of", BALL)


@pytest.mark.parametrize(
    ("seen", "shape", "color", "relation"),
    [
        ({"left": CUBE, "right": BALL}, True, True, True),
        ({"left": BALL, "right": CUBE}, True, True, False),
        ({"top": CUBE, "bottom": BALL}, True, True, False),
        ({"left": CUBE}, False, False, False),
        ({"left": captions.Solid("cube", "pink"), "right": BALL}, True, False, True),
        ({"left": captions.Solid("cone", "red"), "right": BALL}, False, True, True),
        (
            {"left": captions.Solid("sphere", "red"), "right": captions.Solid("cube", "blue")},
            True,
            True,
            False,
        ),
        ({}, False, False, False),
    ],
)
def test_shape_colour_and_relation_are_judged_apart(seen, shape, color, relation):
    verdict = judge.compare(seen, ASKED)
    assert (verdict.shape_ok, verdict.color_ok, verdict.relation_ok) == (shape, color, relation)


def test_a_single_solid_is_right_only_in_the_centre():
    single = captions.Caption(CUBE)
    assert judge.compare({"centre": CUBE}, single).relation_ok
    assert not judge.compare({"left": CUBE}, single).relation_ok


def test_a_saved_judge_sees_the_same_after_loading(tmp_path):
    torch.manual_seed(0)
    network = judge.JudgeNetwork().half().float()
    views = torch.rand(3, 4, 3, 64, 64)
    before = judge.Judge(network).see(views)
    judge.Judge(network).save(tmp_path)
    assert judge.Judge.load(tmp_path).see(views) == before


def test_a_missing_judge_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_judge"):
        judge.Judge.load(tmp_path / "nowhere")
