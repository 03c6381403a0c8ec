"""Rotations, covariances, harmonics against scipy and closed forms; tiles against brute force."""

import importlib
import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from tests.gaussians.scenes import cloud, projection, views

covariance = importlib.import_module("threestudio-3dgs.covariance")
harmonics = importlib.import_module("threestudio-3dgs.spherical_harmonics")
tiles = importlib.import_module("threestudio-3dgs.tiles")


def directions(count=50):
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return v / v.norm(dim=1, keepdim=True)


def test_rotations_are_those_of_scipy_whatever_the_length():
    quaternions = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double() * 3
    expected = Rotation.from_quat(quaternions.numpy(), scalar_first=True).as_matrix()
    torch.testing.assert_close(
        covariance.rotation_matrices(quaternions), torch.from_numpy(expected)
    )


def test_covariances_are_positive_with_the_scales_as_their_spectrum():
    gaussians = cloud(20)
    found = covariance.covariances(gaussians.scales, gaussians.rotations)
    spectrum = torch.linalg.eigvalsh(found)
    torch.testing.assert_close(spectrum, gaussians.scales.sort(dim=1).values ** 2)


def test_colours_are_sums_of_scipys_harmonics():
    """One coefficient at a time: the sign and place of each is that of 3DGS files."""
    seen = directions()
    polar, azimuth = seen[:, 2].acos(), torch.atan2(seen[:, 1], seen[:, 0])
    for band in range(4):
        for m in range(-band, band + 1):
            coefficients = torch.zeros(50, 16, 3).double()
            coefficients[:, band * (band + 1) + m] = 0.1
            complex_value = torch.from_numpy(sph_harm_y(band, abs(m), polar, azimuth))
            part = complex_value.imag if m < 0 else complex_value.real
            expected = 0.5 + 0.1 * part * (math.sqrt(2) if m else 1)
            found = harmonics.colors(coefficients, 3 * seen)
            torch.testing.assert_close(found, expected[:, None].expand(-1, 3))


def test_bands_zero_and_one_in_closed_form():
    """The first four: 1 / (2 sqrt(pi)), and sqrt(3 / (4 pi)) times -y, z, -x."""
    (x, y, z), c = directions(1)[0].tolist(), math.sqrt(3 / (4 * math.pi))
    expected = [0.5 / math.sqrt(math.pi), -c * y, c * z, -c * x]
    for place, value in enumerate(expected):
        coefficients = torch.zeros(1, 4, 3).double()
        coefficients[0, place] = 0.2
        found = harmonics.colors(coefficients, torch.tensor([[x, y, z]]).double())
        torch.testing.assert_close(found[0, 0].item(), 0.5 + 0.2 * value, rtol=1e-6, atol=0)


def test_a_colour_survives_as_a_coefficient_and_dark_ones_are_black():
    rgb = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)).double()
    coefficients = harmonics.rgb_to_harmonics(rgb)
    torch.testing.assert_close(harmonics.harmonics_to_rgb(coefficients), rgb)
    torch.testing.assert_close(harmonics.colors(coefficients[:, None], directions(10)), rgb)
    assert (harmonics.colors(coefficients[:, None] - 9, directions(10)) == 0).all()


@pytest.mark.parametrize("size", [(0.01, 0.1), (0.01, 1.5)])
def test_lists_hold_what_a_tile_shows_and_hardly_more(size):
    """Of thin and of large ellipses: what exceeds 1 / 255 at a pixel of a tile is listed there."""
    gaussians, (_, _, cameras) = cloud(80, size=size), views(21, 30)
    splats = projection.project(gaussians, cameras, 0.1, 100.0, torch.zeros(2, 80, 2).double())
    grid = tiles.TileGrid(2, 21, 30)
    lists = tiles.tile_lists(splats, grid)
    listed = torch.zeros(grid.count, len(splats.view), dtype=torch.bool)
    for tile in range(grid.count):
        begin = int(lists.start[tile])
        row = lists.splat[begin : begin + int(lists.count[tile])]
        assert (splats.depth[row].diff() >= 0).all()
        listed[tile, row] = True
    needed = shown_by(splats, grid)
    assert listed[needed].all()
    assert listed.sum() <= 1.05 * needed.sum()


def shown_by(splats, grid):
    """Evaluate every splat at every pixel of the tiles of its picture."""
    place = torch.arange(tiles.TILE).double() - 0.5 * (tiles.TILE - 1)
    y, x = torch.meshgrid(place, place, indexing="ij")
    center = grid.centers(torch.arange(grid.count)).double()
    offset = torch.stack([x, y], dim=-1).flatten(0, 1) + center[:, None]
    offset = offset[:, None] - splats.mean[:, None]
    xx, xy, yy = splats.conic[..., None].unbind(1)
    dx, dy = offset.unbind(-1)
    squared = xx * dx**2 + 2 * xy * dx * dy + yy * dy**2
    alpha = (splats.log_opacity[:, None] - 0.5 * squared).exp().amax(dim=-1)
    view = torch.arange(grid.count) // (grid.rows * grid.columns)
    return (alpha > projection.ALPHA_MIN) & (view[:, None] == splats.view)


def test_tiles_become_pictures_without_what_is_beyond_the_border():
    """A pixel's value is its place: tile by tile in, row by row out."""
    grid = tiles.TileGrid(2, 11, 18)
    assert (grid.rows, grid.columns, grid.count) == (2, 3, 12)
    half = tiles.TILE // 2
    centers = grid.centers(torch.arange(grid.count))
    place = torch.arange(tiles.TILE) - half
    x = centers[:, 0, None, None] + place + 0 * place[:, None]
    y = centers[:, 1, None, None] + place[:, None] + 0 * place
    image = grid.assemble(torch.stack([x, y], dim=-1).flatten(1, 2).float())
    assert image.shape == (2, 11, 18, 2)
    assert torch.equal(image[1, :, 5, 1], torch.arange(11).float())
    assert torch.equal(image[0, 3, :, 0], torch.arange(18).float())
