"""The lit material and the textured background."""

import math

import pytest
import torch

from threestudio.models.background.textured import TexturedBackground
from threestudio.models.materials.diffuse_with_point_light import DiffuseWithPointLightMaterial
from threestudio.utils.errors import ConfigError


def point(features=(0.0, 100.0, -100.0), light=(0.0, 0.0, 2.0)):
    """A point at the origin that faces up; albedo (0.5, 1, 0) after the sigmoid."""
    return {
        "features": torch.tensor([features]),
        "positions": torch.zeros(1, 3),
        "shading_normal": torch.tensor([[0.0, 0.0, 1.0]]),
        "light_positions": torch.tensor([light]),
    }


def material(**settings):
    return DiffuseWithPointLightMaterial(settings).eval()


@pytest.mark.parametrize(
    ("light", "cosine"), [((0, 0, 2), 1.0), ((2, 0, 2), math.sqrt(0.5)), ((0, 0, -2), 0.0)]
)
def test_light_falls_off_with_the_cosine_and_does_not_reach_the_back(light, cosine):
    """Ambient 0.1 and point light 0.9: 0.1 + 0.9 cos."""
    lit = 0.1 + 0.9 * cosine
    at = point(light=tuple(float(c) for c in light))
    torch.testing.assert_close(
        material()(**at, shading="diffuse"), torch.tensor([[0.5 * lit, lit, 0.0]])
    )
    torch.testing.assert_close(
        material()(**at, shading="textureless"), torch.tensor([[lit, lit, lit]])
    )
    torch.testing.assert_close(material()(**at, shading="albedo"), torch.tensor([[0.5, 1.0, 0.0]]))


def test_the_ambient_ratio_replaces_both_lights():
    at = point(light=(2.0, 0.0, 2.0))
    lit = 0.25 + 0.75 * math.sqrt(0.5)
    out = material()(**at, ambient_ratio=0.25, shading="textureless")
    torch.testing.assert_close(out, torch.full((1, 3), lit))


def test_training_shows_each_way_as_often_as_it_was_asked_to():
    """Half of the batches without light, then a quarter each: with light 0.5, textureless 0.5."""
    lit = DiffuseWithPointLightMaterial({"ambient_only_steps": 10, "diffuse_prob": 0.5}).train()
    shown = []
    for step in range(1010):
        lit.update_step(0, step)
        shown.append(lit._scheduled_shading())
    assert set(shown[:10]) == {"albedo"}
    counts = [shown[10:].count(name) for name in ("albedo", "textureless", "diffuse")]
    assert all(
        abs(count - expected) < 60 for count, expected in zip(counts, (500, 250, 250), strict=True)
    )
    lit.update_step(0, 500)
    assert lit._scheduled_shading() == shown[500]


def test_evaluation_is_lit_after_the_ambient_steps_unless_told_otherwise():
    for settings, step, way in (({}, 999, "albedo"), ({}, 1000, "diffuse")):
        lit = material(**settings)
        lit.update_step(0, step)
        assert torch.equal(lit(**point()), lit(**point(), shading=way))
    bare = material(ambient_only_on_test=True)
    bare.update_step(0, 5000)
    assert torch.equal(bare(**point()), bare(**point(), shading="albedo"))


def test_soft_shading_divides_one_light():
    """Facing the light, u + (1 - u) = 1; facing away only 1 - u is left."""
    soft = DiffuseWithPointLightMaterial({"soft_shading": True}).train()
    towards = soft(**point(), shading="textureless")
    away = soft(**point(light=(0.0, 0.0, -2.0)), shading="textureless")
    torch.testing.assert_close(towards, torch.ones(1, 3))
    assert 0.0 < away[0, 0] < 1.0 and away.unique().numel() == 1
    soft.update_step(0, 1)
    assert not torch.equal(soft(**point(light=(0.0, 0.0, -2.0)), shading="textureless"), away)


@pytest.mark.parametrize("shading", ["albedo", "textureless", "diffuse"])
def test_every_way_keeps_albedo_and_normal_in_the_graph(shading):
    at = point()
    for name in ("features", "shading_normal"):
        at[name].requires_grad_(True)
    material()(**at, shading=shading).sum().backward()
    assert at["features"].grad is not None and at["shading_normal"].grad is not None


def test_what_is_exported_has_no_light():
    features = torch.tensor([[0.0, 100.0, -100.0, 7.0]])
    torch.testing.assert_close(
        material().export(features)["albedo"], torch.tensor([[0.5, 1.0, 0.0]])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diffuse_prob": 1.5}, "diffuse_prob` is 1.5; it is a probability"),
        ({"ambient_light_color": [1.0]}, "ambient_light_color` is .* must be 3 numbers"),
        ({"diffuse_light_color": 1.0}, "diffuse_light_color` is 1.0; it must be 3 numbers"),
    ],
)
def test_settings_of_the_light_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        DiffuseWithPointLightMaterial(settings)


def test_an_unknown_shading_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'flat', allowed are albedo, textureless, diffuse"):
        material()(**point(), shading="flat")


def test_the_texture_runs_from_pole_to_pole_and_once_round():
    """2 x 4 texels that hold their number: width is the polar angle, height the azimuth."""
    background = TexturedBackground(
        {"height": 4, "width": 2, "n_output_dims": 1, "color_activation": "none"}
    )
    background.texture.data = torch.arange(8.0).reshape(1, 1, 4, 2)
    azimuths = torch.deg2rad(torch.tensor([-135.0, -45.0, 45.0, 135.0]))
    rows = []
    for polar in (math.pi / 4, 3 * math.pi / 4):
        height = torch.full_like(azimuths, math.cos(polar))
        level = math.sin(polar)
        rows.append(torch.stack([level * azimuths.cos(), level * azimuths.sin(), height], -1))
    image = background(torch.stack(rows)[None])
    expected = torch.tensor([[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]])
    torch.testing.assert_close(image[0, :, :, 0], expected, atol=1e-5, rtol=0)
    image.sum().backward()
    assert background.texture.grad.sum() == pytest.approx(8.0, abs=1e-4)


def test_a_texture_without_texels_is_refused():
    with pytest.raises(ConfigError, match="background.height` is 0"):
        TexturedBackground({"height": 0})
