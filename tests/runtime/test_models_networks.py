"""Encodings and networks against plain loops and closed forms."""

import math
import re

import pytest
import torch

from threestudio.models.networks import (
    ENCODINGS,
    NETWORKS,
    HashGrid,
    ProgressiveBandFrequency,
    ProgressiveBandHashGrid,
    ToDTypeWrapper,
    block_faults,
    create_network_with_input_encoding,
    get_encoding,
    get_mlp,
)
from threestudio.models.networks.build import open_config
from threestudio.models.networks.frequency import spherical_harmonics
from threestudio.models.networks.hash_grid import WeightedGather
from threestudio.utils.errors import ConfigError

MLP = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 2}
GRID = {
    "otype": "HashGrid",
    "n_levels": 3,
    "n_features_per_level": 2,
    "log2_hashmap_size": 6,
    "base_resolution": 3,
    "per_level_scale": 1.7,
}


def hash_grid_by_loop(grid, x):
    """tiny-cuda-nn's encoding, one corner at a time."""
    rows, start = [], 0
    for level, scale in enumerate(grid.scales):
        side, size = math.ceil(scale) + 1, grid.sizes[level]
        table = grid.params[start : start + size * 2].view(size, 2)
        start += size * 2
        position = [v * scale + 0.5 for v in x]
        total = torch.zeros(2)
        for corner in range(8):
            weight, cell = 1.0, []
            for d in range(3):
                low, up = math.floor(position[d]), corner >> d & 1
                weight *= position[d] - low if up else 1 - (position[d] - low)
                cell.append(low + up)
            if side**3 <= size:
                index = cell[0] + cell[1] * side + cell[2] * side * side
            else:
                index = cell[0] ^ (cell[1] * 2654435761) ^ (cell[2] * 805459861)
            total = total + weight * table[index % size]
        rows.append(total)
    return torch.cat(rows)


def test_the_hash_grid_equals_the_plain_loop_on_dense_and_hashed_levels():
    torch.manual_seed(0)
    grid = HashGrid(3, open_config(GRID))
    torch.nn.init.normal_(grid.params)
    assert grid.resolutions == [3, 6, 9] and grid.sizes == [32, 64, 64]
    points = torch.rand(20, 3)
    expected = torch.stack([hash_grid_by_loop(grid, x.tolist()) for x in points])
    torch.testing.assert_close(grid(points), expected, atol=1e-5, rtol=1e-5)


def test_the_default_hash_grid_has_the_published_size():
    """Instant-NGP's 16 levels with tables of 2^19 entries: 6,299,960 entries of two features."""
    config = {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }
    grid = HashGrid(3, open_config(config))
    assert grid.params.numel() == 12_599_920
    assert grid.resolutions[:4] == [16, 24, 34, 49] and grid.resolutions[-1] == 4096


def test_the_gather_has_first_and_second_derivatives():
    torch.manual_seed(0)
    table = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (4, 3))

    def gather(t, w):
        return WeightedGather.apply(t, index, w)

    assert torch.autograd.gradcheck(gather, (table, weights))
    assert torch.autograd.gradgradcheck(gather, (table, weights))


def test_progressive_levels_open_on_time():
    settings = {**GRID, "start_level": 1, "start_step": 10, "update_steps": 5}
    grid = ProgressiveBandHashGrid(3, open_config(settings))
    torch.nn.init.ones_(grid.encoding.params)
    opened = []
    for step in (0, 14, 15, 20, 99):
        grid.update_step(0, step)
        opened.append(int(grid(torch.rand(1, 3)).count_nonzero()))
    assert opened == [2, 2, 4, 6, 6]


def test_spherical_harmonics_by_hand():
    """Bands 0 to 2 for a direction (x, y, z), with the Condon-Shortley phase."""
    v = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8], [-0.6, 0.1, -0.2]]), dim=-1)
    x, y, z = v.unbind(-1)
    one, two = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = [
        torch.full_like(x, math.sqrt(1 / (4 * math.pi))),
        -one * y,
        one * z,
        -one * x,
        two * x * y,
        -two * y * z,
        math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1),
        -two * x * z,
        0.5 * two * (x * x - y * y),
    ]
    torch.testing.assert_close(spherical_harmonics(v, 3), torch.stack(expected, -1))


def test_spherical_harmonics_are_orthonormal():
    """Midpoint rule over the sphere, uniform in z and azimuth."""
    z = (torch.arange(60) + 0.5) / 30 - 1
    azimuth = (torch.arange(40) + 0.5) / 40 * 2 * math.pi
    z, azimuth = torch.meshgrid(z, azimuth, indexing="ij")
    ring = (1 - z * z).sqrt()
    v = torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), z], dim=-1).reshape(-1, 3)
    values = spherical_harmonics(v, 5)
    gram = values.T @ values * (4 * math.pi / len(v))
    torch.testing.assert_close(gram, torch.eye(25), atol=1e-2, rtol=0)


def test_encodings_take_directions_and_points_in_the_unit_cube():
    harmonics = get_encoding(3, {"otype": "SphericalHarmonics", "degree": 2})
    up = harmonics(torch.tensor([[0.5, 0.5, 1.0]]))
    torch.testing.assert_close(up[0, 2].item(), math.sqrt(3 / (4 * math.pi)))
    waves = get_encoding(2, {"otype": "Frequency", "n_frequencies": 2})
    expected = torch.tensor([[1.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(waves(torch.tensor([[0.5, 0.0]])), expected, atol=1e-6, rtol=0)
    both = get_encoding(3, {**GRID, "include_xyz": True})
    assert both.n_output_dims == 3 + 6
    found = both(torch.tensor([[[0.0, 0.5, 1.0]]]))
    torch.testing.assert_close(found[0, 0, :3], torch.tensor([-1.0, 0.0, 1.0]))


def test_frequency_bands_fade_in():
    encoding = ProgressiveBandFrequency(1, open_config({"n_frequencies": 2, "n_masking_step": 4}))
    for step, mask in ((0, [0.0, 0.0]), (1, [0.5, 0.0]), (2, [1.0, 0.0]), (4, [1.0, 1.0])):
        encoding.update_step(0, step)
        torch.testing.assert_close(encoding.mask, torch.tensor(mask))
    x = torch.tensor([[0.7]])
    expected = torch.tensor([0.7, 0.7, 1.4, 1.4])
    expected = torch.stack(
        [f(e) for f, e in zip([torch.sin, torch.cos] * 2, expected, strict=True)]
    )
    torch.testing.assert_close(encoding(x)[0], expected)


def test_planes_interpolate_their_corners():
    """At the corner (0, 0, 0) every plane returns its first texel."""
    tri = get_encoding(3, {"otype": "TriPlane", "resolution": 4, "n_features": 2})
    planes = tri.encoding.params
    corner = torch.zeros(1, 3)
    torch.testing.assert_close(tri(corner)[0], planes[:, :, 0, 0].sum(dim=0))
    x_end = torch.tensor([[1.0, 0.0, 0.0]])
    expected = planes[0, :, 0, 3] + planes[1, :, 0, 3] + planes[2, :, 0, 0]
    torch.testing.assert_close(tri(x_end)[0], expected)
    kp = get_encoding(3, {"otype": "KPlanes", "resolutions": [2, 3], "n_features": 2})
    products = [p[:, :, 0, 0].prod(dim=0) for p in kp.encoding.params]
    torch.testing.assert_close(kp(corner)[0], torch.cat(products))


def test_networks_have_no_bias_and_upstreams_names():
    network = get_mlp(4, 3, MLP)
    assert list(network.state_dict()) == [f"layers.{i}.weight" for i in (0, 2, 4)]
    assert network(torch.zeros(2, 4)).abs().max() == 0
    fused = get_mlp(4, 3, {**MLP, "otype": "FullyFusedMLP", "output_activation": "sigmoid"})
    torch.testing.assert_close(fused(torch.zeros(2, 4)), torch.full((2, 3), 0.5))


def test_networks_compute_in_float32_under_autocast():
    network = get_mlp(4, 3, MLP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_sphere_network_starts_as_a_distance_to_a_sphere():
    torch.manual_seed(0)
    config = {**MLP, "otype": "SphereInitVanillaMLP", "n_neurons": 256, "sphere_init_radius": 0.5}
    points = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    network = get_mlp(3, 1, config)
    assert network(points * 0.1).mean() < 0 < network(points).mean()
    turned = get_mlp(3, 1, {**config, "inside_out": True})
    assert turned(points * 0.1).mean() > 0 > turned(points).mean()


def test_a_network_on_an_encoding():
    network = create_network_with_input_encoding(3, 2, GRID, MLP)
    assert network(torch.rand(5, 4, 3)).shape == (5, 4, 2)
    assert ToDTypeWrapper(network, torch.float64)(torch.rand(5, 3)).dtype == torch.float64


def test_unknown_types_are_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="'HashGird'; available: Frequency, HashGrid, KPlanes"):
        get_encoding(3, {"otype": "HashGird"})
    with pytest.raises(ConfigError, match="None; available: CutlassMLP"):
        get_mlp(3, 3, {})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"otype": "HashGrid", "n_levls": 4}, "k.n_levls is not a known key.*`n_levels`"),
        ({"otype": "HashGrid", "n_levels": "four"}, "k.n_levels is 'four', but needs a whole"),
        ({"otype": "HashGrid", "n_levels": 0}, "`k.n_levels` is 0; it must be at least 1"),
        ({"otype": "HashGrid", "per_level_scale": float("nan")}, "per_level_scale` is nan"),
        ({"otype": "HashGrid", "backend": "c"}, "`k.backend` is 'c'; it must be auto or torch"),
        ({"otype": "ProgressiveBandHashGrid", "start_level": 1}, "k needs `start_step`"),
        ({"otype": "KPlanes", "resolutions": []}, "resolutions` needs whole numbers"),
        ({"otype": "TriPlane", "resolution": 0}, "`k.resolution` is 0"),
        ({"otype": "SphericalHarmonics", "degree": 0}, "`k.degree` is 0"),
        ({"otype": "Frequency", "n_frequencies": 0}, "`k.n_frequencies` is 0"),
        ({"otype": ["HashGrid"]}, r"k.otype` is \['HashGrid'\]; available"),
        ({"otype": "HashGrid", "include_xyz": 1}, "include_xyz` is 1; it must be true or false"),
    ],
)
def test_what_is_wrong_with_an_encoding_is_found_before_it_is_built(block, message):
    (fault,) = [f for f in block_faults("k", block, ENCODINGS) if re.search(message, f)]
    assert fault


def test_a_network_names_what_it_needs_and_what_it_does_not_know():
    block = {"otype": "VanillaMLP", "n_neurons": 8, "output_activation": "softplux"}
    assert block_faults("k", block, NETWORKS) == ["k needs `n_hidden_layers`."]
    faults = block_faults("k", {**block, "n_hidden_layers": 1}, NETWORKS)
    assert len(faults) == 1 and "`k.output_activation`: Unknown activation 'softplux'" in faults[0]
    with pytest.raises(ConfigError, match="n_neurons` is 0"):
        get_mlp(3, 1, {"otype": "VanillaMLP", "n_neurons": 0, "n_hidden_layers": 1})
