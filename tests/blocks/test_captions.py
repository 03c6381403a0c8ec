"""Captions of the blocks world: grammar, twins, slots and splits."""

import importlib
from collections import Counter

import pytest

captions = importlib.import_module("threestudio-blocks.captions")
text = importlib.import_module("threestudio-blocks.text")

CUBE, BALL = captions.Solid("cube", "red"), captions.Solid("sphere", "blue")


def test_a_caption_is_read_back_as_written():
    for split in ("train", "dev", "held-out"):
        for caption in captions.pair_captions(split)[:40] + captions.single_captions(split):
            assert captions.parse_caption(str(caption)) == caption


@pytest.mark.parametrize(
    "text", ["a red blob", "red cube", "a cube red", "a red cube beside a blue sphere"]
)
def test_a_text_outside_the_world_is_refused_with_the_words_it_knows(text):
    with pytest.raises(ValueError, match="sphere.*on the left of"):
        captions.parse_caption(text)


def test_orange_takes_an():
    assert str(captions.Solid("cone", "orange")) == "an orange cone"


def test_the_twin_says_the_same_scene():
    caption = captions.Caption(CUBE, "on top of", BALL)
    assert str(caption.twin) == "a blue sphere under a red cube"
    assert caption.twin.slots == caption.slots == {"top": CUBE, "bottom": BALL}
    assert caption.twin.twin == caption


def test_splits_are_disjoint_in_pairs_whatever_the_relation_and_order():
    pairs = {
        split: {frozenset((c.first, c.second)) for c in captions.pair_captions(split)}
        for split in ("train", "dev", "held-out")
    }
    assert {split: len(found) for split, found in pairs.items()} == {
        "train": 440,
        "dev": 40,
        "held-out": 80,
    }
    assert not pairs["train"] & pairs["dev"]
    assert not pairs["train"] & pairs["held-out"]
    assert not pairs["dev"] & pairs["held-out"]


def test_the_reported_captions_balance_the_relations_over_different_pairs():
    chosen = captions.pair_captions("held-out", num_per_relation=10)
    assert Counter(c.relation for c in chosen) == dict.fromkeys(captions.RELATIONS, 10)
    assert len({frozenset((c.first, c.second)) for c in chosen}) == 40


def test_asking_for_more_captions_than_there_are_is_refused():
    with pytest.raises(ValueError, match="40 captions per relation, not 41"):
        captions.pair_captions("dev", num_per_relation=41)


def test_every_word_is_one_token_and_anything_else_still_encodes():
    tok = text.build_tokenizer()
    said = captions.with_view(captions.Caption(CUBE, "on the left of", BALL), "front")
    assert len(tok(said).input_ids) == len(said.replace(",", " ,").split()) + 2 <= text.MAX_TOKENS
    assert len(tok("\N{PARTY POPPER} zebra").input_ids) > 2
