"""Several prompts at once: each scene gets what it would get alone."""

import pytest
import torch

from tests.runtime.test_prompt_processors import (  # noqa: F401
    build,
    cache_folder,
    cameras,
    encoder_folder,
    in_cache_folder,
)
from threestudio.utils.errors import ConfigError

PROMPTS = ["a cat", "a dog", "a cow"]
AZIMUTHS = [0.0, 180.0, 90.0, 0.0, 10.0, 170.0]
"""Two views of each scene."""


def alone(folder, method, **settings):
    """Ask the processor of each prompt about its own cameras."""
    found = []
    for index, prompt in enumerate(PROMPTS):
        views = cameras(AZIMUTHS[2 * index : 2 * index + 2])
        found.append(getattr(build(folder, prompt=prompt, **settings)(), method)(*views))
    return found


@pytest.mark.parametrize("view_dependent", [True, False])
def test_embeddings_are_those_of_each_prompt(encoder_folder, view_dependent):  # noqa: F811
    found = build(encoder_folder, prompts=PROMPTS)().get_text_embeddings(
        *cameras(AZIMUTHS), view_dependent
    )
    for index, prompt in enumerate(PROMPTS):
        rows = slice(2 * index, 2 * index + 2)
        one = build(encoder_folder, prompt=prompt)()
        expected = one.get_text_embeddings(*cameras(AZIMUTHS[rows]), view_dependent)
        assert torch.equal(torch.cat([found[:6][rows], found[6:][rows]]), expected)


def test_perp_neg_of_each_prompt(encoder_folder):  # noqa: F811
    method = "get_text_embeddings_perp_neg"
    scenes = build(encoder_folder, prompts=PROMPTS, use_perp_neg=True)()
    assert scenes.use_perp_neg
    text, weights = getattr(scenes, method)(*cameras(AZIMUTHS))
    positive, uncond, negative = text[:6], text[6:12], text[12:]
    expected = alone(encoder_folder, method, use_perp_neg=True)
    for index, (own_text, own_weights) in enumerate(expected):
        rows, pairs = slice(2 * index, 2 * index + 2), slice(4 * index, 4 * index + 4)
        assert torch.equal(torch.cat([positive[rows], uncond[rows], negative[pairs]]), own_text)
        assert torch.equal(weights[rows], own_weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, "`system.prompt_processor.prompts` is empty"),
        ({"prompts": ["a", "lib:no_such_thing"]}, "lib:no_such_thing"),
        ({"prompts": "a"}, "prompts is 'a'"),
    ],
)
def test_faults_of_the_prompts(encoder_folder, settings, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        build(encoder_folder, **settings)


def test_a_batch_that_is_no_whole_number_of_scenes_is_refused(encoder_folder):  # noqa: F811
    with pytest.raises(ValueError, match="4 images, but there are 3 prompts"):
        build(encoder_folder, prompts=PROMPTS)().get_text_embeddings(*cameras([0.0] * 4))
