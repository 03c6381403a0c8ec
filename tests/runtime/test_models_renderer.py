"""The volume renderer against closed forms, and pruning against the dense computation."""

import math

import pytest
import torch

from threestudio.data.cameras import Poses, camera_batch, spherical_to_cartesian
from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.estimators import OccupancyGrid
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer
from threestudio.models.volume import (
    Samples,
    accumulated_before,
    box_interval,
    march,
    transmittance_and_alpha,
)
from threestudio.utils.errors import ConfigError


class Ball(BaseImplicitGeometry):
    """A sphere of constant density and colour, centred on the origin."""

    def __init__(self, radius=0.5, density=3.0):
        super().__init__({})
        self.ball_radius, self.ball_density = radius, density

    def forward(self, points, output_normal=False):
        features = torch.tensor([2.0, 0.0, -2.0]).expand(*points.shape[:-1], 3)
        return {"density": self.forward_density(points), "features": features}

    def forward_density(self, points):
        inside = points.norm(dim=-1, keepdim=True) < self.ball_radius
        return inside * self.ball_density


def render_scene(geometry, training=False, background=(0.0, 0.0, 1.0), **settings):
    scene = {
        "geometry": geometry,
        "material": NoMaterial({}),
        "background": SolidColorBackground({"color": background}),
    }
    renderer = NeRFVolumeRenderer({"num_samples_per_ray": 64, **settings}, **scene)
    for part in (renderer, *scene.values()):
        part.train(training)
    return renderer


def cameras(height=8, width=8, views=2, distance=2.8):
    azimuth = torch.linspace(0.0, 180.0, views)
    elevation, radius = torch.full_like(azimuth, 10.0), torch.full_like(azimuth, distance)
    place = spherical_to_cartesian(elevation, azimuth, radius)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(place)
    fovy = torch.full_like(azimuth, math.radians(40.0))
    poses = Poses(elevation, azimuth, radius, fovy, place, torch.zeros_like(place), up, place)
    return camera_batch(poses, height, width, 0.1, 10.0, True)


def central_ray():
    """A ray from +x through the centre, and one that misses the box."""
    origins = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]]).view(1, 1, 2, 3)
    directions = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).view(1, 1, 2, 3)
    return {"rays_o": origins, "rays_d": directions, "light_positions": torch.zeros(1, 3)}


def blob_grid(**settings):
    grid = VolumeGrid({"grid_size": [12, 12, 12], "normal_type": None, **settings})
    torch.manual_seed(0)
    torch.nn.init.normal_(grid.grid)
    return grid


def test_a_ball_of_constant_density_has_the_analytic_opacity():
    """Path 2 * 0.5 at density 3: opacity 1 - exp(-3), distances of a truncated exponential.

    Depth = sum w t = (1 - e) (2.5 + 1/3) - e with e = exp(-3); variance as below.
    """
    renderer = render_scene(Ball(), num_samples_per_ray=20_000, grid_prune=False)
    out = renderer(**central_ray())
    gone = math.exp(-3.0)
    assert out["opacity"][0, 0, 0].item() == pytest.approx(1 - gone, abs=1e-3)
    depth = (1 - gone) * (2.5 + 1 / 3) - gone
    assert out["depth"][0, 0, 0].item() == pytest.approx(depth, abs=1e-3)
    # E[s] and E[s^2] of s = t - 2.5 under the density 3 exp(-3 s) on [0, 1]
    first, second = 1 / 3 - gone * (1 + 1 / 3), 2 / 9 - gone * (1 + 2 / 3 + 2 / 9)
    moments = (1 - gone, 2.5 * (1 - gone) + first, 6.25 * (1 - gone) + 5 * first + second)
    variance = moments[2] - 2 * depth * moments[1] + depth**2 * moments[0]
    assert out["z_variance"][0, 0, 0].item() == pytest.approx(variance, abs=1e-3)
    color = torch.sigmoid(torch.tensor([2.0, 0.0, -2.0])) * (1 - gone)
    color = color + gone * torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(out["comp_rgb"][0, 0, 0], color, atol=1e-3, rtol=0)


def test_a_ray_that_misses_shows_the_background():
    out = render_scene(Ball())(**central_ray())
    torch.testing.assert_close(out["comp_rgb"][0, 0, 1], torch.tensor([0.0, 0.0, 1.0]))
    assert out["opacity"][0, 0, 1] == 0 and out["depth"][0, 0, 1] == 0


def mark_cells_that_touch(renderer, radius):
    """Occupy exactly the cells that a ball of this radius touches."""
    n = renderer.estimator.size
    middle = (torch.arange(n) + 0.5) / n * 2 - 1
    gap = (torch.cartesian_prod(middle, middle, middle).abs() - 1 / n).clamp_min(0)
    renderer.estimator.binaries.copy_((gap.norm(dim=-1) < radius).view(1, n, n, n))


@pytest.mark.parametrize("training", [False, True])
def test_skipping_empty_cells_does_not_change_the_image(training):
    batch, ball = cameras(16, 16), Ball(density=40.0)
    dense = render_scene(ball, training, grid_prune=False)(**batch)
    renderer = render_scene(ball, training, prune_alpha_threshold=False)
    mark_cells_that_touch(renderer, 0.5)
    pruned = renderer(**batch)
    for key in ("comp_rgb", "opacity", "depth", "z_variance"):
        torch.testing.assert_close(pruned[key], dense[key], atol=1e-5, rtol=0)
    if training:
        assert len(pruned["points"]) < 0.3 * len(dense["points"])


def test_dropping_invisible_samples_hardly_changes_the_image():
    """What is dropped has an opacity under 0.01 or lies behind all but 1e-4 of the light."""
    batch, ball = cameras(16, 16), Ball(density=40.0)
    dense = render_scene(ball, grid_prune=False)(**batch)
    renderer = render_scene(ball)
    renderer.train()
    renderer.update_step(0, 0)
    mark_cells_that_touch(renderer, 0.5)
    renderer.eval()
    pruned = renderer(**batch)
    for key in ("comp_rgb", "opacity", "depth"):
        torch.testing.assert_close(pruned[key], dense[key], atol=1e-3, rtol=0)


def test_cells_around_matter_are_kept_if_asked_for():
    """One cell of 8^3 has matter: with a margin of 2 the 5^3 cells around it are occupied."""
    for margin, count in ((0, 1), (1, 27), (2, 125)):
        grid = OccupancyGrid(torch.tensor([[0.0] * 3, [8.0] * 3]), 0.01, margin, resolution=8)
        grid.update(lambda x: ((x > 4) & (x < 5)).all(dim=-1, keepdim=True).float(), 0)
        assert grid.binaries.sum() == count
        assert grid.occupied(torch.tensor([[4.5 - margin, 4.5, 4.5 + margin]])).all()
        assert not grid.occupied(torch.tensor([[4.5, 4.5, 5.5 + margin]])).any()


@pytest.mark.parametrize(("threshold", "kept"), [(0.05, False), (1e-3, True)])
def test_thin_matter_is_rendered_if_it_is_above_the_threshold(threshold, kept):
    """A step through a ball of density 0.3 keeps 1.6 % of the light."""
    batch, ball = cameras(16, 16), Ball(density=0.3, radius=0.9)
    dense = render_scene(ball, grid_prune=False)(**batch)["opacity"]
    renderer = render_scene(ball, training=True, occupancy_threshold=threshold)
    renderer.estimator.occs.fill_(1.0)  # a mean above both thresholds
    renderer.update_step(0, 0)
    renderer.estimator.occs.fill_(1.0)
    difference = (renderer.eval()(**batch)["opacity"] - dense).abs().max()
    assert (difference < 1e-3) == kept, difference


def test_a_learnt_grid_finds_the_ball():
    """Cells are met at random points, so a grid learnt in few updates may miss some rims."""
    batch, ball = cameras(16, 16), Ball(density=40.0)
    renderer = render_scene(ball, training=True)
    for step in range(0, 128, 16):
        renderer.update_step(0, step)
    renderer.eval()
    dense = render_scene(ball, grid_prune=False)(**batch)
    error = (renderer(**batch)["opacity"] - dense["opacity"]).abs()
    assert error.mean() < 1e-3
    assert renderer.estimator.binaries.float().mean() < 0.15


def test_evaluation_in_chunks_equals_one_piece():
    batch, grid = cameras(), blob_grid()
    whole = render_scene(grid, grid_prune=False)(**batch)
    parts = render_scene(grid, grid_prune=False, eval_chunk_size=700)(**batch)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-6, rtol=0)


def test_training_returns_the_samples_and_evaluation_does_not():
    batch = cameras()
    out = render_scene(blob_grid(), training=True)(**batch)
    count = len(out["points"])
    shapes = {
        "weights": (count, 1),
        "t_points": (count, 1),
        "t_intervals": (count, 1),
        "t_dirs": (count, 3),
        "points": (count, 3),
        "ray_indices": (count,),
        "density": (count, 1),
        "features": (count, 3),
        "comp_rgb": (2, 8, 8, 3),
        "comp_rgb_fg": (2, 8, 8, 3),
        "comp_rgb_bg": (2, 8, 8, 3),
        "opacity": (2, 8, 8, 1),
        "depth": (2, 8, 8, 1),
        "z_variance": (2, 8, 8, 1),
    }
    assert {k: tuple(v.shape) for k, v in out.items()} == shapes
    origins = batch["rays_o"].reshape(-1, 3)[out["ray_indices"]]
    torch.testing.assert_close(origins + out["t_points"] * out["t_dirs"], out["points"])
    assert "points" not in render_scene(blob_grid())(**batch)


def test_weights_are_those_of_the_plain_loop():
    density, step = torch.rand(7) * 5, 0.1
    rays = torch.tensor([0, 0, 0, 2, 2, 5, 5])
    empty = torch.zeros(7, 3)
    samples = Samples(rays, torch.arange(7.0), empty, empty, step)
    passed, alpha = transmittance_and_alpha(density, samples, 6)
    for ray in (0, 2, 5):
        light = 1.0
        for i in (rays == ray).nonzero()[:, 0].tolist():
            assert passed[i].item() == pytest.approx(light, rel=1e-5)
            assert alpha[i].item() == pytest.approx(1 - math.exp(-density[i] * step), rel=1e-5)
            light *= math.exp(-density[i] * step)


def test_sums_over_long_rays_stay_exact():
    """A float32 running sum over a million samples would be off by whole units."""
    rays = torch.arange(1_000).repeat_interleave(1_000)
    values = torch.full((1_000_000,), 100.3)
    last = accumulated_before(values, rays, 1_000).view(1_000, 1_000)[:, -1]
    torch.testing.assert_close(last, torch.full((1_000,), 999 * 100.3), rtol=1e-6, atol=0)


def test_box_intervals_with_axis_parallel_and_missing_rays():
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    origins = torch.tensor([[3.0, 0, 0], [3.0, 2.0, 0], [0.0, 0, 0], [3.0, 3.0, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0], [-1.0, -1.0, 0]])
    enter, leave = box_interval(origins, directions, box)
    torch.testing.assert_close(enter[[0, 2, 3]], torch.tensor([2.0, -1.0, 2.0]))
    torch.testing.assert_close(leave[[0, 2, 3]], torch.tensor([4.0, 1.0, 4.0]))
    assert leave[1] <= enter[1]


def test_leaving_out_part_of_a_ray_does_not_move_the_other_samples():
    origins, directions = torch.zeros(3, 3), torch.tensor([[1.0, 0, 0]]).repeat(3, 1)
    near, offset = torch.tensor([0.0, 0.05, 0.0]), torch.tensor([0.5, 0.1, 0.9])
    whole = march(origins, directions, near, (near, near + 1.0), offset, 0.1)
    part = march(origins, directions, near, (near + 0.33, near + 0.71), offset, 0.1)
    assert torch.bincount(whole.ray_indices).tolist() == [10, 10, 10]
    distance = whole.t - near[whole.ray_indices]
    kept = whole.keep(((distance >= 0.33) & (distance < 0.71)).nonzero()[:, 0])
    torch.testing.assert_close(part.t, kept.t)
    assert torch.equal(part.ray_indices, kept.ray_indices)


def test_gradients_reach_grid_and_material_and_match_finite_differences():
    grid, batch = blob_grid(), cameras(2, 2, views=1)
    renderer = render_scene(grid, training=True, grid_prune=False, randomized=False)
    renderer(**batch)["comp_rgb"].sum().backward()
    gradient = grid.grid.grad.clone()
    channels = gradient.abs().flatten(2).sum(-1)[0]
    assert (channels > 0).all()
    place = (0, 0, *(int(i) for i in torch.nonzero(gradient[0, 0] == gradient[0, 0].max())[0]))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            grid.grid[place] += sign * 0.05
            values.append(renderer(**batch)["comp_rgb"].double().sum().item())
            grid.grid[place] -= sign * 0.05
    assert (values[0] - values[1]) / 0.1 == pytest.approx(gradient[place].item(), rel=2e-2)


def test_an_empty_scene_still_has_a_graph():
    grid = VolumeGrid({"grid_size": [4, 4, 4], "density_bias": -100.0, "normal_type": None})
    renderer = render_scene(grid, training=True)
    renderer.update_step(0, 0)
    out = renderer(**cameras())
    out["comp_rgb"].sum().backward()
    assert out["opacity"].max() == 0 and grid.grid.grad.abs().max() == 0


def test_jitter_depends_on_the_step_alone():
    batch, renderer = cameras(), render_scene(blob_grid(), training=True)

    def points(step):
        renderer.step = step
        torch.rand(3)
        return renderer(**batch)["points"]

    first, again, other = points(3), points(3), points(4)
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(2, 3), (2, 8, 8, 3), (128, 3)])
def test_a_given_background_colour_replaces_the_background(shape):
    color = torch.rand(shape)
    out = render_scene(Ball())(**cameras(), bg_color=color)
    torch.testing.assert_close(out["comp_rgb_bg"][1, 0, 0], color.reshape(2, -1, 3)[1, 0])


def test_state_has_upstreams_keys_and_no_scene():
    state = render_scene(blob_grid()).state_dict()
    estimator = [f"estimator.{k}" for k in ("resolution", "aabbs", "occs", "binaries")]
    assert sorted(state) == sorted(["bbox", *estimator])


def test_a_resumed_renderer_repeats_the_uninterrupted_one():
    grid, batch = blob_grid(), cameras()
    whole = render_scene(grid, training=True)
    for step in range(240, 321, 16):
        if step == 288:
            saved = {k: v.clone() for k, v in whole.state_dict().items()}
        whole.update_step(0, step)
        whole.update_step(0, step)
    resumed = render_scene(grid, training=True)
    resumed.load_state_dict(saved)
    for step in range(288, 321):
        resumed.update_step(0, step)
    assert torch.equal(whole.estimator.occs, resumed.estimator.occs)
    assert torch.equal(whole(**batch)["comp_rgb"], resumed(**batch)["comp_rgb"])


def test_the_grid_is_not_touched_outside_training_or_when_weights_are_loaded():
    renderer = render_scene(blob_grid())
    renderer.update_step(0, 0)
    renderer.train()
    renderer.update_step(0, 16, on_load_weights=True)
    renderer.update_step(0, 17)
    assert renderer.estimator.occs.abs().max() == 0 and renderer.estimator.binaries.all()


def test_occupancy_decays_and_finds_the_box_around_matter():
    """Matter at x > 0.5, then nothing: 0.5 * 0.95 = 0.475 stays; the box follows the cells."""
    grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), resolution=8)
    torch.testing.assert_close(grid.occupied_box(), torch.tensor([[-1.0] * 3, [1.0] * 3]))
    grid.update(lambda x: 0.5 * (x[:, :1] > 0.5), 0)
    torch.testing.assert_close(
        grid.occupied_box(), torch.tensor([[0.5, -1.0, -1.0], [1.0, 1.0, 1.0]])
    )
    points = torch.tensor([[0.6, 0.0, 0.0], [0.4, 0.0, 0.0], [1.0, 1.0, 1.0], [9.0, 0.0, 0.0]])
    assert grid.occupied(points).tolist() == [True, False, True, True]
    grid.update(lambda x: 0.0 * x[:, :1], 16)
    assert grid.occs.max().item() == pytest.approx(0.475)
    grid.update(lambda x: 1.0 * (x[:, :1] > 0.5), 256)
    assert grid.occs.min() == 0 and 0.9 < grid.occs.max() <= 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "grid"}, "'grid'; available: occgrid"),
        ({"num_samples_per_ray": 0}, "num_samples_per_ray` is 0"),
        ({"occupancy_threshold": 1.5}, "occupancy_threshold` is 1.5"),
        ({"occupancy_margin": -1}, "occupancy_margin` is -1"),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        render_scene(Ball(), **settings)
