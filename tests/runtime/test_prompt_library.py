"""`lib:` prompts, on small lists and on the library that is shipped."""

import json
import re
from pathlib import Path

import pytest

from threestudio.models.prompt_processors.dummy import DummyPromptProcessor
from threestudio.models.prompt_processors.library import library_faults, library_prompt
from threestudio.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
LISTS = json.loads((ROOT / "load/prompt_library.json").read_text(encoding="utf-8"))
ENTRIES = [entry for entries in LISTS.values() for entry in entries]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Return a function that writes a library to the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "load").mkdir()
    path = tmp_path / "load" / "prompt_library.json"
    return lambda lists: path.write_text(lists if isinstance(lists, str) else json.dumps(lists))


def test_keywords_choose_one_entry_of_all_lists(library):
    library({"objects": ["a Cat with a hat", "a cat"], "own": ["a dog", "a cat"]})
    assert library_prompt("HAT_cat") == "a Cat with a hat"
    assert library_prompt("dog") == "a dog"
    assert DummyPromptProcessor({"prompt": "lib:dog"})().prompts_vd[1] == "a dog, front view"
    assert library_faults("a horse that is in no library") == []


def test_several_matches_are_listed(library):
    library({"objects": ["a cat with a hat", "a cat", "a dog"], "own": ["a cat"]})
    with pytest.raises(ConfigError, match="'lib:cat', which matches 2 .*: a cat with a hat; a"):
        DummyPromptProcessor({"prompt": "lib:cat"})
    library({"objects": [f"a cat and {number} dogs" for number in range(9)]})
    assert "matches 9" in (fault := library_faults("lib:cat")[0])
    assert "4 dogs; .... Add keywords" in fault and "5 dogs" not in fault


def test_no_match_is_answered_with_the_closest_entries(library):
    library({"objects": ["a tall tree", "a squirrel", "a squirrel on a motorbike", "a car"]})
    with pytest.raises(ConfigError, match="no entry .* closest are: a squirrel on a motorbike; a"):
        library_prompt("squirel_motorcycle")


def test_a_missing_or_broken_library_is_reported(library, tmp_path):
    assert "there is no load/prompt_library.json in" in library_faults("lib:cat")[0]
    for text in ("{", "[]", '{"objects": 1}'):
        library(text)
        with pytest.raises(ConfigError, match="cannot be read: .*git checkout"):
            library_prompt("cat")


def test_the_library_is_clean():
    assert len(ENTRIES) >= 120
    assert len({entry.lower() for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry == " ".join(entry.split()) and "_" not in entry for entry in ENTRIES)
    assert all(len(entry.split()) >= 3 for entry in LISTS["objects"])


def test_every_entry_is_found_by_its_own_words(monkeypatch):
    monkeypatch.chdir(ROOT)
    for entry in ENTRIES:
        assert library_prompt("_".join(re.findall(r"[^\s,]+", entry))) == entry


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ("hamburger", "a hamburger"),
        ("pineapple", "pineapple"),
        ("squirrel_motorcycle", "squirrel riding"),
        ("corgi_chef", "corgi wearing a chef's hat"),
        ("bunny_pancakes", "bunny on a tower"),
        ("cowboy_boots", "cowboy boots"),
        ("astronaut_horse", "An astronaut riding a horse"),
        ("banana_apple", "A banana on the left of an apple"),
        ("two_dogs", "Two dogs in the park"),
    ],
)
def test_usual_keywords_choose_one_entry(keywords, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words in library_prompt(keywords)
