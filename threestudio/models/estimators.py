"""Where a volume is worth sampling."""

from typing import Callable, Optional, Sequence, Union

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threestudio.models.histograms import borders, invert, returned_light
from threestudio.utils.base import Updateable
from threestudio.utils.random import stream
from threestudio.utils.typing import Number

WARMUP_STEPS = 256
UPDATE_EVERY = 16
DECAY = 0.95

Density = Callable[[Tensor, Tensor], Tensor]
"""Maps starts and ends of intervals [R n] to the density in each [R n]."""


class OccupancyGrid(nn.Module):
    """Cells of the scene's box that may hold matter, learnt from the densities met there
    (Instant-NGP, appendix C).

    Names of the buffers and the update rule are nerfacc's: every `UPDATE_EVERY` steps each visited
    cell is evaluated at a random point and `occs = max(DECAY * occs, density * step_size)`. In the
    first `WARMUP_STEPS` steps all cells are visited, later a quarter at random and a quarter's
    worth of the occupied ones. A cell is occupied if the value of a cell at most `margin` cells
    away is above `threshold()`. Before the first update every cell is."""

    resolution: Tensor
    aabbs: Float[Tensor, "1 6"]
    occs: Float[Tensor, " cells"]
    binaries: Bool[Tensor, "1 n n n"]

    def __init__(
        self,
        bbox: Float[Tensor, "2 3"],
        limit: Number = 0.01,
        margin: int = 0,
        resolution: int = 32,
    ) -> None:
        super().__init__()
        self.limit = limit
        self.margin = margin
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
        matter = (self.occs > self.threshold()).to(self.occs).reshape(self.binaries.shape)
        near = F.max_pool3d(matter, 2 * self.margin + 1, stride=1, padding=self.margin)
        self.binaries.copy_(near > 0)

    def threshold(self) -> Float[Tensor, ""]:
        """Return the optical depth of a step that counts as matter: `min(mean of occs, limit)`."""
        return self.occs.mean().clamp(max=self.limit)

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


class ImportanceEstimator(nn.Module, Updateable):
    """Places intervals where densities that were met on the same rays are high (NeRF, section 5.2,
    hierarchical sampling)."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        # follows the module through .to(): planes given as numbers have no device
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Remember the step, which numbers the random stream."""
        self.step = global_step

    def sampling(
        self,
        prop_sigma_fns: Sequence[Density],
        prop_samples: Sequence[int],
        num_samples: int,
        n_rays: int,
        near_plane: Union[Number, Float[Tensor, " R"]],
        far_plane: Union[Number, Float[Tensor, " R"]],
        sampling_type: str = "uniform",
        stratified: bool = False,
        requires_grad: bool = False,
        generator: Optional[torch.Generator] = None,
    ) -> tuple[Float[Tensor, "R n"], Float[Tensor, "R n"]]:
        """Cut rays into intervals that are short where the density is high.

        Level by level, `prop_samples[i]` intervals are laid out after the previous level's weights
        (evenly, at first) and `prop_sigma_fns[i]` is evaluated in them. The borders of the last
        level and `num_samples` more, at equal shares of its weights, are returned in order.

        Args:
            prop_sigma_fns: Density of each level.
            prop_samples: Intervals of each level.
            num_samples: Borders that are added in the end.
            n_rays: Number of rays.
            near_plane: Start of the rays, one for all or one for each.
            far_plane: Their end, not before the start.
            sampling_type: "uniform" spaces the first level evenly in distance, "lindisp" in inverse
                distance, which needs a near plane above 0.
            stratified: Whether the borders of each ray are moved by a random part of an interval.
            requires_grad: Whether the distances carry gradients of the densities.
            generator: Draws for `stratified`; None takes the stream of the step.

        Returns:
            Starts and ends of the intervals, `prop_samples[-1] + num_samples` on each ray, from the
            near plane to the far plane without gaps.
        """
        near, far = (self._planes(plane, n_rays) for plane in (near_plane, far_plane))
        to_distance = spacing(sampling_type, near[:, None], far[:, None])
        generator = generator or stream("importance", self.step)

        def shift() -> Tensor:
            if not stratified:
                return torch.full_like(near, 0.5)
            return torch.rand(n_rays, generator=generator, device=generator.device).to(near)

        with torch.set_grad_enabled(requires_grad):
            edges = borders(1, shift())
            weights = torch.ones_like(edges[:, 1:])
            for density, count in zip(prop_sigma_fns, prop_samples, strict=True):
                edges = invert(edges, weights, borders(count, shift()))
                t = to_distance(edges)
                weights = returned_light(density(t[:, :-1], t[:, 1:]), t)
            added = invert(edges, weights, borders(num_samples + 1, shift()))[:, 1:-1]
            t = to_distance(torch.cat([edges, added], dim=-1).sort(dim=-1).values)
        return t[:, :-1], t[:, 1:]

    def _planes(self, plane: Union[Number, Tensor], n_rays: int) -> Float[Tensor, " R"]:
        if isinstance(plane, Tensor):
            return plane
        return self._dummy.new_full((n_rays,), plane)


def spacing(
    kind: str, near: Float[Tensor, "R 1"], far: Float[Tensor, "R 1"]
) -> Callable[[Float[Tensor, "R e"]], Float[Tensor, "R e"]]:
    """Return the map from [0, 1] to distances between two planes: linear ("uniform"), or linear in
    the inverse distance ("lindisp")."""
    if kind == "uniform":
        return lambda s: near + s * (far - near)
    if kind != "lindisp":
        raise ValueError(f"sampling_type is {kind!r}, allowed are 'uniform' and 'lindisp'.")
    if (near <= 0.0).any():
        raise ValueError("sampling_type 'lindisp' needs a near_plane above 0.")
    return lambda s: 1.0 / ((1.0 - s) / near + s / far)
