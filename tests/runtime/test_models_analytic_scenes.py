"""Whole images of a sphere, as a fog and as a surface, against closed forms on every ray."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer
from threestudio.models.renderers.neus_volume_renderer import NeuSVolumeRenderer

RADIUS, SIGMA, SHARPNESS = 0.5, 3.0, 1000.0
CHUNK = 40_000
SAMPLES, FIRST_PASS = {64: 192, 256: 48}, {64: 96, 256: 24}
DIAGONAL = 2.0 * math.sqrt(3.0)
WAYS = {
    "occgrid": {},
    "dense": {"grid_prune": False},
    "importance": {"estimator": "importance"},
}
FOGS = [(way, pixels) for way in WAYS for pixels in (64, 256)]


class Sphere(BaseImplicitGeometry):
    """A sphere about the origin that remembers how many points it was asked about at once."""

    most_points = 0

    def forward(self, points, output_normal=False):
        sdf, normal = self.forward_sdf(points), F.normalize(points, dim=-1)
        return {
            "density": self.forward_density(points),
            "sdf": sdf,
            "features": torch.zeros_like(points),
            "normal": normal,
            "sdf_grad": normal,
        }

    def forward_sdf(self, points):
        self.most_points = max(self.most_points, len(points))
        return points.norm(dim=-1, keepdim=True) - RADIUS

    def forward_density(self, points):
        return SIGMA * (self.forward_sdf(points) < 0)


def pinhole(pixels):
    """Rays of a camera at distance 2.4 that looks at the origin."""
    backward = F.normalize(torch.tensor([2.0, 1.0, 0.7]), dim=0)
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), backward), dim=0)
    up = torch.linalg.cross(backward, right)
    x = ((torch.arange(pixels) + 0.5) / pixels - 0.5) * 0.6
    directions = F.normalize(x[:, None] * right - x[:, None, None] * up - backward, dim=-1)[None]
    origins = (2.4 * backward).expand_as(directions)
    return {"rays_o": origins, "rays_d": directions, "light_positions": torch.zeros(1, 3)}


def hits(batch):
    """Return where each ray enters the sphere, how long it stays, and how far it passes from the
    centre."""
    origins, directions = batch["rays_o"].double(), batch["rays_d"].double()
    nearest = -(origins * directions).sum(dim=-1)
    passing = (origins + nearest[..., None] * directions).norm(dim=-1)
    half = (RADIUS**2 - passing**2).clamp_min(0.0).sqrt()
    return nearest - half, 2.0 * half, passing


@cache
def render(kind, way, pixels):
    """Return the image of the sphere by a renderer whose occupancy grid knows it."""
    sphere = Sphere({})
    settings = {
        "num_samples_per_ray": SAMPLES[pixels],
        "num_samples_per_ray_importance": FIRST_PASS[pixels],
        "eval_chunk_size": CHUNK,
    }
    parts = {"material": NoMaterial({}), "background": SolidColorBackground({})}
    renderer = kind({**settings, **WAYS[way]}, geometry=sphere, **parts)
    if kind is NeuSVolumeRenderer:
        torch.nn.init.constant_(renderer.variance._inv_std, math.log(SHARPNESS) / 10.0)
    if way == "occgrid":
        n = renderer.estimator.size
        middle = (torch.arange(n) + 0.5) / n * 2 - 1
        gap = (torch.cartesian_prod(middle, middle, middle).abs() - 1 / n).clamp_min(0)
        touched = gap.norm(dim=-1) < RADIUS + 0.01
        renderer.estimator.binaries.copy_(touched.view(1, n, n, n))
    with torch.no_grad():
        out = renderer.eval()(**pinhole(pixels))
    return out["opacity"][..., 0].double(), out["depth"][..., 0].double(), sphere.most_points


def longest_interval(way, pixels):
    return DIAGONAL / (FIRST_PASS if way == "importance" else SAMPLES)[pixels]


@pytest.mark.parametrize(("way", "pixels"), FOGS)
def test_a_fog_is_as_opaque_as_its_chord(way, pixels):
    """`1 - exp(-sigma chord)`. An interval counts with its whole length if its middle is inside,
    so the chord is off by less than one interval h, half at either end: the opacity by less than
    `exp(-sigma (chord - h)) - exp(-sigma chord)`."""
    opacity, _, _ = render(NeRFVolumeRenderer, way, pixels)
    _, chord, _ = hits(pinhole(pixels))
    h = longest_interval(way, pixels)
    tolerance = torch.exp(-SIGMA * (chord - h)) - torch.exp(-SIGMA * chord) + 1e-5
    error = opacity - (1.0 - torch.exp(-SIGMA * chord))
    assert (error.abs() <= tolerance).all()
    assert error.mean().abs() < 0.1 * tolerance.mean()
    assert (chord > 0).double().mean() > 0.3


@pytest.mark.parametrize(("way", "pixels"), FOGS)
def test_a_fog_is_as_deep_as_the_integral(way, pixels):
    """`int t sigma exp(-sigma (t - a)) dt` over the chord [a, a + c] is `a (1 - e) + 1 / sigma -
    (c + 1 / sigma) e` with `e = exp(-sigma c)`. An interval of length h moves `a` by half of it,
    `c` by less than h, whose derivative is `(a + c) sigma e`, and takes the middle of an interval
    for the mean of an exponential on it, which is off by less than `sigma h^2 / 8`."""
    _, depth, _ = render(NeRFVolumeRenderer, way, pixels)
    start, chord, _ = hits(pinhole(pixels))
    gone, h = torch.exp(-SIGMA * chord), longest_interval(way, pixels)
    expected = start * (1.0 - gone) + 1.0 / SIGMA - (chord + 1.0 / SIGMA) * gone
    slack = torch.exp(-SIGMA * (chord - h)) - gone
    tolerance = h / 2.0 + SIGMA * h**2 / 8.0 + (start + chord + h) * slack
    error = torch.where(chord > 0, depth - expected, depth)
    tolerance = torch.where(chord > 0, tolerance, 1e-4)
    assert (error.abs() <= tolerance).all()
    assert error.mean().abs() < 0.1 * tolerance.mean()


@pytest.mark.parametrize(("way", "pixels"), [("occgrid", 256), ("dense", 64)])
def test_a_sharp_surface_is_its_silhouette_and_first_intersection(way, pixels):
    """The surface is 1 / 1000 wide, a step 18 or 72 times as long: all light stays in the section
    with the intersection, whose middle is at most half a step from it. Rays that pass the rim
    within 0.02 are left out: they can run along the surface."""
    opacity, depth, _ = render(NeuSVolumeRenderer, way, pixels)
    start, _, passing = hits(pinhole(pixels))
    inside, outside = passing < RADIUS - 0.02, passing > RADIUS + 0.02
    assert inside.double().mean() > 0.3 and outside.double().mean() > 0.3
    assert (opacity[inside] - 1.0).abs().max() < 1e-3 and opacity[outside].max() < 1e-3
    # a section takes the sphere for a plane, and errs by `half^2 / (2 radius)` at its ends; that
    # and the width of the surface are seen at a slope of at least 0.28
    half = 0.5 * DIAGONAL / SAMPLES[pixels]
    tolerance = half + (half**2 / (2.0 * RADIUS) + 3.0 / SHARPNESS) / 0.28
    assert (depth - start)[inside].abs().max() < tolerance


@pytest.mark.parametrize(
    ("kind", "way"),
    [(NeRFVolumeRenderer, way) for way in WAYS] + [(NeuSVolumeRenderer, "occgrid")],
)
def test_no_more_points_than_a_chunk_are_evaluated_at_once(kind, way):
    """An image of 256 x 256 pixels has some million samples."""
    most_points = render(kind, way, 256)[2]
    assert 0 < most_points <= CHUNK
