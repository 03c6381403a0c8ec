"""Signed distances: closed forms, normals, the tetrahedral grid, conversions."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.runtime.distances import BANDS, MLP, NETWORKS, SPHERE, ball_volume, biased, sdf, tets
from threestudio.models.geometry.base import BaseExplicitGeometry
from threestudio.models.geometry.implicit_sdf import ImplicitSDF
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from threestudio.models.geometry.volume_grid import VolumeGrid
from threestudio.utils.errors import ConfigError, UserError


@pytest.mark.parametrize(
    ("bias", "params", "expected"),
    [
        (0.25, None, lambda x: torch.full_like(x[:, :1], 0.25)),
        ("sphere", 0.5, lambda x: x.norm(dim=-1, keepdim=True) - 0.5),
        (
            "ellipsoid",
            [0.5, 0.25, 1.0],
            lambda x: (x / torch.tensor([0.5, 0.25, 1.0])).norm(dim=-1, keepdim=True) - 1,
        ),
    ],
)
def test_the_bias_is_added_to_the_network(bias, params, expected):
    points = torch.rand(20, 3) - 0.5
    plain, shifted = sdf(), sdf(sdf_bias=bias, sdf_bias_params=params)
    difference = shifted(points)["sdf"] - plain(points)["sdf"]
    torch.testing.assert_close(difference, expected(points))


@pytest.mark.parametrize("kind", ["finite_difference", "finite_difference_laplacian", "analytic"])
def test_normals_of_a_sphere_point_outwards(kind):
    points = F.normalize(torch.randn(20, 3), dim=-1) * 0.6
    out = biased(normal_type=kind, finite_difference_normal_eps=1e-3)(points, output_normal=True)
    outwards = F.normalize(points, dim=-1)
    torch.testing.assert_close(out["normal"], outwards, atol=5e-3, rtol=0)
    torch.testing.assert_close(out["sdf_grad"], outwards, atol=5e-3, rtol=0)
    assert out["shading_normal"] is out["normal"]


def test_analytic_gradients_agree_with_differences_and_can_be_trained():
    points = torch.tensor([[0.11, -0.23, 0.31], [-0.4, 0.2, 0.05], [0.3, 0.3, -0.2]])
    exact, close = sdf(normal_type="analytic"), sdf(finite_difference_normal_eps=1e-4)
    gradient = exact(points, output_normal=True)["sdf_grad"]
    differences = close(points, output_normal=True)["sdf_grad"]
    torch.testing.assert_close(gradient, differences, atol=2e-2, rtol=2e-2)
    (gradient.norm(dim=-1) - 1).square().mean().backward()
    assert next(exact.encoding.parameters()).grad.abs().max() > 0


def test_outputs_and_gradients_of_the_networks():
    made = sdf(normal_type="pred", n_feature_dims=5, isosurface_deformable_grid=True)
    points = torch.rand(2, 7, 3) - 0.5
    out = made(points, output_normal=True)
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "sdf": (2, 7, 1),
        "features": (2, 7, 5),
        "sdf_grad": (2, 7, 3),
        "normal": (2, 7, 3),
        "shading_normal": (2, 7, 3),
    }
    torch.testing.assert_close(out["normal"].norm(dim=-1), torch.ones(2, 7))
    torch.testing.assert_close(made.forward_sdf(points), out["sdf"])
    torch.testing.assert_close(made.export(points)["features"], out["features"])
    field, deformation = made.forward_field(points)
    assert torch.equal(field, made.forward_sdf(points)) and deformation.shape == (2, 7, 3)
    torch.testing.assert_close(made.forward_level(field, 0.1), field - 0.1)
    (field.sum() + sum(v.sum() for v in out.values()) + deformation.sum()).backward()
    assert all(p.grad.abs().max() > 0 for p in made.parameters())
    assert "normal" not in made(points) and sdf(n_feature_dims=0).export(points) == {}


def test_progressive_differences_follow_the_open_levels():
    """Box of edge 4, base 4, growth 1.5: cells of 4 / 4, then 4 / 6 after 10 + 5 steps."""
    made = sdf(pos_encoding_config=BANDS, finite_difference_normal_eps="progressive", radius=2.0)
    seen = []
    for step in (0, 14, 15, 1000):
        made.do_update_step(0, step)
        seen.append(made.normal_eps)
    assert seen == pytest.approx([1.0, 1.0, 4 / 6, 4 / (4 * 1.5**3)])
    assert made(torch.zeros(1, 3), output_normal=True)["normal"].shape == (1, 3)


@pytest.mark.parametrize("deformable", [False, True])
def test_the_surface_of_a_distance(deformable):
    made = biased(isosurface_deformable_grid=deformable)
    mesh = made.isosurface()
    assert mesh.requires_grad and (mesh.grid_deformation is not None) == deformable
    if not deformable:
        assert (mesh.v_pos.norm(dim=-1) - 0.5).abs().max() < 0.02
    assert ball_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.05)


def test_a_fixed_grid_has_buffers_and_one_mesh():
    made = tets(fix_geometry=True, **SPHERE)
    made.initialize_shape()
    first = made.isosurface()
    assert made.isosurface() is first and not first.requires_grad
    assert {name for name, _ in made.named_parameters() if "network" not in name} == {
        "encoding.encoding.encoding.params"
    }
    free = tets()
    assert sorted(made.state_dict()) == sorted(free.state_dict())
    assert {"sdf", "deformation", "isosurface_bbox", "bbox"} <= set(made.state_dict())
    made.load_state_dict(made.state_dict() | {"sdf": made.sdf - 0.1})
    assert ball_volume(made.isosurface()) > 1.5 * ball_volume(first)
    assert "deformation" not in tets(isosurface_deformable_grid=False).state_dict()


def test_outliers_of_a_grid_are_left_out():
    made = tets(fix_geometry=True, isosurface_remove_outliers=True, **SPHERE)
    made.initialize_shape()
    clean = len(made.isosurface().t_pos_idx)
    corner = (made.isosurface_helper.grid_vertices - 0.06).norm(dim=-1).argmin()
    made.load_state_dict(made.state_dict() | {"sdf": made.sdf.index_fill(0, corner, -1.0)})
    made.cfg.isosurface_outlier_n_faces_threshold = 0.5
    assert len(made.isosurface().t_pos_idx) == clean


def test_a_grid_has_features_at_points():
    made, points = tets(n_feature_dims=5), torch.rand(4, 6, 3) - 0.5
    assert made(points)["features"].shape == (4, 6, 5)
    torch.testing.assert_close(made.export(points)["features"], made(points)["features"])
    bare = tets(geometry_only=True)
    assert bare(points) == {} and bare.export(points) == {} and not hasattr(bare, "encoding")
    with pytest.raises(ValueError, match="has no normals at points"):
        made(points, output_normal=True)


def test_a_distance_can_be_copied():
    first, points = sdf(isosurface_deformable_grid=True), torch.rand(5, 3)
    cfg = {**NETWORKS, "isosurface_deformable_grid": True, **SPHERE}
    made = ImplicitSDF.create_from(first, cfg)
    made.initialize_shape()  # the shape is the copied one
    for key, value in first(points).items():
        assert torch.equal(made(points)[key], value)
    assert torch.equal(made.forward_field(points)[1], first.forward_field(points)[1])
    fresh = ImplicitSDF.create_from(first, cfg, copy_net=False)
    assert torch.equal(fresh.forward_sdf(points), first.forward_sdf(points))
    assert not torch.equal(fresh(points)["features"], first(points)["features"])
    with pytest.raises(TypeError, match="implicit-sdf from a TetrahedraSDFGrid; only from another"):
        ImplicitSDF.create_from(tets(), cfg)
    other = {**cfg, "mlp_network_config": MLP | {"n_neurons": 4}}
    with pytest.raises(UserError, match="The sdf_network of the ImplicitSDF does not fit"):
        ImplicitSDF.create_from(first, other)


def test_a_grid_can_be_copied():
    first = tets(**SPHERE)
    first.initialize_shape()
    with torch.no_grad():
        first.deformation.normal_()
        first.isosurface_bbox.mul_(0.7)
    cfg = {**NETWORKS, "isosurface_resolution": 16, "fix_geometry": True}
    made = TetrahedraSDFGrid.create_from(first, cfg)
    assert torch.equal(made.isosurface().v_pos, first.isosurface().v_pos)
    points = torch.rand(5, 3)
    assert torch.equal(made(points)["features"], first(points)["features"])
    with pytest.raises(UserError, match="isosurface_resolution` to 16"):
        TetrahedraSDFGrid.create_from(first, {**cfg, "isosurface_resolution": 12})
    with pytest.raises(TypeError, match="from a BaseExplicitGeometry; only from another"):
        TetrahedraSDFGrid.create_from(BaseExplicitGeometry({}), cfg)


def volume(kind):
    """The blob 40 (1 - |x| / 0.5) is 20 at |x| = 0.25."""
    shape = {"grid_size": [6, 6, 6]} if kind is VolumeGrid else NETWORKS
    made = kind(
        {
            "density_activation": "none",
            "density_bias": "blob_magic3d",
            "density_blob_scale": 40.0,
            "isosurface_threshold": 20.0,
            "isosurface_method": "mc-cpu",
            **shape,
        }
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "feature" not in name:
                parameter.zero_()
    return made


@pytest.mark.parametrize("kind", [ImplicitVolume, VolumeGrid])
def test_a_grid_takes_the_surface_of_a_volume(monkeypatch, kind):
    """Whatever method and resolution the volume has for its own meshes."""
    seen = []
    monkeypatch.setattr("threestudio.models.geometry.tetrahedra_sdf_grid.warn", seen.append)
    source, points = volume(kind), torch.rand(5, 3)
    cfg = {**NETWORKS, "isosurface_resolution": 16, **SPHERE}
    made = TetrahedraSDFGrid.create_from(source, cfg)
    made.initialize_shape()  # the shape is the volume's
    mesh = made.isosurface()
    # half a cell: levels of -20 to 60 are clamped to [-1, 1], which bends them beside the surface
    assert (mesh.v_pos.norm(dim=-1) - 0.25).abs().max() < 0.03
    assert made.sdf.min() >= -1 and made.sdf.max() <= 1
    assert made.isosurface_bbox.abs().max() < 0.45
    assert source.cfg.isosurface_method == "mc-cpu"
    if kind is ImplicitVolume:
        assert torch.equal(made(points)["features"], source(points)["features"]) and not seen
    else:
        assert "The features start fresh: the networks of the VolumeGrid" in seen[0]


@pytest.mark.parametrize("deformable", [False, True])
def test_a_grid_takes_the_surface_of_a_distance(deformable):
    source = biased(isosurface_deformable_grid=deformable)
    cfg = {**NETWORKS, "isosurface_resolution": 16, "n_feature_dims": 3}
    made = TetrahedraSDFGrid.create_from(source, cfg, copy_net=False)
    points = made.isosurface_helper.grid_vertices
    low, high = made.isosurface_bbox
    world = low + points * (high - low)
    field, deformation = source.forward_field(world)
    torch.testing.assert_close(made.sdf.data, field.data, atol=1e-6, rtol=0)
    if deformable:
        torch.testing.assert_close(made.deformation.data, deformation.data, atol=1e-6, rtol=0)
    assert not torch.equal(made(world)["features"], source(world)["features"])


@pytest.mark.parametrize("build", [sdf, tets])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape_init": "cube"}, "'cube'; available: null, ellipsoid, sphere, mesh:<path>"),
        ({"shape_init": "sphere"}, "None, but `system.geometry.shape_init` sphere needs one"),
        ({"shape_init": "ellipsoid", "shape_init_params": 0.5}, "needs three positive half axes"),
        (
            {"shape_init": "mesh:no.obj", "shape_init_params": 0.5},
            "names the mesh 'no.obj', but there is no such file",
        ),
        ({**SPHERE, "shape_init_mesh_up": "z"}, r"'z'; available: \+x, \+y, \+z, -x"),
        ({**SPHERE, "shape_init_mesh_front": "-z"}, "are the same axis; set"),
        ({"mlp_network_config": {"otype": "MPL"}}, "mlp_network_config.otype` is 'MPL'"),
        ({"isosurface_resolution": 0}, "isosurface_resolution` is 0; it must be 2 or more"),
        ({"isosurface_outlier_n_faces_threshold": -1}, "is -1; it must be an int"),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normal_type": "predicted"}, "'predicted'; it must be null or one of pred"),
        (
            {"finite_difference_normal_eps": "progressive"},
            "progressive needs .* ProgressiveBandHashGrid, not 'HashGrid'",
        ),
        ({"finite_difference_normal_eps": 0}, "is 0; it must be a positive number or progressive"),
        ({"sdf_bias": "cube"}, "'cube'; it must be a number or one of ellipsoid, sphere"),
        ({"sdf_bias": "sphere"}, "sdf_bias_params` is None, but `system.geometry.sdf_bias` sphere"),
        (
            {"pos_encoding_config": {"otype": "TriPlane"}, "normal_type": "analytic"},
            "TriPlane does not have. Set",
        ),
        ({"isosurface_method": "mt-cpu"}, "'mt-cpu'; available: mt, mc-cpu"),
    ],
)
def test_faulty_distances_are_answered_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        sdf(**settings)


def test_a_missing_grid_file_is_named():
    with pytest.raises(ConfigError, match="isosurface_tets_path` is 'no.npz', but there is no"):
        tets(isosurface_tets_path="no.npz")


def test_state_has_upstreams_keys():
    assert sorted(sdf().state_dict()) == [
        "bbox",
        "encoding.encoding.encoding.params",
        "feature_network.layers.0.weight",
        "feature_network.layers.2.weight",
        "sdf_network.layers.0.weight",
        "sdf_network.layers.2.weight",
    ]
