"""The renderer of signed distances against the formulas of NeuS and VolSDF."""

import math
from dataclasses import dataclass
from typing import Optional

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.neus_volume_renderer import (
    NeuSVolumeRenderer,
    annealed_slope,
    laplace_density,
    section_depth,
)
from threestudio.utils.errors import ConfigError


class Sphere(BaseImplicitGeometry):
    """The signed distance to a sphere with a learnt radius, coloured by the normal."""

    def __init__(self, radius=0.5):
        super().__init__({})
        self.sphere_radius = nn.Parameter(torch.tensor(radius))

    def forward_sdf(self, points):
        return points.norm(dim=-1, keepdim=True) - self.sphere_radius

    def forward(self, points, output_normal=False):
        assert output_normal
        normal = F.normalize(points, dim=-1)
        return {
            "sdf": self.forward_sdf(points),
            "features": 2.0 * normal,
            "normal": normal,
            "shading_normal": normal,
            "sdf_grad": normal,
        }


class HalfSpace(BaseImplicitGeometry):
    """Matter at x < 0, met at a slant."""

    def forward_sdf(self, points):
        return points[..., :1]

    def forward(self, points, output_normal=False):
        normal = torch.tensor([1.0, 0.0, 0.0]).expand_as(points)
        return {
            "sdf": self.forward_sdf(points),
            "features": points,
            "normal": normal,
            "sdf_grad": normal,
        }


def make(geometry, training=False, inv_std=20.0, **settings):
    parts = {
        "geometry": geometry,
        "material": NoMaterial({}),
        "background": SolidColorBackground({"color": (0.0, 0.0, 1.0)}),
    }
    init = math.log(inv_std) / 10.0
    settings = {"num_samples_per_ray": 64, "learned_variance_init": init, **settings}
    return NeuSVolumeRenderer(settings, **parts).train(training)


def rays(side=8):
    """A bundle of rays from (2.5, 0.3, -0.2) towards the box."""
    across = torch.linspace(-0.35, 0.35, side)
    y, z = torch.meshgrid(across - 0.12, across + 0.08, indexing="ij")
    directions = F.normalize(torch.stack([-torch.ones_like(y), y, z], dim=-1), dim=-1)[None]
    origins = torch.tensor([2.5, 0.3, -0.2]).expand_as(directions)
    return {"rays_o": origins, "rays_d": directions, "light_positions": torch.zeros(1, 3)}


def test_sections_keep_the_light_of_equation_13():
    generator = torch.Generator().manual_seed(0)
    sdf = torch.randn(200, generator=generator, dtype=torch.float64) * 0.2
    slope = -torch.rand(200, generator=generator, dtype=torch.float64)
    length, inv_std = 0.1, torch.tensor(20.0, dtype=torch.float64)
    start, end = (torch.sigmoid(inv_std * (sdf + sign * slope * length / 2)) for sign in (-1, 1))
    expected = ((start - end) / start).clamp_min(0.0)
    alpha = 1.0 - torch.exp(-section_depth(sdf, slope, length, inv_std))
    torch.testing.assert_close(alpha, expected, rtol=0, atol=1e-12)


def test_sections_far_inside_stay_finite():
    """Both sigmoids are 0 in float32 there; their quotient is `exp(inv_std length)`."""
    depth = section_depth(torch.tensor([-5.0]), torch.tensor([-1.0]), 0.1, torch.tensor(1e4))
    assert depth.item() == pytest.approx(1e3, rel=1e-5)


def test_slopes_are_annealed_from_half_to_strict():
    slope = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    torch.testing.assert_close(annealed_slope(slope, 0.0), torch.tensor([-1.0, -0.5, -0.25, 0.0]))
    torch.testing.assert_close(annealed_slope(slope, 1.0), torch.tensor([-1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(annealed_slope(slope, 0.5), torch.tensor([-1.0, -0.25, -0.125, 0.0]))


def test_annealing_ends_at_its_step():
    renderer, ratios = make(Sphere(), cos_anneal_end_steps=200), []
    for step in (0, 50, 200, 300):
        renderer.update_step(0, step)
        ratios.append(renderer.cos_anneal_ratio)
    assert ratios == [0.0, 0.25, 1.0, 1.0]
    assert make(Sphere()).cos_anneal_ratio == 1.0


def test_annealing_lets_backs_of_surfaces_count():
    """Rays that leave matter meet nothing, but for the annealing."""
    away = {**rays(), "rays_d": -rays()["rays_d"], "rays_o": torch.full((1, 8, 8, 3), -0.2)}
    renderer = make(HalfSpace({}), grid_prune=False, cos_anneal_end_steps=100)
    assert renderer(**away)["opacity"].max() > 1e-3
    renderer.update_step(0, 100)
    assert renderer(**away)["opacity"].abs().max() < 1e-5


def test_light_behind_a_plane_telescopes():
    """Sections of a plane share their ends, so `1 - opacity` is `Phi(f_last) / Phi(f_first)`."""
    out = make(HalfSpace({}), training=True, grid_prune=False, inv_std=8.0)(**rays())
    half = 0.5 * out["t_intervals"] * out["t_dirs"][:, :1]
    start, end = (torch.sigmoid(8.0 * (out["sdf"] + sign * half)[:, 0]) for sign in (-1, 1))
    counts = torch.bincount(out["ray_indices"], minlength=64)
    last = counts.cumsum(0) - 1
    passed = end[last] / start[last - counts + 1]
    assert counts.min() > 10 and passed.max() < 0.5
    torch.testing.assert_close(1.0 - out["opacity"].flatten(), passed, rtol=1e-4, atol=1e-6)


def test_the_density_of_volsdf_is_a_laplace_distribution():
    sdf = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    scale = torch.tensor(0.2, dtype=torch.float64)
    cdf = torch.distributions.Laplace(0.0, scale).cdf(-sdf)
    torch.testing.assert_close(laplace_density(sdf, 1.0 / scale), cdf / scale)


def test_importance_sampling_of_volsdf_agrees_with_even_samples():
    """Intervals of a thousandth of the diagonal against 64 + 64, the first ones of 0.03."""
    settings = {"use_volsdf": True, "inv_std": 40.0}
    dense = make(Sphere(), num_samples_per_ray=1000, grid_prune=False, **settings)(**rays())
    few = make(Sphere(), estimator="importance", **settings)(**rays())
    for key in ("comp_rgb", "opacity", "depth"):
        torch.testing.assert_close(few[key], dense[key], atol=1e-2, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"cos_anneal_end_steps": 50}, {"use_volsdf": True}])
def test_gradients_match_finite_differences(settings):
    """Of the radius and of the sharpness; float32 renders, differences of 2e-3."""
    sphere = Sphere()
    renderer = make(sphere, training=True, grid_prune=False, randomized=False, **settings)
    renderer.update_step(0, 20)
    target = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))

    def loss():
        return ((renderer(**rays())["comp_rgb"] - target).double() ** 2).sum()

    loss().backward()
    for parameter in (sphere.sphere_radius, renderer.variance._inv_std):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-3
                values.append(loss().item())
                parameter -= sign * 1e-3
        slope = (values[0] - values[1]) / 2e-3
        assert abs(slope) > 0.05
        assert parameter.grad.item() == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize(
    "settings",
    [{}, {"prune_alpha_threshold": False}, {"use_volsdf": True}, {"cos_anneal_end_steps": 100}],
)
def test_pruning_hardly_changes_the_image_and_saves_most_samples(settings):
    """What is dropped has an opacity under 0.01; VolSDF has a few such samples on each ray."""
    sphere, batch = Sphere(), rays(16)
    renderer = make(sphere, training=True, inv_std=100.0, randomized=False, **settings)
    for step in range(0, 160, 16):
        renderer.update_step(0, step)
    dense = make(sphere, True, 100.0, randomized=False, grid_prune=False, **settings)
    dense.update_step(0, 144)
    pruned, whole = renderer(**batch), dense(**batch)
    assert len(pruned["points"]) < 0.3 * len(whole["points"])
    for key in ("comp_rgb", "opacity", "depth"):
        assert (pruned[key] - whole[key]).abs().mean() < 4e-3
    assert whole["opacity"].max() > 0.99


def test_outputs_are_those_of_the_contract():
    batch, names = rays(), ("comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "opacity", "depth")
    out = make(Sphere())(**batch)
    assert sorted(out) == sorted([*names, "comp_normal", "inv_std"])
    assert out["inv_std"].item() == pytest.approx(20.0, rel=1e-5)
    trained = make(Sphere(), training=True)(**batch)
    samples = ("weights", "t_points", "t_intervals", "t_dirs", "points", "ray_indices")
    fields = ("sdf", "features", "normal", "shading_normal", "sdf_grad")
    assert sorted(trained) == sorted([*names, *samples, *fields, "inv_std"])
    assert trained["sdf_grad"].shape == trained["points"].shape
    eikonal = (trained["sdf_grad"].norm(dim=-1) - 1.0).abs().max()
    assert eikonal < 1e-5


def test_state_has_upstreams_keys_and_the_sharpness_is_learnt():
    renderer = make(Sphere(), learned_variance_init=0.3)
    estimator = [f"estimator.{k}" for k in ("resolution", "aabbs", "occs", "binaries")]
    assert sorted(renderer.state_dict()) == sorted(["bbox", "variance._inv_std", *estimator])
    assert [name for name, _ in renderer.named_parameters()] == ["variance._inv_std"]
    assert renderer.variance.inv_std.item() == pytest.approx(math.exp(3.0), rel=1e-5)


def test_rays_that_miss_show_the_background_and_keep_a_graph():
    sphere = Sphere()
    batch = {**rays(), "rays_d": -rays()["rays_d"]}
    for settings in ({}, {"use_volsdf": True, "estimator": "importance"}):
        out = make(sphere, training=True, **settings)(**batch)
        out["comp_rgb"].sum().backward()
        assert out["opacity"].abs().max() == 0 and sphere.sphere_radius.grad == 0
        torch.testing.assert_close(out["comp_rgb"], out["comp_rgb_bg"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "proposal"}, "'proposal'; available: occgrid, importance"),
        ({"estimator": "importance"}, "system.renderer.use_volsdf: true"),
        ({"num_samples_per_ray": 0}, "num_samples_per_ray` is 0"),
        ({"num_samples_per_ray_importance": 0}, "num_samples_per_ray_importance` is 0"),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(Sphere(), **settings)


def test_a_geometry_without_a_signed_distance_is_refused():
    with pytest.raises(ConfigError, match="VolumeGrid has not.*geometry_type: implicit-sdf"):
        make(VolumeGrid({"grid_size": [4, 4, 4]}))


def test_a_geometry_without_normals_is_refused_where_the_slope_is_needed():
    class Silent(Sphere):
        @dataclass
        class Config(Sphere.Config):
            normal_type: Optional[str] = None

    with pytest.raises(ConfigError, match="normal_type` is null. Set it to finite_difference"):
        make(Silent())
    make(Silent(), use_volsdf=True)
