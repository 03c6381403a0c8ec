"""Isosurfaces: the tetrahedral grid, the marching table, closed surfaces, gradients, extraction."""

import math
import sys

import numpy as np
import pytest
import torch

from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.models.isosurface import MarchingCubeCPUHelper, MarchingTetrahedraHelper
from threestudio.models.tetrahedra import EDGES, body_centred_grid, read_grid, surface_table
from threestudio.utils.errors import ConfigError, UserError

RESOLUTION = 24


class Balls(BaseImplicitGeometry):
    """A density that falls linearly away from two centres: 1 - 2 |x - c|."""

    def __init__(self, centers=((0.2, 0.0, 0.0),), **settings):
        defaults = {"isosurface_resolution": RESOLUTION, "isosurface_threshold": 0.4}
        super().__init__({**defaults, "isosurface_remove_outliers": False, **settings})
        self.centers = torch.nn.Parameter(torch.tensor(centers))

    def forward_density(self, points):
        return 1.0 - 2.0 * (points[..., None, :] - self.centers).norm(dim=-1).amin(-1, keepdim=True)


def volumes(vertices, tetrahedra):
    first, *others = vertices[tetrahedra].double().unbind(1)
    return torch.linalg.det(torch.stack([point - first for point in others], dim=1)) / 6


def as_trimesh(mesh):
    import trimesh

    return trimesh.Trimesh(mesh.v_pos.detach(), mesh.t_pos_idx, process=False)


def sphere_level(points, radius=0.3):
    return (points - 0.5).norm(dim=-1, keepdim=True) - radius


def torus_level(points):
    x, y, z = (points - 0.5).unbind(-1)
    ring = torch.stack([x, y], dim=-1).norm(dim=-1) - 0.28
    return (torch.stack([ring, z], dim=-1).norm(dim=-1) - 0.12)[:, None]


def signed_volume(mesh):
    return torch.linalg.det(mesh.v_pos[mesh.t_pos_idx]).sum() / 6


def centre_of_mass(mesh):
    corners = mesh.v_pos[mesh.t_pos_idx]
    weights = torch.linalg.det(corners)
    return (corners.sum(dim=1) / 4 * weights[:, None]).sum(dim=0) / weights.sum()


@pytest.mark.parametrize(("resolution", "n"), [(2, 1), (5, 3), (8, 4)])
def test_the_grid_fills_the_cube_with_positive_tetrahedra(resolution, n):
    """12 n^2 (n - 1) whole and 24 n^2 half ones; corners, centres and middles of border squares."""
    vertices, tetrahedra = body_centred_grid(resolution)
    assert len(vertices) == (n + 1) ** 3 + n**3 + 6 * n**2
    assert len(tetrahedra) == 12 * n**2 * (n - 1) + 24 * n**2
    assert vertices.min() == 0 and vertices.max() == 1
    sizes = volumes(vertices, tetrahedra)
    assert sizes.sum().item() == pytest.approx(1.0)
    unit = 1 / (12 * n**3)
    torch.testing.assert_close(sizes.max(), torch.tensor(unit if n > 1 else unit / 2).double())
    torch.testing.assert_close(sizes.min(), torch.tensor(unit / 2).double())


def test_tetrahedra_share_whole_sides():
    """Each triangle belongs to two tetrahedra, or lies on the border."""
    vertices, tetrahedra = body_centred_grid(6)
    sides = torch.cat([tetrahedra[:, [j for j in range(4) if j != i]] for i in range(4)])
    unique, counts = sides.sort(dim=-1)[0].unique(dim=0, return_counts=True)
    corners = vertices[unique]
    flat = (corners == corners[:, :1]) & ((corners == 0) | (corners == 1))
    on_border = flat.all(dim=1).any(dim=-1)
    assert torch.equal(counts == 1, on_border) and counts.max() == 2


def test_the_triangles_of_one_tetrahedron_face_where_the_level_grows():
    """The level is linear, so every triangle's normal is exactly its gradient."""
    table = surface_table()
    corners = torch.tensor([[0.1, 0, 0], [1, 0.2, 0], [0, 1, 0.3], [0.2, 0.1, 1]]).double()
    for code in range(1, 15):
        sign = torch.tensor([-1.0 if code >> i & 1 else 1.0 for i in range(4)]).double()
        level = sign * torch.tensor([0.7, 1.1, 0.4, 0.9]).double()
        gradient = torch.linalg.solve(corners[1:] - corners[0], level[1:] - level[0])
        for triangle in table[code].tolist():
            if triangle[0] < 0:
                continue
            ends = [EDGES[edge] for edge in triangle]
            assert all(level[i] * level[j] < 0 for i, j in ends)
            a, b, c = (
                (corners[i] * level[j] - corners[j] * level[i]) / (level[j] - level[i])
                for i, j in ends
            )
            normal = torch.linalg.cross(b - a, c - a)
            cosine = torch.nn.functional.cosine_similarity(normal, gradient, dim=0)
            assert cosine.item() == pytest.approx(1.0)
    two = (table[:, :, 0] >= 0).sum(dim=-1).tolist()
    assert two == [0, 1, 1, 2, 1, 2, 2, 1, 1, 2, 2, 1, 2, 1, 1, 0]


@pytest.mark.parametrize("helper", [MarchingTetrahedraHelper, MarchingCubeCPUHelper])
def test_a_sphere_is_closed_and_has_its_area_and_volume(helper):
    made = helper(RESOLUTION)
    mesh = made(sphere_level(made.grid_vertices))
    body = as_trimesh(mesh)
    assert body.is_watertight and body.is_winding_consistent and body.euler_number == 2
    assert body.volume == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.03)
    assert body.area == pytest.approx(4 * math.pi * 0.3**2, rel=0.03)
    assert len(torch.unique(mesh.t_pos_idx)) == len(mesh.v_pos)
    assert ((mesh.v_pos - 0.5) * mesh.v_nrm).sum(-1).min() > 0.25


@pytest.mark.parametrize("helper", [MarchingTetrahedraHelper, MarchingCubeCPUHelper])
def test_a_torus_keeps_its_hole(helper):
    made = helper(RESOLUTION)
    body = as_trimesh(made(torus_level(made.grid_vertices)))
    assert body.is_watertight and body.euler_number == 0
    assert body.volume == pytest.approx(2 * math.pi**2 * 0.28 * 0.12**2, rel=0.06)


def test_a_linear_level_gives_its_plane_exactly():
    made = MarchingTetrahedraHelper(7).double()
    normal = torch.tensor([0.3, -0.5, 0.8]).double()
    mesh = made((made.grid_vertices @ normal - 0.21)[:, None])
    assert (mesh.v_pos @ normal - 0.21).abs().max() < 1e-12
    assert (mesh.v_nrm @ normal).min() > 0


def test_levels_that_are_zero_at_vertices_leave_the_surface_closed():
    made = MarchingTetrahedraHelper(8)
    level = ((made.grid_vertices - 0.5).abs().amax(dim=-1, keepdim=True) - 0.25).round(decimals=6)
    assert (level == 0).any()
    body = as_trimesh(made(level))
    assert body.is_watertight and body.volume == pytest.approx(0.125, rel=0.2)


def test_the_volume_has_the_gradient_of_finite_differences():
    made = MarchingTetrahedraHelper(16).double()
    level = sphere_level(made.grid_vertices).requires_grad_(True)
    deformation = torch.zeros(len(level), 3).double().requires_grad_(True)
    volume = signed_volume(made(level, deformation))
    gradients = torch.autograd.grad(volume, (level, deformation))
    # raising all levels by d moves the surface inwards by d
    assert gradients[0].sum().item() == pytest.approx(-4 * math.pi * 0.3**2, rel=0.1)
    for values, gradient in zip((level, deformation), gradients, strict=True):
        at = gradient.abs().flatten().topk(3).indices
        for place in at.tolist():
            step = torch.zeros(values.numel()).double()
            step[place] = 1e-6
            step = step.view_as(values)
            moved = [
                signed_volume(
                    made(*(x + s * step if x is values else x for x in (level, deformation)))
                )
                for s in (1, -1)
            ]
            slope = ((moved[0] - moved[1]) / 2e-6).item()
            assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-4)


def test_deformed_vertices_move_at_most_one_layer():
    made = MarchingTetrahedraHelper(8)
    level = made.grid_vertices[:, :1] - 0.5
    mesh = made(level, torch.tensor([[1e9, 0.0, -1e9]]).expand(len(level), 3))
    expected = made.grid_vertices + torch.tensor([1 / 8, 0.0, -1 / 8])
    torch.testing.assert_close(mesh.grid_vertices, expected)
    torch.testing.assert_close(mesh.v_pos[:, 0], torch.full((len(mesh.v_pos),), 0.625))


def test_a_mesh_knows_its_grid():
    made = MarchingTetrahedraHelper(4)
    level = sphere_level(made.grid_vertices)
    mesh = made(level)
    assert mesh.grid_level is level and mesh.grid_deformation is None
    assert torch.equal(mesh.grid_vertices, made.grid_vertices)
    expected = {tuple(sorted((t[i], t[j]))) for t in made.tetrahedra.tolist() for i, j in EDGES}
    assert set(map(tuple, mesh.tet_edges.tolist())) == expected
    assert len(mesh.tet_edges) == len(expected)
    assert made.state_dict() == {} and made.points_range == (0, 1)


def test_a_grid_can_be_read_and_is_turned(tmp_path):
    vertices, tetrahedra = body_centred_grid(6)
    turned = tetrahedra[:, [1, 0, 2, 3]].numpy()
    path = str(tmp_path / "6_tets.npz")
    np.savez(path, vertices=vertices.numpy(), indices=turned)
    made = MarchingTetrahedraHelper(6, path)
    assert (volumes(made.grid_vertices, made.tetrahedra) > 0).all()
    assert signed_volume(made(sphere_level(made.grid_vertices))) > 0
    np.savez(path, vertices=vertices.numpy(), tets=turned)
    with pytest.raises(UserError, match="must be an .npz with `vertices`"):
        read_grid(path)
    np.savez(path, vertices=vertices.numpy(), indices=turned[:, :3])
    with pytest.raises(UserError, match=r"its shapes are \(\d+, 3\) and \(\d+, 3\)"):
        read_grid(path)


def test_marching_cubes_say_what_they_need(monkeypatch):
    made = MarchingCubeCPUHelper(4)
    level = sphere_level(made.grid_vertices)
    with pytest.raises(ValueError, match="isosurface_method` to mt"):
        made(level, torch.zeros(len(level), 3))
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        made(level)


@pytest.mark.parametrize("settings", [{}, {"isosurface_coarse_to_fine": False}])
def test_a_ball_is_found_in_world_units(settings):
    """1 - 2 r = 0.4 at r = 0.3 around (0.2, 0, 0); the second pass sees only the box around it."""
    geometry = Balls(**settings)
    mesh = geometry.isosurface()
    distance = (mesh.v_pos - geometry.centers).norm(dim=-1)
    assert 0.28 < distance.min() and distance.max() < 0.31
    assert as_trimesh(mesh).is_watertight
    if settings:
        assert torch.equal(mesh.bbox, geometry.bbox)
    else:
        # 10 % of the diameter 0.6, but at least one of the 24 cells of the scene's box
        expected = torch.tensor([[-0.1, -0.3, -0.3], [0.5, 0.3, 0.3]]) + torch.tensor(
            [[-2 / 24], [2 / 24]]
        )
        torch.testing.assert_close(mesh.bbox, expected, atol=0.02, rtol=0)


def test_both_methods_agree():
    bodies = [as_trimesh(Balls(isosurface_method=name).isosurface()) for name in ("mt", "mc-cpu")]
    assert bodies[0].volume == pytest.approx(bodies[1].volume, rel=0.01)
    np.testing.assert_allclose(bodies[0].bounds, bodies[1].bounds, atol=0.01)


def test_chunks_do_not_change_the_mesh():
    whole, parts = (Balls(isosurface_chunk=n).isosurface() for n in (0, 1000))
    assert torch.equal(whole.v_pos, parts.v_pos) and torch.equal(whole.t_pos_idx, parts.t_pos_idx)


def test_the_mesh_follows_the_field():
    """The centre of mass moves with the ball."""
    geometry = Balls()
    centre = centre_of_mass(geometry.isosurface())
    torch.testing.assert_close(centre, geometry.centers[0], atol=1e-3, rtol=0)
    centre.sum().backward()
    torch.testing.assert_close(geometry.centers.grad, torch.ones(1, 3), atol=0.05, rtol=0)
    with torch.no_grad():
        assert not geometry.isosurface().requires_grad


def test_small_components_are_left_out():
    geometry = Balls(
        centers=((0.4, 0.4, 0.4), (-0.4, -0.4, -0.4)),
        isosurface_remove_outliers=True,
        isosurface_outlier_n_faces_threshold=0.5,
    )
    with torch.no_grad():
        assert as_trimesh(geometry.isosurface()).euler_number == 4
        geometry.cfg.isosurface_outlier_n_faces_threshold = 10**6
        with pytest.raises(UserError, match="Lower `system.geometry.isosurface_outlier"):
            geometry.isosurface()


def test_the_automatic_threshold_is_the_mean_of_the_matter():
    """The surface separates what is above the mean of all values over 1e-5 of its own pass."""
    geometry = Balls(isosurface_threshold="auto", isosurface_coarse_to_fine=False)
    points = geometry.isosurface().grid_vertices * 2 - 1
    density = geometry.forward_density(points)
    mean = density[density > 1e-5].mean()
    radius = (geometry.isosurface().v_pos - geometry.centers).norm(dim=-1)
    assert radius.mean().item() == pytest.approx((1 - mean.item()) / 2, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isosurface_threshold": 7.0}, r"at the level 7.*for example -?\d"),
        ({"isosurface_threshold": 10}, r"isosurface_threshold` to a value in between"),
        ({"isosurface": False}, "isosurface` is false. Set it to true"),
    ],
)
def test_a_missing_surface_is_explained(settings, message):
    with pytest.raises(UserError, match=message):
        Balls(**settings).isosurface()


@pytest.mark.parametrize(("value", "message"), [(0.0, "0 everywhere"), (math.nan, "NaN")])
def test_an_empty_or_broken_field_is_explained(value, message):
    geometry = Balls()
    geometry.forward_density = lambda points: torch.full_like(points[..., :1], value)
    with pytest.raises(UserError, match=message):
        geometry.isosurface()
    geometry.cfg.isosurface_threshold = "auto"
    with pytest.raises(UserError, match=message):
        geometry.isosurface()


def test_a_volume_that_cannot_deform_the_grid_says_so(monkeypatch):
    seen = []
    monkeypatch.setattr("threestudio.models.geometry.extraction.warn", seen.append)
    Balls(isosurface_deformable_grid=True).isosurface()
    assert "Balls cannot deform the grid" in seen[0]


@pytest.mark.parametrize("kind", [VolumeGrid, ImplicitVolume])
def test_meshes_of_volumes(kind):
    """The blob 5 (1 - |x| / 0.5) is 2 at |x| = 0.3; nothing but weights is in the state."""
    geometry = kind(
        {
            "density_activation": "none",
            "density_bias": "blob_magic3d",
            "density_blob_scale": 5.0,
            "isosurface_threshold": 2,
            "isosurface_resolution": RESOLUTION,
            "isosurface_remove_outliers": False,
        }
        | ({"grid_size": [8, 8, 8]} if kind is VolumeGrid else SMALL)
    )
    with torch.no_grad():
        for parameter in geometry.parameters():
            parameter.zero_()
        mesh = geometry.isosurface()
    assert (mesh.v_pos.norm(dim=-1) - 0.3).abs().max() < 0.01
    assert not any("isosurface" in key for key in geometry.state_dict())


SMALL = {
    "pos_encoding_config": {"otype": "TriPlane", "resolution": 4, "n_features": 2},
    "mlp_network_config": {"otype": "VanillaMLP", "n_neurons": 4, "n_hidden_layers": 1},
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"isosurface_method": "mc-gpu"}, "'mc-gpu'; available: mt, mc-cpu"),
        ({"isosurface_resolution": 1}, "isosurface_resolution` is 1; it must be 2 or more"),
        ({"isosurface_threshold": "mean"}, "'mean'; it must be a number or auto"),
        ({"isosurface_outlier_n_faces_threshold": 1.5}, r"1.5; it must be an int.*float in \[0, 1"),
        (
            {"isosurface_method": "mc-cpu", "isosurface_deformable_grid": True},
            "isosurface_deformable_grid` is true, but mc-cpu cannot",
        ),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        VolumeGrid({"grid_size": [4, 4, 4], **settings})
