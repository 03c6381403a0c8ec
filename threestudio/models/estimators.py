"""Where a volume is worth sampling."""

from typing import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threestudio.utils.random import stream

WARMUP_STEPS = 256
UPDATE_EVERY = 16
DECAY = 0.95
THRESHOLD = 0.01


class OccupancyGrid(nn.Module):
    """Cells of the scene's box that may hold matter, learnt from the densities met there
    (Instant-NGP, appendix C).

    Names of the buffers and the update rule are nerfacc's: every `UPDATE_EVERY` steps each visited
    cell is evaluated at a random point and `occs = max(DECAY * occs, density * step_size)`. In the
    first `WARMUP_STEPS` steps all cells are visited, later a quarter at random and a quarter's
    worth of the occupied ones. A cell is occupied if its value is above `min(mean of occs,
    THRESHOLD)`. Before the first update every cell is."""

    resolution: Tensor
    aabbs: Float[Tensor, "1 6"]
    occs: Float[Tensor, " cells"]
    binaries: Bool[Tensor, "1 n n n"]

    def __init__(self, bbox: Float[Tensor, "2 3"], resolution: int = 32) -> None:
        super().__init__()
        self.register_buffer("resolution", torch.tensor([resolution] * 3, dtype=torch.int32))
        self.register_buffer("aabbs", bbox.detach().clone().reshape(1, 6))
        self.register_buffer("occs", torch.zeros(resolution**3))
        self.register_buffer("binaries", torch.ones(1, *[resolution] * 3, dtype=torch.bool))
        self.size = resolution

    @torch.no_grad()
    def update(self, optical_depth: Callable[[Tensor], Tensor], step: int) -> None:
        """Refresh the cells that are due at `step`.

        Args:
            optical_depth: Maps world points [P 3] to density times step size [P 1].
            step: Global step; the random points depend on nothing else.
        """
        generator = stream("occupancy", step, rank=0)
        cells = self._cells(step, generator).to(self.occs.device)
        jitter = torch.rand(len(cells), 3, generator=generator).to(self.occs)
        values = optical_depth(self._points(cells, jitter)).reshape(-1).to(self.occs)
        self.occs[cells] = torch.maximum(self.occs[cells] * DECAY, values)
        threshold = self.occs.mean().clamp(max=THRESHOLD)
        self.binaries.copy_((self.occs > threshold).reshape(self.binaries.shape))

    def _cells(self, step: int, generator: torch.Generator) -> Tensor:
        total = len(self.occs)
        if step < WARMUP_STEPS:
            return torch.arange(total)
        drawn = torch.randint(total, (total // 4,), generator=generator)
        occupied = self.binaries.flatten().cpu().nonzero()[:, 0]
        if len(occupied) > total // 4:
            occupied = occupied[torch.randint(len(occupied), (total // 4,), generator=generator)]
        return torch.cat([drawn, occupied]).unique()

    def _points(self, cells: Tensor, jitter: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        n = self.size
        corner = torch.stack([cells // (n * n), cells // n % n, cells % n], dim=-1)
        low, high = self.aabbs.reshape(2, 3)
        return low + (corner + jitter) / n * (high - low)

    def occupied(self, points: Float[Tensor, "P 3"]) -> Bool[Tensor, " P"]:
        """Tell which points lie in an occupied cell; points outside the box belong to the nearest
        cell."""
        low, high = self.aabbs.reshape(2, 3)
        cell = ((points - low) * (self.size / (high - low))).int().clamp_(0, self.size - 1)
        x, y, z = cell.unbind(-1)
        return self.binaries.flatten().index_select(0, (x * self.size + y) * self.size + z)

    def occupied_box(self) -> Float[Tensor, "2 3"]:
        """Return the smallest box around the occupied cells; empty cells give a box of no
        extent."""
        low, high = self.aabbs.reshape(2, 3)
        cells, corners = self.binaries[0], []
        for axes in ((1, 2), (0, 2), (0, 1)):
            line = cells.any(dim=axes[1]).any(dim=axes[0])
            first = line.to(torch.uint8).argmax()
            last = self.size - line.to(torch.uint8).flip(0).argmax()
            corners.append(torch.stack([first, torch.where(line.any(), last, first)]))
        return low + torch.stack(corners, dim=-1) / self.size * (high - low)
