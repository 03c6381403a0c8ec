"""Edits: they change one thing, stay in their split, and leave the rest alone."""

import importlib
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

edits = importlib.import_module("threestudio-blocks.edits")
captions = importlib.import_module("threestudio-blocks.captions")


def test_an_edit_changes_what_its_kind_says_and_nothing_else():
    made = edits.edits("dev", 24)
    assert Counter(edit.kind for edit in made) == {"color": 8, "shape": 8, "relation": 8}
    for edit in made:
        a, b = edit.source, edit.target
        changed = {
            "color": a.first.color != b.first.color,
            "shape": a.first.shape != b.first.shape,
            "relation": a.relation != b.relation,
        }
        assert {kind for kind, value in changed.items() if value} == {edit.kind}
        assert a.second == b.second and b.first.color != b.second.color
        assert b.first.shape != b.second.shape
    assert made == edits.edits("dev", 24)


@pytest.mark.parametrize(("split", "count"), [("dev", 24), ("held-out", 40)])
def test_sources_and_targets_are_of_the_split(split: str, count: int):
    """A target that the judge or the reward was trained on would be no held-out one."""
    known = {frozenset(pair) for pair in captions.pair_splits()[split]}
    made = edits.edits(split, count)
    ends = [end for edit in made for end in (edit.source, edit.target)]
    assert len(made) == count and {frozenset((end.first, end.second)) for end in ends} <= known
    assert len({str(edit.source) for edit in made}) == count


def test_too_many_edits_are_refused():
    with pytest.raises(ValueError, match="The dev split has [0-9]+ edits, not 160"):
        edits.edits("dev", 160)


@pytest.mark.parametrize("kind", edits.KINDS)
def test_renders_of_an_edit_are_equal_outside_of_its_region(kind):
    edit = edits.edits("dev", 3)[edits.KINDS.index(kind)]
    assert edit.kind == kind
    before, after = (edits.front_picture(c, 3) for c in (edit.source, edit.target))
    region = edits.changed_region(edit, 3)
    assert edits.distance_outside(after, before, region) < 1 / 255
    inside = edits.distance_outside(after, before, ~region)
    assert inside > 0.02
    assert 0.02 < region.float().mean() < 0.6


def test_distance_outside_by_hand():
    """One of 4095 pixels outside differs by 0.3 in one of three channels."""
    picture, source = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[0, 0] = True
    picture[:, 0, 0], picture[1, 5, 5] = 1.0, 0.3
    expected = 0.3 / (3 * 4095)
    assert edits.distance_outside(picture, source, region) == pytest.approx(expected)


def test_the_command_writes_the_picture(tmp_path, monkeypatch):
    text = "a red cube under a blue sphere"
    monkeypatch.setattr(sys, "argv", ["edits", text, str(tmp_path / "a/b.png"), "--seed", "2"])
    edits.main()
    saved = torch.from_numpy(np.array(Image.open(tmp_path / "a/b.png"))).permute(2, 0, 1) / 255
    expected = edits.front_picture(captions.parse_caption(text), 2)
    torch.testing.assert_close(saved, expected, atol=0.51 / 255, rtol=0)
    monkeypatch.setattr(sys, "argv", ["edits", "a red dog", str(tmp_path / "c.png")])
    with pytest.raises(SystemExit, match="is not a solid"):
        edits.main()
