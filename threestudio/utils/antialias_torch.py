"""Analytic antialiasing of silhouettes in plain torch (Laine et al. 2020, "Modular Primitives for
High-Performance Differentiable Rendering").

Where a silhouette edge passes between the centres of two neighbouring pixels, one of which shows
the surface and the other what is behind it, one of the two colours is blended into the other pixel,
in proportion to the distance of the edge from the middle between them. That distance is a
differentiable function of the edge's vertices: the only way in which visibility gets a gradient.

The paper looks for the edge among those of the triangle that the nearer pixel shows. Here every
silhouette edge is followed over the rows (if it is steep) or columns of pixel centres that it
crosses. At the rim of a curved surface triangles are seen so obliquely that the one with the
silhouette edge is rarely the one that a pixel shows: of a sphere of 320 triangles, 19 pixels in
diameter, the paper's search would find 7 % of the silhouette, and lose its gradient elsewhere."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio.utils.rasterize_torch import NONE, clip_segments, keep_nearest, to_pixels


@dataclass(frozen=True)
class EdgeTable:
    """The edges of a mesh, each once."""

    ends: Int[Tensor, "E 2"]
    """Its vertices, the lower index first."""
    opposite: Int[Tensor, "E 2"]
    """The third vertex of its two triangles. The same one twice if it has one triangle; two of them
    if it has more than two."""


@dataclass(frozen=True)
class Crossings:
    """Places where a silhouette edge passes between the centres of two neighbouring pixels."""

    ends: Int[Tensor, "K 2"]
    """Vertices of the edge, as rows of the flattened positions."""
    steep: Bool[Tensor, " K"]
    """Whether the pixels are neighbours in a row, rather than in a column."""
    inside: Int[Tensor, " K"]
    """Flat index of the pixel on the side of the edge's surface."""
    outside: Int[Tensor, " K"]
    """Flat index of the other pixel."""
    distance: Float[Tensor, " K"]
    """Way from the inner pixel's centre to the edge, in pixels, 0 to 1."""
    depth: Float[Tensor, " K"]
    """Depth z / w of the edge there."""

    def keep(self, rows: Tensor) -> "Crossings":
        """Return some of the crossings, by indices or by a mask."""
        return Crossings(*(getattr(self, field.name)[rows] for field in fields(self)))


def edge_table(tri: Int[Tensor, "F 3"]) -> EdgeTable:
    """Collect the edges of a mesh."""
    ends = torch.stack([tri, tri.roll(-1, 1)], dim=-1).view(-1, 2).sort(dim=1).values
    opposite = tri.roll(-2, 1).reshape(-1)
    key, order = (ends[:, 0] * 2**32 + ends[:, 1]).sort(stable=True)
    counts = torch.unique_consecutive(key, return_counts=True)[1]
    last = counts.cumsum(0) - 1
    first = last - counts + 1
    pair = torch.stack([opposite[order[first]], opposite[order[last]]], dim=1)
    return EdgeTable(ends[order[first]], pair)


def silhouettes(
    corners: Float[Tensor, "B Nv 4"], table: EdgeTable
) -> tuple[Int[Tensor, "S 2"], Float[Tensor, " S"]]:
    """Find the edges with all of their surface on one side in the picture.

    Args:
        corners: Vertices in pixel space.
        table: Edges of the mesh.

    Returns:
        Vertices of these edges, as rows of the flattened `corners`, and the sign of the determinant
        of (start, end, a point of the surface), which says on which side it is.
    """
    start = corners[:, table.ends[:, 0]]
    # from the edge's own start: small triangles would drown in the rounding of pixel coordinates
    origin = start[..., :2] / start[..., 3:]

    def relative(vertices: Int[Tensor, " E"]) -> tuple[Tensor, Tensor]:
        point = corners[:, vertices]
        return (point[..., :2] - origin * point[..., 3:]).unbind(-1)

    x, y = relative(table.ends[:, 1])
    side = []
    for column in (0, 1):
        x_opposite, y_opposite = relative(table.opposite[:, column])
        side.append((start[..., 3] * (x * y_opposite - y * x_opposite)).sign())
    # a triangle seen edge-on is on no side; its other edges go with their other triangle
    both = side[0] + side[1]
    view, edge = ((side[0] * side[1] >= 0) & (both != 0)).nonzero().unbind(1)
    return table.ends[edge] + (view * corners.shape[1])[:, None], both[view, edge].sign()


def crossed_lines(
    start: Float[Tensor, " S"], end: Float[Tensor, " S"], count: Int[Tensor, " S"]
) -> tuple[Int[Tensor, " K"], Int[Tensor, " K"]]:
    """List the whole numbers from 0 to `count` - 1 between two ends, the upper end left out.

    Returns:
        The index of the interval and the number, for every number in every interval.
    """
    first = torch.minimum(start, end).ceil().clamp_min(0)
    last = torch.minimum(torch.maximum(start, end).ceil(), count.to(end))
    counts = torch.where(last > first, last - first, torch.zeros_like(first)).long()
    interval = torch.repeat_interleave(counts)
    nth = torch.arange(len(interval), device=end.device) - (counts.cumsum(0) - counts)[interval]
    return interval, first.long()[interval] + nth


def follow(
    corners: Float[Tensor, "B Nv 4"],
    ends: Int[Tensor, "S 2"],
    side: Float[Tensor, " S"],
    resolution: tuple[int, int],
) -> Crossings:
    """List where edges cross the rows (if steep) or columns of pixel centres.

    Every boundary is thus met once, in the direction in which it is well defined: the area that a
    moving edge sweeps is its length along the rows, times its shift across them."""
    height, width = resolution
    a, b, visible = clip_segments(*corners.flatten(0, 1)[ends].unbind(1))
    steep = (b - a)[:, 1].abs() >= (b - a)[:, 0].abs()
    # from here on (across, along, depth)
    a, b = (torch.where(steep[:, None], p, p[:, [1, 0, 2]]) for p in (a, b))
    lines = torch.where(visible, torch.where(steep, height, width), 0)
    edge, line = crossed_lines(a[:, 1], b[:, 1], lines)
    step = (b - a)[edge]
    place = a[edge] + ((line - a[edge, 1]) / step[:, 1])[:, None] * step
    steep, cell = steep[edge], place[:, 0].floor()
    ahead = torch.where(steep, -step[:, 1], step[:, 1]) * side[edge] > 0
    at = cell.long()
    row, column = torch.where(steep, line, at), torch.where(steep, at, line)
    low = (ends[edge, 0] // corners.shape[1] * height + row) * width + column
    high = low + torch.where(steep, 1, width)
    beyond = place[:, 0] - cell
    within = (cell >= 0) & (cell < torch.where(steep, width, height) - 1)
    return Crossings(
        ends[edge],
        steep,
        inside=torch.where(ahead, high, low),
        outside=torch.where(ahead, low, high),
        distance=torch.where(ahead, 1.0 - beyond, beyond),
        depth=place[:, 2],
    ).keep(within)


@torch.no_grad()
def find_crossings(
    rast: Float[Tensor, "B H W 4"], pos: Float[Tensor, "B Nv 4"], table: EdgeTable
) -> Crossings:
    """Find, for each pair of pixels that a silhouette divides, the edge that divides it.

    The inner pixel shows a surface, the outer one nothing, or something behind both the inner pixel
    and the edge. If several edges qualify, the one nearest to the outer pixel is the rim."""
    resolution = (rast.shape[1], rast.shape[2])
    corners = to_pixels(pos, resolution)
    found = follow(corners, *silhouettes(corners, table), resolution)
    z, number = rast[..., 2].reshape(-1), rast[..., 3].reshape(-1)
    inner, outer = number[found.inside], number[found.outside]
    behind = (found.depth < z[found.outside]) & (z[found.inside] < z[found.outside])
    found = found.keep((inner > 0) & (inner != outer) & ((outer == 0) | behind))
    pair = 2 * torch.minimum(found.inside, found.outside) + found.steep
    winner = torch.full((2 * len(z),), NONE, device=z.device)
    nothing = z.new_full(winner.shape, torch.inf)
    index = torch.arange(len(pair), device=z.device)
    _, winner = keep_nearest(nothing, winner, pair, -found.distance, index)
    return found.keep(winner[winner != NONE])


def crossing_distance(
    pos: Float[Tensor, "B Nv 4"], found: Crossings, resolution: tuple[int, int]
) -> Float[Tensor, " K"]:
    """Return `found.distance` as a differentiable function of the positions."""
    height, width = resolution
    ends = pos.flatten(0, 1).index_select(0, found.ends.reshape(-1))
    ends = to_pixels(ends, resolution).view(-1, 2, 4)
    centres = torch.stack([found.inside % width, found.inside // width % height], dim=-1)
    local = ends[..., :2] - centres[:, None].to(pos) * ends[..., 3:]
    across, along = torch.where(found.steep[:, None, None], local, local.flip(-1)).unbind(-1)
    # where `along` is 0 on the edge; clamped, so that rounding cannot blow up the gradient
    gap = along[:, 0] - along[:, 1]
    share = (along[:, 0] / torch.where(gap == 0, 1.0, gap)).clamp(0.0, 1.0)
    place = torch.lerp(across[:, 0], across[:, 1], share)
    place = place / torch.lerp(ends[:, 0, 3], ends[:, 1, 3], share)
    return torch.where(found.outside > found.inside, place, -place)


def antialias(
    color: Float[Tensor, "B H W C"],
    rast: Float[Tensor, "B H W 4"],
    pos: Float[Tensor, "B Nv 4"],
    table: EdgeTable,
) -> Float[Tensor, "B H W C"]:
    """Blend colours over silhouettes; see `NVDiffRasterizerContext.antialias`.

    Every new colour is a mean of old ones: weights that add up to more than 1, as in a triangle
    that is smaller than a pixel, are scaled down."""
    found = find_crossings(rast, pos, table)
    distance = crossing_distance(pos, found, (rast.shape[1], rast.shape[2]))
    target = torch.where(distance > 0.5, found.outside, found.inside)
    source = found.inside + found.outside - target
    weight = (distance - 0.5).abs()
    total = weight.new_zeros(rast.shape[:3].numel()).index_add(0, target, weight)
    weight = weight / total.index_select(0, target).clamp_min(1.0)
    flat = color.flatten(0, 2)
    change = flat.index_select(0, source) - flat.index_select(0, target)
    change = (weight[:, None] * change).to(flat)
    return flat.index_add(0, target, change).view(color.shape)
