"""Volumes: interpolation, biases, normals, conversions, settings."""

import pytest
import torch
import torch.nn.functional as F

from threestudio.models.geometry.base import BaseGeometry, blob_bias, contract_to_unisphere
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.geometry.volume_grid import VolumeGrid, trilinear
from threestudio.utils.errors import ConfigError

PLANES = {"otype": "TriPlane", "resolution": 8, "n_features": 4}
KPLANES = {"otype": "KPlanes", "resolutions": [4, 8], "n_features": 2}
HASH = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4}
MLP = {"otype": "VanillaMLP", "activation": "ReLU", "n_neurons": 8, "n_hidden_layers": 1}


def grid(**settings):
    torch.manual_seed(0)
    made = VolumeGrid({"grid_size": [5, 6, 7], **settings})
    torch.nn.init.normal_(made.grid)
    return made


def implicit(encoding=HASH, **settings):
    torch.manual_seed(0)
    made = ImplicitVolume({"pos_encoding_config": encoding, "mlp_network_config": MLP, **settings})
    for parameter in made.encoding.parameters():
        torch.nn.init.normal_(parameter)
    return made


def test_contraction_maps_the_box_and_all_of_space():
    box = torch.tensor([[-2.0] * 3, [2.0] * 3])
    points = torch.tensor([[-2.0, 0.0, 2.0], [4.0, 0.0, 0.0], [1e9, 0.0, 0.0]])
    bounded = contract_to_unisphere(points, box)
    torch.testing.assert_close(bounded[0], torch.tensor([0.0, 0.5, 1.0]))
    everywhere = contract_to_unisphere(points, box, unbounded=True)
    torch.testing.assert_close(everywhere[0], torch.tensor([0.25, 0.5, 0.75]))
    # twice the box's half edge: (2 - 1/2) / 4 + 1/2
    torch.testing.assert_close(everywhere[1:, 0], torch.tensor([0.875, 1.0]))


def test_blobs_by_hand():
    """At distance 1, scale 4, std 0.5: magic3d 4 (1 - 2) = -4, dreamfusion 4 exp(-2) = 0.5413."""
    point = torch.tensor([[0.0, 0.6, 0.8]])
    assert blob_bias(point, "blob", 4.0, 0.5).item() == pytest.approx(-4.0)
    assert blob_bias(point, "blob_magic3d", 4.0, 0.5).item() == pytest.approx(-4.0)
    dreamfusion = blob_bias(point, "blob_dreamfusion", 4.0, 0.5).item()
    assert dreamfusion == pytest.approx(0.5413, abs=1e-4)
    assert blob_bias(point, -1.5, 4.0, 0.5) == -1.5


def test_a_grid_returns_its_values_at_cell_centres():
    """Cell (z, y, x) of a (5, 6, 7) grid stands at ((x + 1/2) * 2/7 - 1, ...)."""
    made = grid(density_bias=0.25, density_activation="none")
    with torch.no_grad():
        made.density_scale.fill_(0.5)
    z, y, x = 1, 4, 2
    point = torch.tensor([[(x + 0.5) / 7, (y + 0.5) / 6, (z + 0.5) / 5]]) * 2 - 1
    out = made(point)
    cell = made.grid[0, :, z, y, x]
    torch.testing.assert_close(out["density"][0, 0], (cell[0] + 0.25) * torch.tensor(0.5).exp())
    torch.testing.assert_close(out["features"][0], cell[1:])
    torch.testing.assert_close(made.forward_density(point), out["density"])
    torch.testing.assert_close(made.export(point)["features"], out["features"])


def test_the_differentiable_interpolation_equals_grid_sample():
    values, points = torch.randn(2, 4, 5, 6), torch.rand(200, 3) * 2.6 - 1.3
    expected = F.grid_sample(values[None], points[None, None, None], align_corners=False)
    torch.testing.assert_close(trilinear(values, points), expected[0, :, 0, 0].T)


@pytest.mark.parametrize("build", [grid, implicit])
@pytest.mark.parametrize("kind", ["finite_difference", "analytic"])
def test_normals_point_out_of_the_matter(build, kind):
    """The blob alone has the normal x / |x|; its density must not be flat, so it is linear here."""
    made = build(normal_type=kind, density_activation="none", density_bias="blob_magic3d")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    points = torch.rand(20, 3) - 0.5
    out = made(points, output_normal=True)
    # a difference over eps bends the normal by about eps / |x|
    torch.testing.assert_close(out["normal"], F.normalize(points, dim=-1), atol=0.15, rtol=0)
    assert out["shading_normal"] is out["normal"]
    assert "normal" not in made(points)


@pytest.mark.parametrize("build", [grid, implicit])
def test_analytic_normals_agree_with_differences_and_can_be_trained(build):
    # with an exact middle: a cell border would make the two differ
    points = torch.tensor([[0.11, -0.23, 0.31], [-0.4, 0.2, 0.05], [0.3, 0.3, -0.2]])
    settings = {"density_activation": "softplus", "density_bias": 0.0}
    exact = build(normal_type="analytic", **settings)
    close = build(normal_type="finite_difference", **settings)
    if build is implicit:
        close.cfg.finite_difference_normal_eps = 1e-3
    normal = exact(points, output_normal=True)["normal"]
    torch.testing.assert_close(
        normal, close(points, output_normal=True)["normal"], atol=2e-2, rtol=0
    )
    (normal * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    parameter = exact.grid if build is grid else next(exact.encoding.parameters())
    assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["pred", "finite_difference_laplacian"])
def test_the_other_normals_have_unit_length(kind):
    normal = implicit(normal_type=kind)(torch.rand(6, 3) - 0.5, output_normal=True)["normal"]
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(6))


@pytest.mark.parametrize("encoding", [HASH, PLANES, KPLANES])
def test_implicit_volumes_give_density_and_features_with_gradients(encoding):
    made = implicit(encoding, n_feature_dims=5, normal_type=None)
    points = torch.rand(2, 9, 3) * 2 - 1
    out = made(points, output_normal=True)
    assert out["density"].shape == (2, 9, 1) and out["features"].shape == (2, 9, 5)
    assert (out["density"] >= 0).all() and "normal" not in out
    torch.testing.assert_close(made.forward_density(points), out["density"])
    torch.testing.assert_close(made.export(points)["features"], out["features"])
    (out["density"].sum() + out["features"].square().sum()).backward()
    assert all(p.grad.abs().max() > 0 for p in made.parameters())


def test_without_features_there_are_none():
    assert "features" not in grid(n_feature_dims=0)(torch.zeros(1, 3))
    assert implicit(n_feature_dims=0).export(torch.zeros(1, 3)) == {}


def test_the_width_of_the_blob_can_be_annealed():
    plan = {"min_anneal_step": 10, "max_anneal_step": 30, "start_val": 0.2, "end_val": 0.6}
    made = implicit(anneal_density_blob_std_config=plan)
    point = torch.tensor([[0.5, 0.0, 0.0]])
    before = made.forward_density(point)
    seen = []
    for step in (0, 20, 99):
        made.update_step(0, step)
        seen.append(made.density_blob_std)
    assert seen == pytest.approx([0.2, 0.4, 0.6])
    assert made.forward_density(point) > before


def test_the_level_set_is_negative_inside():
    made = grid(density_bias="blob", density_blob_scale=50.0)
    field, deformation = made.forward_field(torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9]]))
    level = made.forward_level(field, 5.0)
    assert level[0] < 0 < level[1] and deformation is None


def test_an_implicit_volume_can_be_copied():
    first = implicit()
    torch.manual_seed(1)
    cfg = {"pos_encoding_config": HASH, "mlp_network_config": MLP}
    copy, points = ImplicitVolume.create_from(first, cfg), torch.rand(5, 3)
    assert torch.equal(copy(points)["features"], first(points)["features"])
    partial = ImplicitVolume.create_from(first, cfg, copy_net=False)
    assert torch.equal(partial.forward_density(points), first.forward_density(points))
    assert not torch.equal(partial(points)["features"], first(points)["features"])
    with pytest.raises(TypeError, match="from a VolumeGrid; only from another implicit-volume"):
        ImplicitVolume.create_from(grid(), cfg)
    with pytest.raises(TypeError, match="cannot be created from another one"):
        VolumeGrid.create_from(first, {})
    assert BaseGeometry.export(first) == {}


def test_state_has_upstreams_keys():
    assert sorted(grid().state_dict()) == ["bbox", "density_scale", "grid"]
    assert sorted(implicit().state_dict()) == [
        "bbox",
        "density_network.layers.0.weight",
        "density_network.layers.2.weight",
        "encoding.encoding.encoding.params",
        "feature_network.layers.0.weight",
        "feature_network.layers.2.weight",
    ]


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (grid, {"grid_size": [4, 4]}, "three positive ints, for example"),
        (grid, {"grid_size": [4, 0, 4]}, "three positive ints"),
        (grid, {"density_bias": "blop"}, "'blop'; it must be a number or one of blob"),
        (grid, {"normal_type": "pred"}, "'pred'; it must be null or one of finite_difference"),
        (implicit, {"density_bias": "blob"}, "'blob'; it must be a number or one of blob_magic3d"),
        (
            implicit,
            {"encoding": {"otype": "HashGird"}},
            "pos_encoding_config.otype` is 'HashGird'; available: .*TriPlane",
        ),
        (
            implicit,
            {"encoding": PLANES, "normal_type": "analytic"},
            "TriPlane does not have. Set `system.geometry.normal_type` to finite_difference",
        ),
    ],
)
def test_faulty_settings_are_answered_with_the_fix(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)
