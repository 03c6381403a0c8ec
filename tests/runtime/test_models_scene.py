"""Materials, backgrounds and exporters."""

import pytest
import torch

from threestudio import find
from threestudio.models.background.neural_environment_map import (
    MVDreamNeuralEnvironmentMapBackground,
    NeuralEnvironmentMapBackground,
)
from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.exporters.base import DummyExporter
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.utils.errors import ConfigError

NETWORK = {"otype": "VanillaMLP", "n_neurons": 4, "n_hidden_layers": 1}


def directions(images=8, height=2, width=3):
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(images, height, width, 3), dim=-1)


def test_no_material_activates_the_features():
    features = torch.tensor([[[0.0, 100.0, -100.0]]])
    expected = torch.tensor([[[0.5, 1.0, 0.0]]])
    torch.testing.assert_close(NoMaterial({})(features, viewdirs=None), expected)
    plain = NoMaterial({"color_activation": "none"})
    torch.testing.assert_close(
        plain.export(features)["albedo"][0, 0], torch.tensor([0.0, 1.0, 0.0])
    )


def test_no_material_can_have_a_network():
    material = NoMaterial({"input_feature_dims": 5, "mlp_network_config": NETWORK})
    assert material(torch.rand(2, 7, 5)).shape == (2, 7, 3)


def test_no_material_names_the_key_of_a_wrong_feature_count():
    with pytest.raises(ConfigError, match="`system.geometry.n_feature_dims` to 3"):
        NoMaterial({})(torch.rand(2, 5))


def test_a_solid_background_is_its_colour():
    background = SolidColorBackground({"color": [0.1, 0.2, 0.3], "random_aug": True}).eval()
    color = torch.tensor([0.1, 0.2, 0.3]).expand(8, 2, 3, 3)
    torch.testing.assert_close(background(directions()), color)
    learned = SolidColorBackground({"learned": True, "n_output_dims": 4, "color": [0.5] * 4})
    learned(directions()).sum().backward()
    assert learned.env_color.grad.tolist() == [48.0] * 4


@pytest.mark.parametrize(("share", "colors"), [(1, 8), (4, 2), (3, 3), (100, 1)])
def test_random_colours_are_shared_by_consecutive_images(share, colors):
    settings = {"random_aug": True, "random_aug_prob": 1.0, "n_view_share": share}
    image = SolidColorBackground(settings).train()(directions())
    assert (image == image[:, :1, :1]).all()
    assert len(image[:, 0, 0].unique(dim=0)) == colors
    assert all((image[i] == image[i - i % share]).all() for i in range(8))


@pytest.mark.parametrize("build", [SolidColorBackground, NeuralEnvironmentMapBackground])
def test_random_colours_follow_the_step_and_their_probability(build):
    background = build({"random_aug": True, "random_aug_prob": 0.3}).train()
    fixed = build({}).train()
    fixed.load_state_dict(background.state_dict())
    first, drawn = {}, 0
    for step in range(200):
        background.update_step(0, step)
        image = background(directions())
        first.setdefault(step, image)
        drawn += int(not torch.equal(image, fixed(directions())))
    assert 35 <= drawn <= 85
    background.update_step(0, 7)
    torch.rand(5)
    assert torch.equal(background(directions()), first[7])


def test_an_environment_map_depends_on_the_direction_and_learns():
    background = NeuralEnvironmentMapBackground({}).train()
    image = background(directions())
    assert image.shape == (8, 2, 3, 3) and image.std() > 0
    assert 0 < image.min() and image.max() < 1
    image.sum().backward()
    assert all(p.grad.abs().max() > 0 for p in background.network.parameters())


def test_parameters_stay_in_the_graph_under_random_colours():
    background = NeuralEnvironmentMapBackground({"random_aug": True, "random_aug_prob": 1.0})
    background.train()(directions()).sum().backward()
    assert all(p.grad is not None for p in background.network.parameters())


def test_evaluation_can_show_a_plain_colour():
    background = NeuralEnvironmentMapBackground({"eval_color": [1.0, 0.5, 0.0]})
    color = torch.tensor([1.0, 0.5, 0.0]).expand(8, 2, 3, 3)
    assert not torch.equal(background.train()(directions()), color)
    torch.testing.assert_close(background.eval()(directions()), color)


@pytest.mark.parametrize(("share", "colors"), [(False, 8), (True, 1)])
def test_mvdreams_map_can_share_the_random_colour(share, colors):
    settings = {"random_aug": True, "random_aug_prob": 1.0, "share_aug_bg": share}
    image = MVDreamNeuralEnvironmentMapBackground(settings).train()(directions())
    assert len(image[:, 0, 0].unique(dim=0)) == colors


def test_state_has_upstreams_keys():
    keys = ["encoding.encoding.encoding.params", *(f"network.layers.{i}.weight" for i in (0, 2, 4))]
    assert sorted(NeuralEnvironmentMapBackground({}).state_dict()) == sorted(keys)
    assert list(SolidColorBackground({}).state_dict()) == ["env_color"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"color": [0.5]}, "color` is .*must be 3 numbers"),
        ({"n_view_share": 0}, "n_view_share` is 0"),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        SolidColorBackground(settings)


def test_the_dummy_exporter_exports_nothing():
    parts = {
        "geometry": VolumeGrid({"grid_size": [2, 2, 2]}),
        "material": NoMaterial({}),
        "background": SolidColorBackground({}),
    }
    exporter = DummyExporter({}, **parts)
    assert exporter() == [] and exporter.geometry is parts["geometry"]


@pytest.mark.parametrize(
    "name",
    [
        "random-camera-datamodule",
        "mvdream-random-multiview-camera-datamodule",
        "volume-grid",
        "implicit-volume",
        "no-material",
        "solid-color-background",
        "neural-environment-map-background",
        "mvdream-neural-environment-map-background",
        "nerf-volume-renderer",
        "stable-diffusion-prompt-processor",
        "dummy-exporter",
    ],
)
def test_components_are_registered(name):
    assert find(name).Config is not None
