"""Meshes: attributes against loops and closed forms, seams, outliers, regularisers."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F

from threestudio.models.mesh import Mesh
from threestudio.utils.errors import ConfigError, UserError

TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


def tetrahedron(offset=0.0, size=1.0):
    return Mesh(TETRAHEDRON * size + offset, FACES)


def cube():
    """Two triangles a side, counterclockwise seen from outside."""
    import trimesh

    box = trimesh.creation.box((1.0, 2.0, 3.0))
    return Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces))


def joined(*meshes):
    starts = torch.tensor([0] + [len(m.v_pos) for m in meshes]).cumsum(0)
    faces = [m.t_pos_idx + start for m, start in zip(meshes, starts, strict=False)]
    return Mesh(torch.cat([m.v_pos for m in meshes]), torch.cat(faces))


def patch(count):
    """A strip of triangles."""
    points = torch.rand(count + 2, 3)
    return Mesh(points, torch.tensor([[i, i + 1, i + 2] for i in range(count)]))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_normals_are_sums_of_cross_products(count):
    """Three triangles, too, where a cross product without an axis takes the wrong one."""
    mesh = patch(count)
    total = torch.zeros_like(mesh.v_pos)
    for a, b, c in mesh.t_pos_idx.tolist():
        p, q, r = mesh.v_pos[a], mesh.v_pos[b], mesh.v_pos[c]
        normal = torch.linalg.cross(q - p, r - p)
        for corner in (a, b, c):
            total[corner] += normal
    torch.testing.assert_close(mesh.v_nrm, F.normalize(total, dim=-1))


def test_normals_of_a_closed_mesh_point_outwards_and_have_gradients():
    points = TETRAHEDRON.clone().requires_grad_(True)
    mesh = Mesh(points, FACES)
    torch.testing.assert_close(mesh.v_nrm, F.normalize(TETRAHEDRON, dim=-1))
    mesh.v_nrm[0, 0].backward()
    assert points.grad.abs().max() > 0 and mesh.requires_grad


def test_a_vertex_without_area_gets_some_normal():
    mesh = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(mesh.v_nrm, torch.tensor([[0.0, 0.0, 1.0]] * 3))


def test_edges_are_listed_once():
    mesh = tetrahedron()
    assert mesh.edges.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert len(cube().edges) == 18


def test_regularisers_by_hand():
    """Normals of a regular tetrahedron meet at cos = -1/3; neighbours' mean is -v / 3."""
    mesh = tetrahedron()
    assert mesh.normal_consistency().item() == pytest.approx(4 / 3)
    assert mesh.laplacian().item() == pytest.approx(4 / 3 * 3**0.5)
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), FACES[:2])
    assert flat.normal_consistency().item() == pytest.approx(0.0, abs=1e-6)


def test_extras_are_attributes_and_survive_a_copy():
    mesh = Mesh(TETRAHEDRON, FACES, grid_level=torch.ones(2))
    mesh.add_extra("bbox", torch.zeros(2, 3))
    assert mesh.grid_level is mesh.extras["grid_level"] and mesh.bbox.shape == (2, 3)
    assert torch.equal(copy.deepcopy(mesh).bbox, mesh.bbox)
    with pytest.raises(AttributeError, match="no 'grid_levl'. Its extras are: bbox, grid_level"):
        _ = mesh.grid_levl


def test_colours_belong_to_vertices():
    mesh = tetrahedron()
    assert mesh.v_rgb is None
    mesh.set_vertex_color(torch.rand(4, 3))
    assert mesh.v_rgb.shape == (4, 3)
    with pytest.raises(ValueError, match="3 colours for 4 vertices"):
        mesh.set_vertex_color(torch.rand(3, 3))


@pytest.mark.parametrize(("least", "left"), [(5, 8), (4, 12), (9, None), (0.6, 8), (0.5, 12)])
def test_small_components_are_dropped(least, left):
    """Components of 4 and 8 triangles: the box without its last four, and a tetrahedron."""
    box = cube()
    box = Mesh(box.v_pos, box.t_pos_idx[:8])
    mesh = joined(tetrahedron(offset=9.0), box)
    mesh.add_extra("bbox", torch.ones(2, 3))
    mesh.set_vertex_color(torch.rand(len(mesh.v_pos), 3))
    kept = mesh.remove_outlier(least)
    assert len(kept.t_pos_idx) == (left or 0)
    assert torch.equal(kept.bbox, mesh.bbox)
    if left == 8:
        assert torch.equal(kept.v_pos[kept.t_pos_idx], box.v_pos[box.t_pos_idx])
        assert torch.equal(kept.v_rgb[kept.t_pos_idx], mesh.v_rgb[mesh.t_pos_idx[4:]])


def test_a_mesh_with_gradients_keeps_its_outliers():
    mesh = Mesh(TETRAHEDRON.clone().requires_grad_(True), FACES)
    assert mesh.remove_outlier(100) is mesh


def test_texture_coordinates_have_their_own_index():
    """The sides of a box stay flat, so every edge is scaled by one factor."""
    mesh = cube()
    assert mesh.t_tex_idx.shape == mesh.t_pos_idx.shape
    assert len(mesh.v_tex) > len(mesh.v_pos) and 0 <= mesh.v_tex.min() <= mesh.v_tex.max() <= 1
    texture, corners = mesh.v_tex[mesh.t_tex_idx], mesh.v_pos[mesh.t_pos_idx]
    lengths = [(x - x.roll(1, dims=1)).norm(dim=-1) for x in (texture, corners)]
    ratio = lengths[0] / lengths[1]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=2e-2, atol=0)


def test_tangents_follow_u():
    """On a flat mesh P(u, v) is affine; its derivative by u solves the sides of one triangle."""
    points = torch.tensor([[0.0, 0, 0], [2, 0, 1], [2, 1, 1], [0, 1, 0]])
    mesh = Mesh(points, FACES[:2])
    mesh.unwrap_uv({"max_iterations": 2}, {"padding": 1})
    texture, corners = mesh.v_tex[mesh.t_tex_idx[0]], mesh.v_pos[mesh.t_pos_idx[0]]
    along_u = torch.linalg.solve(texture[1:] - texture[:1], corners[1:] - corners[:1])[0]
    expected = F.normalize(along_u, dim=0).expand(4, 3)
    torch.testing.assert_close(mesh.v_tng, expected, atol=1e-4, rtol=0)
    assert (mesh.v_tng * mesh.v_nrm).sum(-1).abs().max() < 1e-5


def test_unknown_options_are_answered_with_close_ones():
    with pytest.raises(ConfigError, match="xatlas_pack_options` has no option `paddin`. Did you"):
        tetrahedron().unwrap_uv(pack_options={"paddin": 1})


@pytest.mark.parametrize(
    ("module", "use", "package"),
    [
        ("xatlas", lambda mesh: mesh.v_tex, "xatlas"),
        ("scipy.sparse.csgraph", lambda mesh: mesh.remove_outlier(1), "scipy"),
    ],
)
def test_a_missing_package_is_named_with_the_install_line(monkeypatch, module, use, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        use(tetrahedron())
