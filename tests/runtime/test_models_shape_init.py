"""The shape that a signed distance starts as: trained, stored, or taken from a mesh file."""

import copy
import math

import pytest
import torch

from tests.runtime.distances import (
    SPHERE,
    ball_volume,
    sdf,
    tets,
)
from threestudio.models.geometry import shape_init
from threestudio.models.geometry.mesh_distance import MeshDistance, read_mesh
from threestudio.utils.errors import UserError


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(shape_init, "NUM_STEPS", 5)
    monkeypatch.setattr(shape_init, "NUM_POINTS", 100)


@pytest.fixture
def box_file(tmp_path):
    """A box of 1 x 2 x 4, off its origin, as an OBJ with its seams cut."""
    import trimesh

    box = trimesh.creation.box((1.0, 2.0, 4.0))
    box.apply_translation((5.0, 6.0, 7.0))
    box.unmerge_vertices()
    path = tmp_path / "box.obj"
    box.export(path)
    return str(path)


def test_a_distance_is_trained_to_its_initial_shape(few_steps, monkeypatch):
    monkeypatch.setattr(shape_init, "NUM_STEPS", 150)
    monkeypatch.setattr(shape_init, "LEARNING_RATE", 2e-2)
    waves = {"otype": "ProgressiveBandFrequency", "n_frequencies": 3}
    made = sdf(pos_encoding_config=waves, **SPHERE)
    points = torch.rand(200, 3) * 2 - 1
    target = points.norm(dim=-1, keepdim=True) - 0.5
    before = (made.forward_sdf(points) - target).abs().mean()
    features = {k: v.clone() for k, v in made.feature_network.state_dict().items()}
    with torch.no_grad():  # a system may ask inside of a validation
        made.initialize_shape()
    after = (made.forward_sdf(points) - target).abs().mean()
    assert after < 0.1 and after < 0.2 * before
    assert all(torch.equal(v, features[k]) for k, v in made.feature_network.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_the_initial_shape_depends_on_the_seed_alone(few_steps):
    first, second = sdf(**SPHERE), sdf(**SPHERE)
    first.initialize_shape()
    torch.rand(3)
    second.initialize_shape()
    state = copy.deepcopy(first.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in second.state_dict().items())
    first.initialize_shape()  # the second time does nothing
    assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "load", "starts"),
    [
        ({}, False, False),
        (SPHERE, False, True),
        (SPHERE, True, False),
        ({**SPHERE, "force_shape_init": True}, True, True),
    ],
)
@pytest.mark.parametrize("build", [sdf, tets])
def test_loaded_weights_are_the_shape_to_start_from(few_steps, build, settings, load, starts):
    made = build(**settings)
    if load:
        system = torch.nn.ModuleDict({"geometry": made, "other": torch.nn.Linear(1, 1)})
        system.load_state_dict({"geometry.bbox": made.bbox.clone()}, strict=False)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    made.initialize_shape()
    assert any(not torch.equal(v, before[k]) for k, v in made.state_dict().items()) == starts


def test_weights_of_another_part_do_not_count(few_steps):
    made = tets(**SPHERE)
    system = torch.nn.ModuleDict({"geometry": made, "other": torch.nn.Linear(1, 1)})
    system.load_state_dict({"other.bias": torch.zeros(1)}, strict=False)
    made.initialize_shape()
    assert made.sdf.min() < 0


def box_distance(points, half):
    """The distance to a box of half edges `half` (closed form)."""
    outside = points.abs() - half
    return outside.clamp_min(0).norm(dim=-1) + outside.amax(dim=-1).clamp_max(0)


@pytest.mark.parametrize(
    ("up", "front", "half"),
    [
        ("+z", "+x", [0.2, 0.4, 0.8]),
        ("+y", "+z", [0.8, 0.2, 0.4]),
        ("-x", "+y", [0.4, 0.8, 0.2]),
    ],
)
def test_the_distance_to_a_mesh_file(box_file, up, front, half):
    """1 x 2 x 4 becomes 0.4 x 0.8 x 1.6: the longest half edge is 0.8.

    The nearest triangle is missed only where another one is about as near.
    """
    distance = MeshDistance(read_mesh(box_file, 0.8, up, front))
    torch.manual_seed(0)
    points = torch.rand(3000, 3) * 2 - 1
    error = (distance(points)[:, 0] - box_distance(points, torch.tensor(half))).abs()
    assert error.max() < 5e-3 and error.quantile(0.99) < 1e-5


def test_the_sign_is_right_beside_sharp_edges(tmp_path):
    """A thin wedge: beyond its edge the nearest triangle alone would mistake the side."""
    import trimesh

    wedge = trimesh.convex.convex_hull(
        [[0, y, 0] for y in (-1, 1)] + [[1, y, z] for y in (-1, 1) for z in (-0.1, 0.1)]
    )
    distance = MeshDistance(wedge)
    torch.manual_seed(0)
    points = (torch.rand(2000, 3) - 0.5) * torch.tensor([0.6, 1.6, 0.6])
    heights = torch.from_numpy(points.numpy() @ wedge.face_normals.T)
    inside = (
        heights < torch.from_numpy((wedge.face_normals * wedge.triangles_center).sum(-1))
    ).all(-1)
    assert torch.equal(distance(points)[:, 0] < 0, inside)


def test_a_front_of_a_mesh_becomes_x(tmp_path):
    """A pyramid whose tip points to -y in the file: with front -y it points to +x."""
    import trimesh

    tip = [[-1.0, 1, -1], [1, 1, -1], [1, 1, 1], [-1, 1, 1], [0, -3, 0]]
    faces = [[0, 1, 2], [0, 2, 3], [1, 0, 4], [2, 1, 4], [3, 2, 4], [0, 3, 4]]
    path = str(tmp_path / "pyramid.ply")
    trimesh.Trimesh(tip, faces).export(path)
    mesh = read_mesh(path, 1.0, "+z", "-y")
    assert mesh.vertices[mesh.vertices[:, 0].argmax()].tolist() == pytest.approx([1, 0, 0])


def test_an_open_or_broken_mesh_is_reported(tmp_path, monkeypatch):
    import trimesh

    seen, path = [], str(tmp_path / "open.ply")
    monkeypatch.setattr("threestudio.models.geometry.mesh_distance.warn", seen.append)
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]], [[0, 1, 2]]).export(path)
    read_mesh(path, 1.0, "+z", "+x")
    assert "is not closed" in seen[0]
    broken = tmp_path / "broken"
    for suffix, message in ((".obj", "has no triangles"), (".ply", "cannot be read")):
        broken.with_suffix(suffix).write_text("nothing")
        with pytest.raises(UserError, match=message):
            read_mesh(str(broken.with_suffix(suffix)), 1.0, "+z", "+x")


def test_a_grid_starts_from_a_shape():
    made = tets(shape_init="sphere", shape_init_params=1.0, radius=2.0)
    with pytest.raises(UserError, match="Set `system.geometry.shape_init`"):
        made.isosurface()
    made.initialize_shape()
    mesh = made.isosurface()
    assert ball_volume(mesh) == pytest.approx(4 / 3 * math.pi, rel=0.1)
    assert torch.equal(mesh.bbox, made.bbox) and mesh.requires_grad
    gradients = torch.autograd.grad(mesh.v_pos.square().sum(), (made.sdf, made.deformation))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_a_grid_can_start_from_a_mesh(box_file):
    made = tets(shape_init=f"mesh:{box_file}", shape_init_params=0.8)
    made.initialize_shape()
    assert ball_volume(made.isosurface()) == pytest.approx(0.4 * 0.8 * 1.6, rel=0.15)
