"""Prompt debiasing with probabilities given by hand, and with a BERT of a few kilobytes."""

import pytest
import torch

from threestudio.models.prompt_processors.debiasing import (
    bert_view_probabilities,
    contradicts,
    debias_prompt,
)
from threestudio.models.prompt_processors.dummy import DummyPromptProcessor
from threestudio.utils.errors import ConfigError, UserError

PROMPT = "a smiling dog"
WORDS = ["side", "front", "back", "overhead", "this", "image", "view", "of", "a", "smiling", "dog"]


def table(probabilities, asked=None):
    """Return a language model that looks up its answers."""

    def look_up(prompt):
        if asked is not None:
            asked.append(prompt)
        return torch.tensor(probabilities[prompt])

    return look_up


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


def build(folder, **settings):
    return DummyPromptProcessor(
        {
            "prompt": PROMPT,
            "use_prompt_debiasing": True,
            "pretrained_model_name_or_path_prompt_debiasing": folder,
            **settings,
        }
    )


def test_a_word_that_makes_a_view_less_likely_contradicts_it():
    """P(view | word) / P(view) = p / ((p + q) / 2): 0.1 / 0.175 = 0.571, 0.7 / 0.475 = 1.474."""
    with_word, without_word = torch.tensor([0.1, 0.7, 0.1, 0.1]), torch.full((4,), 0.25)
    assert contradicts(with_word, without_word).tolist() == [True, False, True, True]


def test_the_threshold_is_95_percent():
    """0.19 / ((0.19 + q) / 2) is 0.95 at q = 0.21."""
    with_word = torch.full((4,), 0.19)
    found = contradicts(with_word, torch.tensor([0.2095, 0.2105, 0.19, 0.1]))
    assert found.tolist() == [False, True, False, False]


def test_each_view_loses_the_words_that_contradict_it():
    """Against (0.1, 0.6, 0.1, 0.2): without "smiling" side and back rise to 0.3 (0.1 / 0.2 = 0.5);
    without "dog" only overhead does, to 0.4 (0.2 / 0.3 = 0.67); "a" changes nothing."""
    asked = []
    model = table(
        {
            "a smiling dog": [0.1, 0.6, 0.1, 0.2],
            "smiling dog": [0.1, 0.6, 0.1, 0.2],
            "a dog": [0.3, 0.2, 0.3, 0.2],
            "a smiling": [0.1, 0.4, 0.1, 0.4],
        },
        asked,
    )
    assert debias_prompt(PROMPT, model) == ["a dog", "a smiling dog", "a dog", "a smiling"]
    assert debias_prompt(PROMPT, model, [2]) == [PROMPT, PROMPT, PROMPT, "a smiling"]
    assert asked[-2:] == ["a smiling dog", "a smiling"]


def test_a_view_never_loses_all_words():
    model = table({"dog": [0.1, 0.7, 0.1, 0.1], "": [0.25] * 4})
    assert debias_prompt("dog", model) == ["dog"] * 4


def test_a_repeated_word_goes_only_where_it_contradicts():
    model = table(
        {"dog eats dog": [0.1, 0.7, 0.1, 0.1], "eats dog": [0.25] * 4, "dog eats": [0.1, 0.7] * 2}
    )
    assert debias_prompt("dog eats dog", model, [0, 2])[0] == "eats dog"


def test_bert_gives_the_probabilities_of_the_four_words_at_the_mask(bert_folder):
    """Over the whole vocabulary first, then divided by the sum of the four."""
    from transformers import BertForMaskedLM, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(bert_folder)
    text = f"This image is depicting a [MASK] view of {PROMPT}"
    ids = tokenizer(text, return_tensors="pt").input_ids
    words = tokenizer.convert_ids_to_tokens(ids[0])
    assert words[:3] == ["[CLS]", "this", "image"] and words[6] == "[MASK]"
    logits = BertForMaskedLM.from_pretrained(bert_folder).eval()(ids).logits[0, 6]
    expected = logits.softmax(-1)[5:9]
    found = bert_view_probabilities(bert_folder)(PROMPT)
    torch.testing.assert_close(found, (expected / expected.sum()).detach())


def test_long_prompts_and_prompts_with_a_mask_work(bert_folder):
    model = bert_view_probabilities(bert_folder)
    for prompt in ("dog " * 50, "a [MASK] {dog}", ""):
        torch.testing.assert_close(model(prompt).sum(), torch.tensor(1.0))


def test_the_prompts_of_the_views_are_debiased(bert_folder):
    texts = debias_prompt(PROMPT, bert_view_probabilities(bert_folder), [1])
    assert set(texts) == {PROMPT, "a dog"}
    views = ("side", "front", "back", "overhead")
    expected = [f"{text}, {view} view" for text, view in zip(texts, views, strict=True)]
    processor = build(bert_folder, prompt_debiasing_mask_ids=[1])
    assert processor.prompts_vd == expected and processor.prompt == PROMPT
    assert build(bert_folder, prompt_front="a face").prompts_vd[1] == "a face"
    assert build(bert_folder, prompt_debiasing_mask_ids=[]).prompts_vd[0] == f"{PROMPT}, side view"
    assert build("", use_prompt_debiasing=False).prompts_vd[0] == f"{PROMPT}, side view"


def test_own_prompts_of_views_exclude_debiasing(bert_folder):
    with pytest.raises(ConfigError, match="Remove `prompt_side` and `prompt_overhead`, or set"):
        build(bert_folder, prompt_side="a cat", prompt_overhead="a hat")


@pytest.mark.parametrize("ids", [[0, 3], [-1]])
def test_positions_outside_the_prompt_are_reported(bert_folder, ids):
    with pytest.raises(ConfigError, match=f"contains {ids[-1]}, but .* 3 words.* from 0 to 2"):
        build(bert_folder, prompt_debiasing_mask_ids=ids)


def test_a_missing_model_is_answered_with_the_command(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="config.json .*`hf download google-bert/bert-base-unca"):
        build(str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", offline)
    with pytest.raises(UserError, match="network run `hf download google-bert/bert-base-uncased`"):
        build("bert-base-uncased")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="offline. It must be a transformers folder"):
        build(str(tmp_path))


def test_a_model_without_the_words_is_refused(bert_folder, monkeypatch):
    from transformers import BertTokenizer

    other = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *args: other)
    with pytest.raises(UserError, match="has no word 'side'"):
        build(bert_folder)
