"""The T5 prompt processor, with a random encoder of a few kilobytes in the folders of IF."""

import pytest
import torch

from tests.helpers.doubles import extension
from threestudio.models.prompt_processors import deep_floyd, tokens
from threestudio.models.prompt_processors.deep_floyd import DeepFloydPromptProcessor
from threestudio.utils.errors import ConfigError, UserError

tiny_deep_floyd = extension("tiny_deep_floyd")
TEXT_WIDTH = tiny_deep_floyd.TEXT_WIDTH
PIECES = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581cat", "\u2581front", ",", "c", "a"]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return tiny_deep_floyd.save_t5(tmp_path_factory.mktemp("if"), PIECES)


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


def build(folder, **settings):
    return DeepFloydPromptProcessor(
        {
            "pretrained_model_name_or_path": folder,
            "prompt": "a cat",
            "half_precision_weights": False,
            **settings,
        }
    )


def test_embeddings_are_those_of_the_encoder_with_the_padding_masked(t5_folder):
    """`a cat` is the pieces 4 and 5 and the end, then 74 times padding."""
    from transformers import T5EncoderModel

    found = build(t5_folder)().text_embeddings
    assert found.shape == (1, 77, TEXT_WIDTH) and found.dtype == torch.float32
    encoder = T5EncoderModel.from_pretrained(t5_folder, subfolder="text_encoder").eval()
    ids = torch.tensor([[4, 5, 1] + [0] * 74])
    mask = (ids > 0).long()
    expected = encoder(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=0)
    unmasked = encoder(ids).last_hidden_state
    assert (found - unmasked).abs().max() > 1e-2


def test_prompts_come_before_negative_prompts_and_name_the_view(t5_folder):
    prompts = build(t5_folder, negative_prompt="c")()
    assert prompts.prompts_vd[1] == "a cat, front view"
    place = torch.zeros(1)
    both = prompts.get_text_embeddings(place, place, place)
    assert torch.equal(both[0], prompts.text_embeddings_vd[1])
    assert torch.equal(both[1], prompts.uncond_text_embeddings[0])


def test_the_length_of_the_padding_does_not_change_the_words(t5_folder):
    long, short = (build(t5_folder, max_length=n)().text_embeddings for n in (77, 5))
    assert short.shape == (1, 5, TEXT_WIDTH)
    torch.testing.assert_close(short[:, :3], long[:, :3], atol=1e-6, rtol=0)


def test_prompts_are_encoded_as_they_are_written(t5_folder):
    """`Cat` is no piece of the vocabulary, `cat` is."""
    loaded = deep_floyd.load_t5(t5_folder, half_precision=False)
    lower, upper = deep_floyd.encode_prompts(*loaded, ["a cat", "a Cat"])
    assert not torch.equal(lower, upper)


def test_an_embedding_does_not_depend_on_what_else_is_computed(t5_folder):
    loaded = deep_floyd.load_t5(t5_folder, half_precision=False)
    together = deep_floyd.encode_prompts(*loaded, ["a cat", "a", "cat, front"])
    assert torch.equal(together[1:2], deep_floyd.encode_prompts(*loaded, ["a"]))


def test_half_precision_is_near_and_stored_apart(t5_folder):
    exact, half = (build(t5_folder, half_precision_weights=half) for half in (False, True))
    exact_states, half_states = exact().text_embeddings, half().text_embeddings
    assert half_states.dtype == torch.float32
    assert 0 < (exact_states - half_states).abs().max() < 0.05 * exact_states.abs().max()
    assert exact.cache_path("a cat") != half.cache_path("a cat")


def test_every_setting_of_the_encoding_has_entries_of_its_own(t5_folder, monkeypatch):
    loaded, asked = deep_floyd.load_t5(t5_folder), []
    monkeypatch.setattr(deep_floyd, "load_t5", lambda *args: asked.append(args) or loaded)
    changes = [{}, {"max_length": 5}, {"half_precision_weights": True}, {"revision": "other"}]
    paths = [build("org/if", **change).cache_path("a cat") for change in [*changes, *changes]]
    assert len(set(paths)) == 4 and paths[:4] == paths[4:]
    default = ("org/if", None, False)
    expected = [default, default, ("org/if", None, True), ("org/if", "other", False)]
    assert asked == expected


def test_a_prompt_that_is_cut_is_reported(t5_folder, monkeypatch):
    messages = []
    monkeypatch.setattr(tokens, "warn", messages.append)
    build(t5_folder, prompt="a cat a cat", max_length=4)
    assert "has 5 tokens, but the text encoder reads 4" in messages[0]


def test_a_wrong_length_is_reported(t5_folder):
    with pytest.raises(ConfigError, match="prompt_processor.max_length` is 0; .* at least 1"):
        build(t5_folder, max_length=0)


def test_a_missing_model_is_answered_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such folder.*such as DeepFloyd/IF-I-XL-v1.0"):
        build("load/nothing/here")

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("transformers.T5Tokenizer.from_pretrained", offline)
    with pytest.raises(UserError, match="`hf download DeepFloyd/IF-I-XL-v1.0` .*hf auth login"):
        build(deep_floyd.MODEL)


def test_a_sentencepiece_tokenizer_without_its_package_is_answered_with_the_command(
    t5_folder, tmp_path, monkeypatch
):
    for part in ("tokenizer", "text_encoder"):
        (tmp_path / part).mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"not read")
    monkeypatch.setattr(deep_floyd, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="`spiece.model` also needs `pip install sentencepiece"):
        build(str(tmp_path))
