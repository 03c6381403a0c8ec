"""Rendered meshes against ray-mesh intersections with the same cameras."""

import math

import pytest
import torch
import trimesh

from threestudio.data.cameras import Poses, camera_batch, spherical_to_cartesian
from threestudio.models.background.base import BaseBackground
from threestudio.models.background.solid_color import SolidColorBackground
from threestudio.models.geometry.base import (
    BaseExplicitGeometry,
    BaseGeometry,
    BaseImplicitGeometry,
)
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.mesh import Mesh
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer
from threestudio.models.renderers.nvdiff_rasterizer import NVDiffRasterizer, pixel_directions
from threestudio.utils.errors import ConfigError

CENTER = torch.tensor([0.1, -0.15, 0.12])


class Surface(BaseExplicitGeometry):
    """A mesh that can grow, with features that depend on the place."""

    def __init__(self, shape, center=CENTER):
        super().__init__({})
        self.points = torch.tensor(shape.vertices).float() + center
        self.faces = torch.tensor(shape.faces)
        self.factor = torch.nn.Parameter(torch.ones(()))
        self.evaluated = 0

    def isosurface(self):
        mesh = Mesh(self.points * self.factor, self.faces)
        mesh.v_tng = torch.tensor([[0.0, 2.0, 0.0]]).expand(len(self.points), 3)
        return mesh

    def forward(self, points, output_normal=False):
        assert not output_normal and len(points) > 0
        self.evaluated = len(points)
        return {"features": 3.0 * points}


class Observer(BaseMaterial):
    """Paints everything in one colour and keeps what it was told."""

    requires_normal, requires_tangent = True, True
    color = torch.tensor([0.9, 0.2, 0.4])

    def forward(self, **told):
        self.told = told
        return self.color.expand(len(told["positions"]), 3) + 0.0 * told["features"]


class Sky(BaseBackground):
    """The colour of a direction is the direction, mapped to [0, 1]."""

    def forward(self, dirs):
        return dirs * 0.5 + 0.5


class Haze(BaseImplicitGeometry):
    """An opaque ball as a volume."""

    def forward(self, points, output_normal=False):
        density = self.forward_density(points)
        return {"density": density, "features": density.expand(*points.shape[:-1], 3)}

    def forward_density(self, points):
        return 1e3 * ((points - CENTER).norm(dim=-1, keepdim=True) < 0.6)


def box():
    return trimesh.creation.box([0.9, 0.7, 0.5])


def sphere(subdivisions=3):
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.6)


def cameras(height=24, width=32, target=(0.1, -0.05, 0.02)):
    azimuth, elevation = torch.tensor([0.0, 130.0]), torch.tensor([20.0, -35.0])
    distance, fovy = torch.full((2,), 2.8), torch.full((2,), math.radians(40.0))
    place = spherical_to_cartesian(elevation, azimuth, distance)
    up = torch.tensor([0.0, 0.1, 1.0]).expand_as(place)
    target = torch.tensor(target).expand_as(place)
    poses = Poses(elevation, azimuth, distance, fovy, place, target, up, place + 1.0)
    return camera_batch(poses, height, width, 0.1, 10.0, True)


def renderer(geometry, material=None, background=None, **settings):
    return NVDiffRasterizer(
        settings,
        geometry=geometry,
        material=material or NoMaterial({}),
        background=background or SolidColorBackground({"color": [0.0, 0.0, 1.0]}),
    )


def first_hits(batch, mesh):
    """Return the distance at which each ray meets the mesh first (Moller and Trumbore), or inf."""
    origin, along = (batch[k].double()[..., None, :] for k in ("rays_o", "rays_d"))
    a, b, c = mesh.v_pos.detach().double()[mesh.t_pos_idx].unbind(1)
    cross = torch.linalg.cross(along, (c - a).expand(*along.shape[:3], -1, -1))
    scale = 1.0 / (cross * (b - a)).sum(-1)
    u = ((origin - a) * cross).sum(-1) * scale
    other = torch.linalg.cross(origin - a, (b - a).expand(*origin.shape[:3], -1, -1))
    v, t = (along * other).sum(-1) * scale, ((c - a) * other).sum(-1) * scale
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return torch.where(hit, t, torch.inf).amin(-1)


@pytest.mark.parametrize("shape", [box, sphere])
def test_a_mesh_appears_where_the_rays_meet_it(shape):
    """Mask, points and view directions are those of the rays through the pixels' centres."""
    geometry, material, batch = Surface(shape()), Observer({}), cameras()
    out = renderer(geometry, material)(**batch)
    t = first_hits(batch, out["mesh"])
    hit = t.isfinite()
    assert 0.1 < hit.double().mean() < 0.5
    told = material.told
    assert len(told["positions"]) == hit.sum() == geometry.evaluated
    points = batch["rays_o"][hit] + t[hit][:, None].float() * batch["rays_d"][hit]
    torch.testing.assert_close(told["positions"], points, atol=1e-4, rtol=0)
    torch.testing.assert_close(told["viewdirs"], batch["rays_d"][hit], atol=1e-4, rtol=0)
    covered = out["opacity"].double().mean((1, 2, 3))
    torch.testing.assert_close(covered, hit.double().mean((1, 2)), atol=0.01, rtol=0)


def test_volume_and_mesh_of_one_ball_have_the_same_picture():
    batch = cameras(28, 28)
    mesh = renderer(Surface(sphere(4)))(**batch)["opacity"]
    scene = {"material": NoMaterial({}), "background": SolidColorBackground({})}
    volume = NeRFVolumeRenderer(
        {"num_samples_per_ray": 256, "grid_prune": False}, geometry=Haze({}), **scene
    ).eval()(**batch)["opacity"]
    assert (mesh.mean() - volume.mean()).abs() < 0.005
    assert ((mesh > 0.5) != (volume > 0.5)).double().mean() < 0.01


def test_directions_through_pixels_are_those_of_the_rays():
    batch = cameras(5, 9)
    directions = pixel_directions(batch["mvp_mtx"], 5, 9)
    torch.testing.assert_close(directions, batch["rays_d"], atol=1e-5, rtol=0)
    out = renderer(Surface(box()), background=Sky({}))(**batch)
    sky = batch["rays_d"] * 0.5 + 0.5
    torch.testing.assert_close(out["comp_rgb_bg"], sky, atol=1e-5, rtol=0)
    void = out["opacity"][..., 0] == 0
    assert void.any()
    torch.testing.assert_close(out["comp_rgb"][void], sky[void], atol=1e-5, rtol=0)


def test_colours_are_blended_by_the_opacity():
    out = renderer(Surface(sphere()), Observer({}))(**cameras())
    opacity = out["opacity"]
    assert ((opacity > 0.01) & (opacity < 0.99)).sum() > 20
    expected = opacity * Observer.color + (1 - opacity) * torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(out["comp_rgb"], expected)


def test_normals_point_outwards_and_are_zero_in_the_void():
    material, batch = Observer({}), cameras()
    out = renderer(Surface(sphere()), material)(**batch)
    told, normal = material.told, out["comp_normal"]
    outwards = (told["positions"] - CENTER) / 0.6
    torch.testing.assert_close(told["shading_normal"], outwards, atol=0.02, rtol=0)
    assert (normal[out["opacity"][..., 0] == 0] == 0).all()
    assert normal.min() >= 0 and normal.max() <= 1
    shown = first_hits(batch, out["mesh"]).isfinite()
    inside = (out["opacity"][..., 0] == 1) & shown
    expected = (told["shading_normal"] + 1) / 2
    torch.testing.assert_close(normal[inside], expected[inside[shown]])


def test_the_material_is_told_about_light_tangent_and_batch():
    material, batch = Observer({}), cameras()
    out = renderer(Surface(box()), material)(**batch)
    told = material.told
    first = first_hits(batch, out["mesh"]).isfinite()[0].sum()
    assert torch.equal(told["light_positions"][first - 1], batch["light_positions"][0])
    assert torch.equal(told["light_positions"][first], batch["light_positions"][1])
    assert torch.equal(told["fovy"], batch["fovy"])
    torch.testing.assert_close(told["features"], 3.0 * told["positions"])
    torch.testing.assert_close(told["tangent"][0], torch.tensor([0.0, 1.0, 0.0]))
    plain = NoMaterial({})
    plain.register_forward_pre_hook(
        lambda _, args, told: setattr(plain, "names", set(told)), with_kwargs=True
    )
    renderer(Surface(box()), plain)(**batch)
    assert {"shading_normal", "tangent"}.isdisjoint(plain.names)


def test_without_colours_nothing_is_evaluated():
    geometry = Surface(box())
    out = renderer(geometry)(**cameras(), render_rgb=False)
    assert set(out) == {"opacity", "comp_normal", "mesh"} and geometry.evaluated == 0
    full = renderer(geometry)(**cameras())
    assert set(full) == {"opacity", "comp_normal", "mesh", "comp_rgb", "comp_rgb_bg"}
    torch.testing.assert_close(out["opacity"], full["opacity"])
    assert {k: tuple(v.shape) for k, v in full.items() if k != "mesh"} == {
        "opacity": (2, 24, 32, 1),
        "comp_normal": (2, 24, 32, 3),
        "comp_rgb": (2, 24, 32, 3),
        "comp_rgb_bg": (2, 24, 32, 3),
    }


@pytest.mark.parametrize("key", ["opacity", "comp_rgb"])
def test_a_growing_mesh_has_the_gradient_of_its_finite_difference(key):
    geometry, batch, values, step = Surface(sphere()), cameras(48, 48), [], 0.03
    render = renderer(geometry)
    render(**batch)[key].mean().backward()
    for sign in (1, -1):
        with torch.no_grad():
            geometry.factor.fill_(1 + sign * step)
            values.append(render(**batch)[key].double().mean().item())
    expected = (values[0] - values[1]) / (2 * step)
    assert geometry.factor.grad.item() == pytest.approx(expected, rel=0.05)


def test_a_mesh_out_of_sight_leaves_the_background_and_the_graph():
    geometry = Surface(box(), center=torch.tensor([0.0, 0.0, 20.0]))
    out = renderer(geometry, Observer({}))(**cameras())
    assert out["opacity"].max() == 0 and out["comp_normal"].abs().max() == 0
    assert torch.equal(out["comp_rgb"], out["comp_rgb_bg"])
    (out["opacity"].mean() + out["comp_rgb"].mean()).backward()
    assert geometry.factor.grad == 0 and geometry.evaluated == 1


def test_state_holds_no_scene():
    assert list(renderer(Surface(box())).state_dict()) == ["bbox"]


def test_faulty_settings_are_answered_with_the_fix():
    with pytest.raises(ConfigError, match="context_type` is 'egl'; it must be one of gl, cuda"):
        renderer(Surface(box()), context_type="egl")
    with pytest.raises(ConfigError, match="Haze gives no surface.*geometry.isosurface: true"):
        renderer(Haze({"isosurface": False}))
    with pytest.raises(ConfigError, match="BaseGeometry gives no surface"):
        renderer(BaseGeometry({}))
