"""Which projected Gaussians each tile of a picture shows.

A picture is cut into squares of `TILE` pixels; the tiles of all pictures are numbered through, row
by row and picture by picture."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .projection import ALPHA_MIN, Splats

TILE = 8
"""Edge of a tile in pixels: small ones waste few pixels on Gaussians that touch a corner, of large
ones there are fewer. On a CPU 4 takes about the same time as 8, and 16 twice as long."""
SLACK = 1e-3
"""Added to the squared distance at which a Gaussian ends, so that rounding loses no pixel. Pixels
are tested themselves: a tile too many changes nothing."""


@dataclass(frozen=True)
class TileGrid:
    """How pictures are cut."""

    views: int
    height: int
    width: int

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return -(-self.width // TILE)

    @property
    def count(self) -> int:
        """Tiles of all pictures."""
        return self.views * self.rows * self.columns

    def centers(self, tile: Int[Tensor, " A"]) -> Int[Tensor, "A 2"]:
        """Return the (x, y) of the middle of tiles, in pixels."""
        place = tile % (self.rows * self.columns)
        corner = torch.stack([place % self.columns, place // self.columns], dim=-1) * TILE
        return corner + TILE // 2

    def assemble(self, tiles: Float[Tensor, "T P F"]) -> Float[Tensor, "B H W F"]:
        """Put tiles together; pixels beyond the border of a picture are cut off."""
        shape = (self.views, self.rows, self.columns, TILE, TILE, tiles.shape[-1])
        whole = tiles.reshape(shape).transpose(2, 3)
        whole = whole.reshape(self.views, self.rows * TILE, self.columns * TILE, -1)
        return whole[:, : self.height, : self.width]


@dataclass(frozen=True)
class TileLists:
    """The splats of each tile, front to back: those of tile t are `splat[start[t] : start[t] +
    count[t]]`."""

    grid: TileGrid
    splat: Int[Tensor, " Q"]
    start: Int[Tensor, " T"]
    count: Int[Tensor, " T"]


@torch.no_grad()
def tile_lists(splats: Splats, grid: TileGrid) -> TileLists:
    """Sort splats into the tiles that they reach; of equal depths the first row is in front."""
    order = torch.argsort(splats.depth, stable=True)
    mean, reach = splats.mean[order], splats.reach[order]
    last_tile = order.new_tensor([grid.columns - 1, grid.rows - 1])
    first = ((mean - reach) / TILE).floor().clamp_min(0).long()
    last = torch.minimum(((mean + reach) / TILE).floor().clamp_max(1 << 30).long(), last_tile)
    size = (last - first + 1).clamp_min(0)
    area = size.prod(dim=1)
    nth = torch.repeat_interleave(area)
    within = torch.arange(len(nth), device=nth.device) - (area.cumsum(0) - area)[nth]
    across = size[nth, 0]
    column, row = first[nth, 0] + within % across, first[nth, 1] + within // across
    splat = order[nth]
    tile = (splats.view[splat] * grid.rows + row) * grid.columns + column
    kept = _touches(splats, splat, grid.centers(tile).to(mean)).nonzero()[:, 0]
    # stable: within a tile the order of depth stays
    tile, position = torch.sort(tile[kept], stable=True)
    count = torch.bincount(tile, minlength=grid.count)
    return TileLists(grid, splat[kept[position]], count.cumsum(0) - count, count)


def _touches(
    splats: Splats, splat: Int[Tensor, " Q"], center: Float[Tensor, "Q 2"]
) -> Bool[Tensor, " Q"]:
    """Tell whether a splat's alpha can exceed its minimum at the pixel centres of a tile.

    The squared distance is convex, and 0 at the splat's centre. If that is outside of the tile's
    rectangle, the nearest point of the rectangle is on one of the two sides that face it."""
    xx, xy, yy = splats.conic[splat].unbind(-1)
    half = 0.5 * (TILE - 1)
    low, high = center - half - splats.mean[splat], center + half - splats.mean[splat]
    zero = torch.zeros_like(low)
    side = zero.clamp(low, high)
    along_y = (-xy / yy * side[:, 0]).clamp(low[:, 1], high[:, 1])
    along_x = (-xy / xx * side[:, 1]).clamp(low[:, 0], high[:, 0])

    def squared(x: Tensor, y: Tensor) -> Tensor:
        return xx * x * x + 2.0 * xy * x * y + yy * y * y

    nearest = torch.minimum(squared(side[:, 0], along_y), squared(along_x, side[:, 1]))
    limit = 2.0 * (splats.log_opacity[splat] - math.log(ALPHA_MIN))
    return nearest <= limit * (1.0 + SLACK) + SLACK
