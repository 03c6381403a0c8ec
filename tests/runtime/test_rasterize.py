"""The rasteriser against brute force, closed forms and finite differences."""

import importlib.machinery
import math
import sys
import types

import pytest
import torch
import trimesh

from threestudio.utils import antialias_torch, rasterize_torch
from threestudio.utils.errors import UserError
from threestudio.utils.rasterize import NVDiffRasterizerContext, TorchBackend

CONTEXT = NVDiffRasterizerContext("gl", "cpu")
QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


def flat(points, z=0.0):
    """Points of the picture, as clip-space positions [1 N 4] at one depth."""
    points = torch.as_tensor(points, dtype=torch.float64)
    return torch.cat([points, torch.tensor([z, 1.0]).expand(len(points), 2)], dim=1)[None].double()


def square(half=0.5, center=(0.0, 0.0), turn=0.0, z=0.0):
    corners = half * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    c, s = math.cos(turn), math.sin(turn)
    return flat(corners @ torch.tensor([[c, s], [-s, c]]) + torch.tensor(center), z)


def ball(subdivisions=3, radius=0.6):
    """A sphere five units in front of a camera with a focal length of 4, and its triangles."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices), torch.tensor(mesh.faces)


def project(points):
    near, far = 0.1, 100.0
    x, y, depth = points[:, 0], points[:, 1], points[:, 2] + 5.0
    z = depth * (far + near) / (far - near) - 2 * far * near / (far - near)
    return torch.stack([4 * x, 4 * y, z, depth], dim=-1)[None]


def random_triangles(count=40, views=2):
    """Clip-space triangles at all depths; a third of the corners is behind the camera."""
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(views * 3 * count, 3, generator=generator, dtype=torch.float64) * 4 - 2
    points[:, 2] = points[:, 2] * 1.5 - 4
    return project(points).view(views, 3 * count, 4), torch.arange(3 * count).view(count, 3)


def by_hand(pos, tri, height, width):
    """Solve for the point that each pixel shows of each triangle, one triangle after the other."""
    x, y = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (width, height))
    y, x = torch.meshgrid(y, x, indexing="ij")
    ray = torch.stack([x, y, torch.ones_like(x)], dim=-1)[..., None]
    out, nearest = torch.zeros(height, width, 4).double(), torch.full((height, width), 2.0).double()
    for number, corners in enumerate(pos[tri]):
        share = torch.linalg.solve(corners[:, [0, 1, 3]].T, ray)[..., 0]
        depth, front = share @ corners[:, 2], share.sum(-1)
        share = share / front[..., None]
        shown = (share >= 0).all(-1) & (front > 0) & (depth.abs() <= 1) & (depth < nearest)
        nearest = torch.where(shown, depth, nearest)
        name = torch.full_like(depth, number + 1)
        row = torch.stack([share[..., 0], share[..., 1], depth, name], dim=-1)
        out = torch.where(shown[..., None], row, out)
    return out


def opacity(pos, tri, size):
    rast, _ = CONTEXT.rasterize(pos, tri, size)
    return CONTEXT.antialias((rast[..., 3:] > 0).to(rast), rast, pos, tri)


def polygon_area(points):
    x, y = points.unbind(-1)
    return 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum().abs()


def test_coordinates_follow_nvdiffrasts_conventions():
    """Corners (-1, -1), (3, -1), (-1, 3): the second weighs (x + 1) / 4, the third (y + 1) / 4."""
    pos = flat([[-1.0, -1.0], [3.0, -1.0], [-1.0, 3.0]], z=0.25)
    rast, _ = CONTEXT.rasterize(pos, torch.tensor([[0, 1, 2]], dtype=torch.int32), (4, 8))
    v, third = ((2 * torch.arange(n) + 1).double() / n / 4 for n in (8, 4))
    torch.testing.assert_close(rast[0, ..., 1], v.expand(4, 8))
    torch.testing.assert_close(rast[0, ..., 0], 1 - v - third[:, None])
    assert (rast[..., 2] == 0.25).all() and (rast[..., 3] == 1).all()


def test_rasterisation_agrees_with_brute_force_across_the_camera_plane():
    pos, tri = random_triangles()
    assert ((pos[..., 3] < 0).double().mean() - 1 / 3).abs() < 0.1
    rast, _ = CONTEXT.rasterize(pos, tri, (13, 17))
    expected = torch.stack([by_hand(view, tri, 13, 17) for view in pos])
    assert len(expected[..., 3].unique()) > 10
    torch.testing.assert_close(rast, expected)
    single, _ = CONTEXT.rasterize_one(pos[1], tri, (13, 17))
    assert torch.equal(single, rast[1])


def test_small_chunks_give_the_same_picture(monkeypatch):
    pos, tri = random_triangles(20)
    whole = CONTEXT.rasterize(pos, tri, (9, 11))
    monkeypatch.setattr(rasterize_torch, "PAIRS_AT_ONCE", 61)
    for piece, expected in zip(CONTEXT.rasterize(pos, tri, (9, 11)), whole, strict=True):
        assert torch.equal(piece, expected)


@pytest.mark.parametrize("pairs", [10, 10_000])
def test_of_triangles_at_one_depth_the_first_is_shown(monkeypatch, pairs):
    monkeypatch.setattr(rasterize_torch, "PAIRS_AT_ONCE", pairs)
    same = torch.tensor([[2, 1, 0], [0, 1, 2], [1, 2, 0]])
    rast, _ = CONTEXT.rasterize(square(), same, (16, 16))
    assert rast[..., 3].unique().tolist() == [0, 1]


def test_nothing_is_drawn_of_degenerate_hidden_or_absent_triangles():
    pos = flat([[-0.9, -0.9], [0.9, 0.9], [0.0, 0.0], [0.9, -0.9]]).repeat(1, 3, 1)
    pos[:, 4:8, 3] = -1.0  # behind the camera
    pos[:, 8:, 2] = 1.5  # beyond the far plane
    tri = torch.tensor([[0, 1, 2], [0, 0, 3], [3, 3, 3], [4, 5, 7], [8, 9, 11]])
    pos.requires_grad_()
    for shown in (tri, tri[:0]):
        rast, slopes = CONTEXT.rasterize(pos, shown, (16, 16))
        image = CONTEXT.antialias(torch.rand(1, 16, 16, 2).double(), rast, pos, shown)
        assert (rast == 0).all() and (slopes == 0).all()
        (rast.sum() + image.sum()).backward()
        assert (pos.grad == 0).all()


def test_no_pixel_falls_between_neighbouring_triangles():
    """A bent grid in single precision; the corners of its inner cells are pixel centres."""
    lines = torch.cat(
        [torch.tensor([-1.1]), (2 * torch.arange(32) + 1) / 32 - 1, torch.tensor([1.1])]
    )
    y, x = torch.meshgrid(lines, lines, indexing="ij")
    w = 1.0 + 0.5 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    pos = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], -1) * w[..., None]
    start = (torch.arange(33)[:, None] * 34 + torch.arange(33)).reshape(-1, 1)
    tri = torch.cat([start + torch.tensor([0, 1, 34]), start + torch.tensor([35, 34, 1])])
    for size in ((32, 32), (57, 91)):
        rast, _ = CONTEXT.rasterize(pos.view(1, -1, 4), tri, size)
        assert (rast[..., 3] > 0).all()


def test_many_small_and_few_large_triangles():
    """A grid of 224 x 224 cells of two triangles; cell and half follow from the pixel's place."""
    n = 224
    lines = torch.linspace(-1, 1, n + 1).double()
    y, x = torch.meshgrid(lines, lines, indexing="ij")
    start = (torch.arange(n)[:, None] * (n + 1) + torch.arange(n)).reshape(-1, 1)
    halves = torch.tensor([[0, 1, n + 1], [n + 2, n + 1, 1]])
    tri = (start[:, None] + halves).view(-1, 3)
    rast, _ = CONTEXT.rasterize(flat(torch.stack([x, y], -1).view(-1, 2)), tri, (256, 256))
    place = (torch.arange(256).double() + 0.5) * n / 256
    column, row = place.floor().expand(256, 256), place.floor()[:, None]
    beyond = (place - column) + (place[:, None] - row)
    expected = 2 * (row * n + column) + (beyond > 1) + 1
    sure = (beyond - 1).abs() > 1e-9
    assert torch.equal(rast[0, ..., 3][sure], expected[sure])
    rast, _ = CONTEXT.rasterize(square(1.0).float(), QUAD, (512, 512))
    assert (rast[..., 3] > 0).all()


def test_gradients_are_exact_where_visibility_is_fixed():
    pos = torch.tensor(
        [[-0.9, -0.8, 0.1, 1.0], [1.1, -0.7, 0.3, 1.4], [1.6, 1.7, 0.5, 1.9], [-0.8, 0.9, 0.2, 1.2]]
    ).double()
    pos = torch.stack([pos, pos * 1.1 + 0.05]).requires_grad_()
    attr = torch.tensor([[[0.3], [-0.2], [0.9], [0.5]]]).double().requires_grad_()

    def render(pos, attr):
        rast, slopes = CONTEXT.rasterize(pos, QUAD, (3, 4))
        image, change = CONTEXT.interpolate(attr, rast, QUAD, slopes, "all")
        return rast[..., :3], slopes, image, change

    assert CONTEXT.rasterize(pos, QUAD, (3, 4))[0][..., 3].unique().tolist() == [0, 1, 2]
    assert torch.autograd.gradcheck(render, (pos, attr))


def test_interpolation_is_perspective_correct_and_zero_in_the_void():
    """World positions, interpolated and projected, land on the pixel's centre."""
    points, tri = ball(1)
    pos = project(points)
    rast, _ = CONTEXT.rasterize(pos, tri, (20, 24))
    image, none = CONTEXT.interpolate_one(points, rast, tri)
    shown = rast[0, ..., 3] > 0
    seen = project(image[0][shown])[0]
    x, y = ((2 * torch.arange(n).double() + 1) / n - 1 for n in (24, 20))
    torch.testing.assert_close(seen[:, 0] / seen[:, 3], x.expand(20, 24)[shown])
    torch.testing.assert_close(seen[:, 1] / seen[:, 3], y[:, None].expand(20, 24)[shown])
    torch.testing.assert_close(seen[:, 2] / seen[:, 3], rast[0, ..., 2][shown])
    assert (image[0][~shown] == 0).all() and none.shape == (1, 20, 24, 0)


def test_slopes_are_differences_of_the_picture_moved_by_a_pixel_fraction():
    points = torch.tensor([[-1.0, -0.8, -0.9], [0.9, -0.6, 0.4], [0.2, 1.1, 2.0]]).double()
    pos, attr = project(points), torch.rand(1, 3, 3).double()
    tri, eps = QUAD[:1], 1e-5
    rast, slopes = CONTEXT.rasterize(pos, tri, (8, 10))
    _, change = CONTEXT.interpolate(attr, rast, tri, slopes, [2, 0])
    shown = rast[0, ..., 3] > 0
    assert shown.sum() > 5
    for axis, size in ((0, 10), (1, 8)):
        images = []
        for sign in (1, -1):
            moved = pos.clone()
            moved[..., axis] -= sign * eps * 2 / size * pos[..., 3]
            there, _ = CONTEXT.rasterize(moved, tri, (8, 10))
            images.append(CONTEXT.interpolate(attr, there, tri)[0][0][shown])
        expected = ((images[0] - images[1]) / (2 * eps))[:, [2, 0]]
        torch.testing.assert_close(
            change[0][shown][:, [axis, axis + 2]], expected, atol=1e-6, rtol=1e-5
        )


SHAPES = {
    "triangle": (flat([[-0.71, -0.63], [0.77, -0.31], [-0.12, 0.83]]), QUAD[:1]),
    "square": (square(0.613, (0.03, -0.02)), QUAD),
    "turned square": (square(0.613, (0.03, -0.02), turn=0.4), QUAD),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_mask_of_a_polygon_has_its_area_and_the_gradient_of_that(name):
    """An area A that grows by a factor s has the slope 2 A / s; its integral of x, moved, A."""
    pos, tri = SHAPES[name]
    n, center = 80, torch.zeros(2).double().requires_grad_()
    factor = torch.ones(()).double().requires_grad_()
    moved = torch.cat([pos[..., :2] * factor + center, pos[..., 2:]], dim=-1)
    mask, area = opacity(moved, tri, (n, n))[0, ..., 0], polygon_area(pos[0, :, :2])
    cell = (2 / n) ** 2
    assert mask.sum().item() * cell == pytest.approx(area.item(), rel=0.01)
    (slope,) = torch.autograd.grad(mask.sum() * cell, factor, retain_graph=True)
    assert slope.item() == pytest.approx(2 * area.item(), rel=0.03)
    ramp = ((2 * torch.arange(n).double() + 1) / n - 1).expand(n, n)
    for axis, weight in ((0, ramp), (1, ramp.T)):
        (shift,) = torch.autograd.grad((mask * weight).sum() * cell, center, retain_graph=True)
        assert shift[axis].item() == pytest.approx(area.item(), rel=0.03)
        assert abs(shift[1 - axis].item()) < 0.03 * area


@pytest.mark.parametrize("subdivisions", [1, 2, 4])
def test_the_mask_of_a_sphere_changes_as_its_finite_difference(subdivisions):
    """From 80 triangles to 5120, of which most are smaller than a pixel."""
    points, tri = ball(subdivisions)
    factor = torch.ones(()).double().requires_grad_()
    mean = opacity(project(points * factor), tri, (40, 40)).mean()
    (slope,) = torch.autograd.grad(mean, factor)
    step = 0.03
    ends = [opacity(project(points * (1 + sign * step)), tri, (40, 40)).mean() for sign in (1, -1)]
    assert slope.item() == pytest.approx(((ends[0] - ends[1]) / (2 * step)).item(), rel=0.03)
    # a sphere of radius r at distance 5 is seen under the slope r / sqrt(25 - r^2)
    seen = math.pi * (4 * 0.6) ** 2 / (25 - 0.36) / 4
    assert mean.item() == pytest.approx(seen, rel=0.02 if subdivisions > 1 else 0.15)


def test_an_edge_that_reaches_behind_the_camera_has_a_gradient():
    pos = torch.tensor(
        [[[-0.62, -0.71, 0.0, 1.0], [0.66, -0.73, 0.1, 1.1], [0.3, 2.0, -0.3, -0.2]]]
    )
    pos, tri = pos.double(), QUAD[:1]
    for corner, axis in ((0, 0), (1, 0), (2, 3)):
        shift = torch.zeros(()).double().requires_grad_()
        move = torch.zeros_like(pos)
        move[0, corner, axis] = 1.0
        mean = opacity(pos + move * shift, tri, (96, 96)).mean()
        (slope,) = torch.autograd.grad(mean, shift)
        ends = [opacity(pos + move * step, tri, (96, 96)).mean() for step in (0.04, -0.04)]
        assert abs(slope.item()) > 0.01
        assert slope.item() == pytest.approx(((ends[0] - ends[1]) / 0.08).item(), rel=0.04)


def test_only_visible_silhouettes_are_blended():
    """A square before a wall, and one behind it. Colours are random; the wall fills the picture."""
    front, back = square(0.4, (0.05, 0.01), z=-0.5), square(0.7, z=0.5)
    pos = torch.cat([square(1.5), front, back], dim=1)
    tri = torch.cat([QUAD, QUAD + 4, QUAD + 8])
    rast, _ = CONTEXT.rasterize(pos, tri, (32, 32))
    color = torch.rand(1, 32, 32, 2, dtype=torch.float64)
    out = CONTEXT.antialias(color, rast, pos, tri)
    rows, columns = (out != color).any(-1)[0].nonzero().unbind(1)
    # front: x from -0.35 to 0.45, in pixels 9.9 to 22.7; y from -0.39 to 0.41, 9.26 to 22.06
    assert columns.unique().tolist() == list(range(10, 24))
    inner = (rows > 10) & (rows < 21)
    assert set(columns[inner].tolist()) == {10, 23}
    # of pixel 10, whose centre is 0.1 right of the edge, 0.4 are covered by the wall
    expected = 0.6 * color[0, 15, 10] + 0.4 * color[0, 15, 9]
    torch.testing.assert_close(out[0, 15, 10], expected, atol=1e-5, rtol=0)
    expected = 0.8 * color[0, 15, 23] + 0.2 * color[0, 15, 22]
    torch.testing.assert_close(out[0, 15, 23], expected, atol=1e-5, rtol=0)


def test_a_triangle_within_one_pixel_stays_between_nothing_and_all():
    pos = square(0.02, (1 / 16, 1 / 16)).requires_grad_()
    mask = opacity(pos, QUAD, (16, 16))
    assert mask.min() > -1e-9 and mask[0, 8, 8, 0] < 0.2 and mask.max() < 1
    mask.sum().backward()
    assert pos.grad.isfinite().all()


def test_the_gradient_of_colours_is_that_of_the_blend():
    pos, tri = SHAPES["triangle"]
    rast, _ = CONTEXT.rasterize(pos, tri, (5, 5))
    color = torch.rand(1, 5, 5, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: CONTEXT.antialias(c, rast, pos, tri), (color,))


def test_a_cube_has_eighteen_edges_of_two_triangles():
    cube = trimesh.creation.box()
    table = antialias_torch.edge_table(torch.tensor(cube.faces))
    assert table.ends.tolist() == sorted(cube.edges_unique.tolist()) and len(table.ends) == 18
    for (a, b), pair in zip(table.ends.tolist(), table.opposite.tolist(), strict=True):
        others = [set(face) - {a, b} for face in cube.faces.tolist() if {a, b} <= set(face)]
        assert sorted(pair) == sorted(min(other) for other in others)
    alone = antialias_torch.edge_table(QUAD[:1])
    assert alone.opposite.tolist() == [[2, 2], [1, 1], [0, 0]]


def test_edges_are_collected_once_per_topology():
    backend, tri = TorchBackend(), QUAD.clone()
    table = backend.edges(tri)
    assert backend.edges(QUAD.clone()) is table
    tri[0, 0] = 3
    assert backend.edges(tri) is not table


def test_world_points_are_transformed_by_every_camera():
    verts, mvp = torch.rand(5, 3), torch.rand(2, 4, 4)
    out = CONTEXT.vertex_transform(verts, mvp)
    homogeneous = torch.cat([verts, torch.ones(5, 1)], dim=1)
    for b in range(2):
        torch.testing.assert_close(out[b], homogeneous @ mvp[b].T)


def test_an_unknown_context_is_refused():
    with pytest.raises(UserError, match="'vulkan'; it must be one of gl, cuda"):
        NVDiffRasterizerContext("vulkan", "cpu")


class FakeNvdiffrast(types.ModuleType):
    """Notes what it is called with."""

    def __init__(self):
        super().__init__("nvdiffrast")
        self.__spec__ = importlib.machinery.ModuleSpec("nvdiffrast", None)
        self.torch, self.calls = self, {}

    def RasterizeCudaContext(self, device):
        return "cuda context"

    def rasterize(self, context, pos, tri, resolution):
        self.calls["rasterize"] = (context, pos.dtype, tri.dtype, resolution)
        return torch.zeros(1, *resolution, 4), torch.zeros(1, *resolution, 4)

    def interpolate(self, attr, rast, tri, rast_db, diff_attrs):
        self.calls["interpolate"] = (attr.dtype, attr.is_contiguous(), tri.dtype, diff_attrs)
        return torch.zeros(*rast.shape[:3], attr.shape[2]), torch.zeros(*rast.shape[:3], 0)

    def antialias(self, color, rast, pos, tri):
        self.calls["antialias"] = (color.dtype, pos.dtype, tri.dtype)
        return color


def test_nvdiffrast_is_used_on_cuda_where_it_is_installed(monkeypatch):
    assert isinstance(NVDiffRasterizerContext("gl", "cuda").backend, TorchBackend)
    fake = FakeNvdiffrast()
    monkeypatch.setitem(sys.modules, "nvdiffrast", fake)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", fake)
    assert isinstance(NVDiffRasterizerContext("gl", "cpu").backend, TorchBackend)
    context = NVDiffRasterizerContext("gl", "cuda")
    rast, _ = context.rasterize(square(), QUAD, (4, 6))
    context.interpolate_one(torch.rand(3, 4).double().T, rast, QUAD)
    context.antialias(torch.zeros(1, 4, 6, 1).double(), rast, square(), QUAD)
    assert fake.calls == {
        "rasterize": ("cuda context", torch.float32, torch.int32, (4, 6)),
        "interpolate": (torch.float32, True, torch.int32, None),
        "antialias": (torch.float32, torch.float32, torch.int32),
    }
