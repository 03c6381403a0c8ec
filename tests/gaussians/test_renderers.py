"""The renderer's pictures, backgrounds and lists; what it asks gsplat for."""

import importlib
import importlib.machinery
import math
import sys
import types

import pytest
import torch

from tests.gaussians.scenes import look, projection, rasterizer, views
from threestudio.models.background.base import BaseBackground
from threestudio.registry import find
from threestudio.utils.errors import ConfigError

backend = importlib.import_module("threestudio-3dgs.rasterize_gsplat")
renderers = importlib.import_module("threestudio-3dgs.renderers")


def renderer(name="diff-gaussian-rasterizer", geometry=None, background=None, **settings):
    geometry = geometry or find("gaussian-splatting")({"init_num_pts": 50})
    return find(name)(
        settings,
        geometry=geometry,
        material=find("no-material")({}),
        background=find("solid-color-background")(background or {}),
    )


def batch(height=12, width=16):
    c2w = torch.stack([look((2.5, 0.0, 0.5)), look((0.0, -2.5, 0.5))]).float()
    rays_d = torch.ones(2, height, width, 3) * torch.tensor([3.0, 0.0, 0.0])
    fovy = torch.full((2,), math.radians(50))
    return {"c2w": c2w, "fovy": fovy, "width": width, "height": height, "rays_d": rays_d}


def test_pictures_have_the_keys_and_shapes_that_systems_read():
    made = renderer()
    out = made.batch_forward({**batch(), "elevation": torch.zeros(2)})
    for name, channels in (
        ("comp_rgb", 3),
        ("comp_normal", 3),
        ("comp_rgb_bg", 3),
        ("opacity", 1),
        ("comp_depth", 1),
    ):
        assert out[name].shape == (2, 12, 16, channels)
    assert 0 <= out["comp_rgb"].min() and out["comp_rgb"].max() <= 1
    assert out["comp_mask"] is out["opacity"] and out["opacity"].max() > 0.3
    for name in ("viewspace_points", "visibility_filter", "radii"):
        assert len(out[name]) == 2 and all(len(item) == 50 for item in out[name])
    assert torch.equal(out["visibility_filter"][0], out["radii"][0] > 0)


def test_gradients_of_each_picture_reach_its_own_points():
    out = renderer()(**batch())
    out["comp_rgb"][1].square().sum().backward()
    first, second = (points.grad for points in out["viewspace_points"])
    assert (first == 0).all() and second.norm() > 0
    with torch.no_grad():
        assert not renderer()(**batch())["viewspace_points"][0].requires_grad


def test_the_picture_is_the_rasterisers_over_the_background():
    made = renderer(back_ground_color=[0.2, 0.4, 0.6])
    given = batch()
    out = made(**given)
    cameras = projection.Cameras.of(given["c2w"], given["fovy"], 12, 16)
    found = rasterizer.rasterize(made.geometry.gaussians(), cameras)
    expected = found.color + (1 - found.opacity) * torch.tensor([0.2, 0.4, 0.6])
    torch.testing.assert_close(out["comp_rgb"], expected)


def test_the_background_is_inverted_by_chance_in_training_and_always_in_evaluation():
    made = renderer(invert_bg_prob=0.5, back_ground_color=[0.9, 0.9, 0.9])
    seen = []
    for step in range(60):
        made.update_step(0, step)
        values = made(**batch(2, 2))["comp_rgb_bg"].unique()
        assert len(values) == 1
        seen.append(round(values.item(), 3))
    assert set(seen) == {0.9, 0.1} and 15 < seen.count(0.9) < 45
    made.eval()
    assert made(**batch(2, 2))["comp_rgb_bg"].unique().item() == pytest.approx(0.1)
    always = renderer("diff-gaussian-rasterizer-advanced")
    assert all((always(**batch(2, 2))["comp_rgb_bg"] == 1).all() for always.step in range(20))


class Quarter(BaseBackground):
    def forward(self, dirs):
        self.dirs = dirs
        return torch.full_like(dirs, 0.25)


def test_the_systems_background_is_asked_with_unit_directions():
    made = renderer("diff-gaussian-rasterizer-background")
    made.scene.background = Quarter({})
    assert (made(**batch())["comp_rgb_bg"] == 0.25).all()
    torch.testing.assert_close(made.background.dirs.norm(dim=-1), torch.ones(2, 12, 16))
    with pytest.raises(ConfigError, match="needs the directions `rays_d`"):
        made(**{**batch(), "rays_d": None})


@pytest.mark.parametrize(
    "name", ["diff-gaussian-rasterizer", "diff-gaussian-rasterizer-background"]
)
def test_a_given_background_replaces_the_other(name):
    made, given = renderer(name, background={"color": [1.0, 0.0, 0.0]}), batch()
    grey = torch.full((1, 3), 0.5)
    out = made(**given, bg_color=grey)
    assert (out["comp_rgb_bg"] == 0.5).all()
    expected = out["comp_rgb_fg"] + (1 - out["opacity"]) * 0.5
    torch.testing.assert_close(out["comp_rgb"], expected)
    images = torch.rand(2, 12, 16, 3)
    assert torch.equal(made(**given, bg_color=images)["comp_rgb_bg"], images)
    assert torch.equal(
        made(**given, bg_color=images[:, 0, 0])["comp_rgb_bg"][1, 5, 5], images[1, 0, 0]
    )


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_colours_at_their_bounds_have_a_gradient_in_float32(direction):
    """Held at black or white, over black and over white, each channel of each Gaussian."""
    geometry = find("gaussian-splatting")({"init_num_pts": 50, "opacity_init": 0.9})
    with torch.no_grad():
        geometry._features_dc += 99.0 * direction
    assert geometry.bound() == 50
    made = renderer(geometry=geometry)
    for behind in (0.0, 1.0):
        geometry.zero_grad()
        out = made(**batch(48, 48), bg_color=torch.full((1, 3), behind))
        out["comp_rgb"].sum().backward()
        seen = torch.stack(out["visibility_filter"]).any(dim=0)
        assert seen.sum() > 40 and (geometry._features_dc.grad[seen] > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"back_ground_color": [1.0, 1.0]}, "back_ground_color` is .*must be 3 numbers"),
        ({"invert_bg_prob": 1.5}, "invert_bg_prob` is 1.5; it is a probability"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        renderer(**settings)


def test_a_geometry_without_gaussians_is_refused():
    volume = find("volume-grid")({"grid_size": [4, 4, 4]})
    with pytest.raises(ConfigError, match="VolumeGrid has no Gaussians to draw"):
        renderer(geometry=volume)


class GsplatDouble(types.ModuleType):
    """Stands in for gsplat: projects centres with the matrices it is given, and draws nothing.

    Its radii are none that anybody should use."""

    def __init__(self):
        super().__init__("gsplat")
        self.__spec__ = importlib.machinery.ModuleSpec("gsplat", None)

    def rasterization(self, means, viewmats, Ks, width, height, colors, **settings):
        self.settings = {**settings, "colors": colors, "means": means, "viewmats": viewmats}
        self.autocast = torch.is_autocast_enabled("cpu")
        homogeneous = torch.cat([means, torch.ones_like(means[:, :1])], dim=1)
        seen = (homogeneous @ viewmats.transpose(1, 2))[..., :3] @ Ks.transpose(1, 2)
        means2d = seen[..., :2] / seen[..., 2:]
        image = means2d.sum() * torch.ones(len(viewmats), height, width, 7).to(means)
        radii = torch.full((*means2d.shape[:2], 2), -1, dtype=torch.int32)
        return image, image[..., :1], {"means2d": means2d, "radii": radii}


def test_gsplat_is_given_the_same_cameras_and_gaussians(monkeypatch):
    double = GsplatDouble()
    monkeypatch.setitem(sys.modules, "gsplat", double)
    geometry = find("gaussian-splatting")({"init_num_pts": 30})
    cameras = views(20, 24)[2]
    cameras = projection.Cameras(
        *(v.float() for v in (cameras.rotation, cameras.center, cameras.focal)), 20, 24
    )
    out, points = backend.rasterize(geometry.gaussians(), cameras)
    offsets = torch.zeros(2, 30, 2)
    splats = projection.project(geometry.gaussians(), cameras, 0.1, 100.0, offsets)
    places = torch.stack([p.means[p.view] for p in points])
    torch.testing.assert_close(places[splats.view, splats.index], splats.mean)
    features = rasterizer.features(geometry.gaussians(), cameras, splats)[:, :6]
    given = double.settings["colors"][splats.view, splats.index]
    torch.testing.assert_close(given, features)
    assert double.settings["packed"] is False and double.settings["render_mode"] == "RGB+D"
    assert torch.equal(out.radii, splats.radii) and out.color.shape == (2, 20, 24, 3)
    assert points[1].grad is None
    out.color[0, 0, 0, 0].backward()
    torch.testing.assert_close(points[1].grad, torch.tensor([12.0, 10.0]).expand(30, 2))


def test_gsplat_is_given_float32_under_autocast(monkeypatch):
    """Cameras to the last bit; of Gaussians in half precision what float32 makes of them."""
    double = GsplatDouble()
    monkeypatch.setitem(sys.modules, "gsplat", double)
    gaussians = find("gaussian-splatting")({"init_num_pts": 30}).gaussians()
    cameras = views(20, 24)[2]
    cameras = projection.Cameras(
        *(v.float() for v in (cameras.rotation, cameras.center, cameras.focal)), 20, 24
    )
    backend.rasterize(gaussians, cameras)
    expected = double.settings
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        out, _ = backend.rasterize(gaussians, cameras)
    assert not double.autocast and out.color.dtype == torch.float32
    for name in ("viewmats", "means", "colors"):
        assert torch.equal(double.settings[name], expected[name]), name
    half = projection.Gaussians(**{k: v.half() for k, v in vars(gaussians).items()})
    backend.rasterize(half, cameras)
    assert torch.equal(double.settings["means"], half.means.float())
    assert torch.equal(double.settings["viewmats"], expected["viewmats"])


def drawn(made, device, lets_gsplat_draw, monkeypatch):
    """Return a renderer's picture, the gradients of all parameters and projected centres, normals
    and radii."""
    with monkeypatch.context() as patch:
        if not lets_gsplat_draw:
            patch.setattr(renderers.importlib.util, "find_spec", lambda name: None)
        made.geometry.to(device).zero_grad()
        out = made(
            **{k: v.to(device) if torch.is_tensor(v) else v for k, v in batch(64, 64).items()}
        )
    names = ("comp_rgb_fg", "comp_rgb", "comp_depth", "comp_mask")
    picture = torch.cat([out[name] for name in names], dim=-1)
    slope = torch.linspace(-1, 1, picture.numel(), device=device).view_as(picture)
    (picture * slope).sum().backward()
    found = {
        name: p.grad.clone().cpu() for name, p in made.geometry.named_parameters() if p.numel()
    }
    centres = torch.stack([view.grad for view in out["viewspace_points"]])
    for radii, visible in zip(out["radii"], out["visibility_filter"], strict=True):
        assert torch.equal(visible, radii > 0)
    rest = out["comp_normal"].detach().cpu(), torch.stack(out["radii"]).cpu()
    return picture.detach().cpu(), {**found, "centres": centres.cpu()}, *rest


@pytest.mark.gpu
@pytest.mark.parametrize("other", ["gsplat", "torch"])
def test_cuda_draws_what_torch_draws_on_a_cpu(other, monkeypatch):
    if other == "gsplat":
        pytest.importorskip("gsplat", reason="needs gsplat")
    geometry = find("gaussian-splatting")({"init_num_pts": 500, "opacity_init": 0.5})
    with torch.no_grad():  # a ball has no gradient of its rotation
        geometry._scaling += torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
        geometry._xyz[:9, 2] += 50.0  # not in any picture
    made = renderer(geometry=geometry)
    picture, gradients, normals, radii = drawn(made, "cpu", False, monkeypatch)
    on_cuda, theirs, their_normals, their_radii = drawn(
        made, "cuda", other == "gsplat", monkeypatch
    )
    errors = {name: ((theirs[name] - g).norm() / g.norm()).item() for name, g in gradients.items()}
    print(f"\n{other} on CUDA: largest difference {(on_cuda - picture).abs().max():.1e}")
    print("differences of gradients, of their norms:", errors)
    torch.testing.assert_close(on_cuda, picture, atol=1e-3, rtol=0)
    assert max(errors.values()) <= 1e-2
    torch.testing.assert_close(their_normals, normals, atol=1e-3, rtol=0)
    assert torch.equal(their_radii > 0, radii > 0) and (radii[:, :9] == 0).all()
    # whole pixels, rounded up
    assert (their_radii - radii).abs().max() <= 1 and (their_radii != radii).float().mean() < 0.01
