"""Which triangle each pixel shows, and where on it, in plain torch: the operations "rasterization"
and "interpolation" of Laine et al. 2020, "Modular Primitives for High-Performance Differentiable
Rendering".

A vertex in clip space is (x, y, z, w); a point is visible where |x|, |y| and |z| are at most w.
Pixel space is (X w, Y w, z, w): the centre of the pixel in column i and row j has X = i and Y = j,
and row 0 is the one next to y = -w.

Seen from a pixel, a corner is at (x, y) = ((X - i) w, (Y - j) w), and the point of the triangle
that the pixel shows is the mean of its corners with weights b for which `sum b x = sum b y = 0`. So
b is proportional to the cross product of the three x and the three y. It is perspective-correct,
and it needs no division by w: a triangle that reaches behind the camera is not clipped, only its
points with w <= 0 or outside the view volume are dropped."""

from typing import Optional, Union

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PAIRS_AT_ONCE = 1 << 19
"""Pairs of a triangle and a pixel that are tested together, at about 200 bytes each."""
NONE = torch.iinfo(torch.int64).max
BOX_MARGIN = 1e-3
"""Pixels by which a bounding box grows, so that rounding cannot open a seam."""
CUT_BOX_MARGIN = 2.0
"""The same for triangles that the near plane cuts, whose box is known less well."""


def to_pixels(pos: Float[Tensor, "*N 4"], resolution: tuple[int, int]) -> Float[Tensor, "*N 4"]:
    """Map clip space to pixel space; `resolution` is (height, width)."""
    height, width = resolution
    x, y, z, w = pos.unbind(-1)
    return torch.stack(
        [0.5 * width * (x + w) - 0.5 * w, 0.5 * height * (y + w) - 0.5 * w, z, w], dim=-1
    )


def clip_segments(
    start: Float[Tensor, "*N 4"], end: Float[Tensor, "*N 4"]
) -> tuple[Float[Tensor, "*N 3"], Float[Tensor, "*N 3"], Bool[Tensor, "*N"]]:
    """Find the part of segments that is in front of the near plane.

    Returns:
        Its ends as (X, Y, z / w), and whether there is such a part; if not, the ends are arbitrary.
    """
    ahead, ahead_end = start[..., 2] + start[..., 3], end[..., 2] + end[..., 3]
    cut = start + (ahead / (ahead - ahead_end))[..., None] * (end - start)
    start = torch.where(ahead[..., None] < 0, cut, start)
    end = torch.where(ahead_end[..., None] < 0, cut, end)
    visible = ((ahead >= 0) | (ahead_end >= 0)) & (start[..., 3] > 0) & (end[..., 3] > 0)
    return start[..., :3] / start[..., 3:], end[..., :3] / end[..., 3:], visible


def cross(a: Float[Tensor, "3 K"], b: Float[Tensor, "3 K"]) -> Float[Tensor, "3 K"]:
    """Return the cross product of columns.

    Each product is rounded by itself. A fused kernel would not give exactly opposite values to the
    two triangles at an edge, and pixels on the edge could fall between them."""
    return torch.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def seen_from(
    corners: Float[Tensor, "3 4 K"], column: Int[Tensor, " K"], row: Int[Tensor, " K"]
) -> tuple[Float[Tensor, "3 K"], Float[Tensor, "3 K"]]:
    """Return the x and the y of corners relative to a pixel (see the top of the module)."""
    x, y, _, w = corners.unbind(1)
    return x - column * w, y - row * w


def pixel_boxes(
    corners: Float[Tensor, "F 3 4"], resolution: tuple[int, int]
) -> tuple[Int[Tensor, "F 2"], Int[Tensor, "F 2"]]:
    """Return the first column and row whose pixel a triangle may show, and how many of each."""
    a, b, visible = clip_segments(corners, corners.roll(-1, 1))
    inf = torch.full_like(a, torch.inf)
    low = torch.where(visible[..., None], torch.minimum(a, b), inf).amin(1)[:, :2]
    high = torch.where(visible[..., None], torch.maximum(a, b), -inf).amax(1)[:, :2]
    is_cut = ((corners[..., 2] + corners[..., 3]) < 0).any(1)
    margin = torch.where(is_cut, CUT_BOX_MARGIN, BOX_MARGIN)[:, None].to(corners)
    last = corners.new_tensor([resolution[1] - 1, resolution[0] - 1])
    first = (low - margin).ceil().clamp_min(0)
    size = torch.minimum((high + margin).floor(), last) - first + 1
    size = torch.where((size > 0).all(1, keepdim=True), size, torch.zeros_like(size))
    return torch.minimum(first, last).long(), size.long()


def keep_nearest(
    depth: Float[Tensor, " R"],
    winner: Int[Tensor, " R"],
    slot: Int[Tensor, " K"],
    value: Float[Tensor, " K"],
    index: Int[Tensor, " K"],
) -> tuple[Float[Tensor, " R"], Int[Tensor, " R"]]:
    """Let candidates compete for slots: the lowest value wins, and of equal ones the lowest index.

    Args:
        depth: Lowest value of each slot so far; infinity where there was none.
        winner: Index that has it; `NONE` where there was none.
        slot: Slot that each candidate wants.
        value: Value of each candidate.
        index: Index of each candidate.
    """
    nearest = depth.scatter_reduce(0, slot, value, "amin")
    best = (value == nearest[slot]).nonzero()[:, 0]
    none = torch.full_like(winner, NONE)
    first = none.scatter_reduce(0, slot[best], index[best], "amin")
    return nearest, torch.minimum(torch.where(nearest < depth, none, winner), first)


def fragments(
    corners: Float[Tensor, "3 4 K"], column: Int[Tensor, " K"], row: Int[Tensor, " K"]
) -> tuple[Int[Tensor, " Q"], Float[Tensor, " Q"]]:
    """Return which pairs of a triangle and a pixel meet, and their depth z / w."""
    areas = cross(*seen_from(corners, column, row))
    one_sided = (areas.amin(0) >= 0) | (areas.amax(0) <= 0)
    met = (one_sided & (areas.sum(0) != 0)).nonzero()[:, 0]
    areas = areas.index_select(1, met)
    # up to a common factor, z and w of the point
    z, w = ((areas * corners[:, k].index_select(1, met)).sum(0) for k in (2, 3))
    depth = z / w
    seen = ((w * areas.sum(0) > 0) & (depth.abs() <= 1)).nonzero()[:, 0]
    return met[seen], depth[seen]


@torch.no_grad()
def visible_triangles(
    pos: Float[Tensor, "Nv 4"], tri: Int[Tensor, "F 3"], resolution: tuple[int, int]
) -> Int[Tensor, "H W"]:
    """Return the index, plus 1, of the nearest triangle at each pixel; 0 where there is none.

    The pixels of all bounding boxes are laid out in one line, which is worked off in pieces of
    `PAIRS_AT_ONCE`; of triangles at the same depth the one with the lower index wins."""
    height, width = resolution
    corners = to_pixels(pos, resolution)[tri]
    first, size = pixel_boxes(corners, resolution)
    kept = size.prod(1).nonzero()[:, 0]
    # components first: then all arithmetic below runs over contiguous memory
    table = corners[kept].permute(1, 2, 0).reshape(12, -1)
    first, size = first[kept], size[kept]
    ends = size.prod(1).cumsum(0)
    starts = ends - size.prod(1)
    depth = pos.new_full((height * width,), torch.inf)
    winner = torch.full_like(depth, NONE, dtype=torch.int64)
    total = int(ends[-1]) if len(ends) > 0 else 0
    for begin in range(0, total, PAIRS_AT_ONCE):
        stop = min(begin + PAIRS_AT_ONCE, total)
        counts = (ends.clamp_max(stop) - starts.clamp_min(begin)).clamp_min(0)
        box = torch.repeat_interleave(counts)
        nth = torch.arange(begin, stop, device=pos.device) - starts[box]
        down = nth // size[box, 0]
        row, column = first[box, 1] + down, first[box, 0] + nth - down * size[box, 0]
        met, z = fragments(table.index_select(1, box).view(3, 4, -1), column, row)
        pixel = (row * width + column)[met]
        depth, winner = keep_nearest(depth, winner, pixel, z, kept[box[met]])
    return torch.where(winner == NONE, 0, winner + 1).view(height, width)


def corners_at(
    values: Float[Tensor, "V Nv C"], tri: Int[Tensor, "F 3"], ids: Int[Tensor, "B H W"]
) -> tuple[Int[Tensor, " P"], Float[Tensor, "P 3 C"]]:
    """Return the covered pixels, as flat indices, and the values at the corners of what they show.

    Args:
        values: Values of the vertices, one set per image or one for all (V = 1).
        tri: Vertices of the triangles.
        ids: Index of the triangle at each pixel, plus 1; 0 for none.
    """
    flat = ids.reshape(-1)
    covered = flat.nonzero()[:, 0]
    rows = tri.index_select(0, flat.index_select(0, covered) - 1)
    if len(values) > 1:
        rows = rows + (covered // ids[0].numel() * values.shape[1])[:, None]
    corners = values.flatten(0, 1).index_select(0, rows.reshape(-1))
    return covered, corners.view(len(covered), 3, values.shape[2])


def to_image(
    rows: Float[Tensor, "P C"], covered: Int[Tensor, " P"], size: torch.Size
) -> Float[Tensor, "B H W C"]:
    """Put one row per covered pixel into images of `size` (B, H, W) that are 0 elsewhere."""
    image = rows.new_zeros(size.numel(), rows.shape[1])
    return image.index_copy(0, covered, rows).view(*size, rows.shape[1])


def rasterize(
    pos: Float[Tensor, "B Nv 4"], tri: Int[Tensor, "F 3"], resolution: tuple[int, int]
) -> tuple[Float[Tensor, "B H W 4"], Float[Tensor, "B H W 4"]]:
    """Rasterise one topology under B sets of clip-space positions.

    Returns:
        (u, v, z / w, index of the triangle + 1), differentiable but for the last, and the slopes
        (du/dX, du/dY, dv/dX, dv/dY) per pixel; all 0 where there is nothing.
    """
    height, width = resolution
    ids = torch.stack([visible_triangles(view, tri, resolution) for view in pos])
    covered, corners = corners_at(to_pixels(pos, resolution), tri, ids)
    corners = corners.permute(1, 2, 0)
    x, y = seen_from(corners, covered % width, covered // width % height)
    areas, z, w = cross(x, y), corners[:, 2], corners[:, 3]
    total = areas.sum(0)
    weights = areas / total
    depth = (weights * z).sum(0) / (weights * w).sum(0)
    number = ids.reshape(-1).index_select(0, covered).to(pos)
    rows = torch.stack([weights[0], weights[1], depth, number], dim=1)
    # dx/dX = dy/dY = -w, and the quotient rule; axes: (X, Y), corner, pixel
    slopes = torch.stack([cross(y, w), cross(w, x)])
    slopes = (slopes - weights * slopes.sum(1, keepdim=True)) / total
    slopes = slopes[:, :2].permute(2, 1, 0).flatten(1)
    return to_image(rows, covered, ids.shape), to_image(slopes, covered, ids.shape)


def interpolate(
    attr: Float[Tensor, "V Nv C"],
    rast: Float[Tensor, "B H W 4"],
    tri: Int[Tensor, "F 3"],
    rast_db: Optional[Float[Tensor, "B H W 4"]] = None,
    diff_attrs: Optional[Union[str, list[int]]] = None,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
    """Interpolate vertex attributes; see `NVDiffRasterizerContext.interpolate`."""
    covered, corners = corners_at(attr, tri, rast[..., 3].long())
    uv = rast.reshape(-1, 4).index_select(0, covered)[:, :2]
    weights = torch.cat([uv, 1.0 - uv.sum(1, keepdim=True)], dim=1)
    size = rast.shape[:3]
    values = to_image((weights[..., None] * corners).sum(1), covered, size)
    if rast_db is None or diff_attrs is None:
        return values, values.new_zeros(*size, 0)
    if diff_attrs != "all":
        corners = corners[..., diff_attrs]
    slopes = rast_db.reshape(-1, 4).index_select(0, covered).view(-1, 2, 2)
    edges = corners[:, :2] - corners[:, 2:]
    changes = (edges[..., None] * slopes[:, :, None]).sum(1)  # P, attribute, (X, Y)
    return values, to_image(changes.flatten(1), covered, size)
