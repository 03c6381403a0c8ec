"""The model card says what was measured, and what it names is shipped."""

import importlib
import json
import re
from pathlib import Path

import pytest

model_card = importlib.import_module("threestudio-blocks.model_card")
WEIGHTS = Path(__file__).resolve().parents[2] / "load" / "blocks"


def test_the_card_is_the_one_that_the_measurements_give():
    assert (WEIGHTS / "README.md").read_text(encoding="utf-8") == model_card.card(WEIGHTS), (
        "run: python -m custom.threestudio-blocks.model_card"
    )


def test_a_changed_measurement_changes_the_card(tmp_path):
    numbers = {"judge": {"fully_right": 97.1, "renders": 40}}
    (tmp_path / "evaluation-dev.json").write_text(json.dumps(numbers))
    assert "| judge: clean render fully right | 97.1 | 40 |" in model_card.card(tmp_path)
    assert "97.1" not in model_card.card(tmp_path / "elsewhere")


def test_every_row_of_a_table_has_a_cell_for_each_heading():
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_card_tells_the_autoencoder_error(tmp_path):
    numbers = {"autoencoder": {"fully_right": 99.5, "renders": 8, "error": 4.2}}
    (tmp_path / "evaluation-dev.json").write_text(json.dumps(numbers))
    assert "Mean error of the autoencoder: 4.2 of 255" in model_card.card(tmp_path)


def test_the_models_meet_their_floors_on_held_out_captions():
    measured = json.loads((WEIGHTS / "evaluation-held-out.json").read_text())
    prior, reward = measured["prior"], measured["reward"]
    relations = {key: share for key, share in prior.items() if key.startswith("relation_right")}
    assert len(relations) == 4
    misses = {
        "judge": measured["judge"]["fully_right"] < 98,
        "judge-front": measured["judge-front"]["fully_right"] < 98,
        "judge-front, decoded": measured["judge-front"]["fully_right_decoded"] < 95,
        "singles": prior["singles_right"] < 90,
        "pairs": prior["pairs_right"] < 80,
        "blind to relations": not all(10 <= share <= 45 for share in relations.values()),
        "reward, clean": min(reward["clean"].values()) < 95,
        "reward, previews": min(reward["S=1 t=600"].values()) < 70,
    }
    assert not [name for name, missed in misses.items() if missed], measured


@pytest.mark.parametrize(
    "part", ["prior/vae", "prior/unet", "prior/text_encoder", "reward", "judge", "judge-front"]
)
def test_every_part_named_in_the_card_is_shipped(part):
    assert list((WEIGHTS / part).glob("*.safetensors"))
