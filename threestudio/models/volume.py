"""Ray marching in plain torch on packed samples: one flat row per sample, `ray_indices` ascending.

A ray is `origin + t * direction`. Its samples sit on a lattice `t_k = t_enter + (k + offset) *
step` that starts where the ray enters the scene's box, so that leaving samples out never moves the
others; or in the middle of given intervals."""

from dataclasses import dataclass
from typing import Union

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.utils.typing import Number


@dataclass(frozen=True)
class Samples:
    """Packed samples of a set of rays."""

    ray_indices: Int[Tensor, " P"]
    """Ray of each sample, ascending."""
    t: Float[Tensor, " P"]
    """Distance along the ray, ascending within a ray."""
    points: Float[Tensor, "P 3"]
    """World positions."""
    directions: Float[Tensor, "P 3"]
    """Direction of the sample's ray."""
    step: Union[Number, Float[Tensor, " P"]]
    """Length of the interval that each sample stands for; a number where all are equal."""

    def keep(self, rows: Int[Tensor, " Q"]) -> "Samples":
        """Return the samples of some rows, given in ascending order."""
        return Samples(
            *(
                x.index_select(0, rows)
                for x in (self.ray_indices, self.t, self.points, self.directions)
            ),
            step=self.step.index_select(0, rows) if isinstance(self.step, Tensor) else self.step,
        )

    def lengths(self) -> Float[Tensor, "P 1"]:
        """Return the length of each sample's interval."""
        if isinstance(self.step, Tensor):
            return self.step[:, None]
        return torch.full_like(self.t[:, None], self.step)

    def __len__(self) -> int:
        return len(self.t)


def box_interval(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], box: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Return where rays enter and leave a box; a ray that misses it leaves before it enters."""
    tiny = torch.finfo(directions.dtype).tiny
    # a zero component divides to +-inf outside the slab, and must not make 0 * inf inside it
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    to_low, to_high = (box[0] - origins) / safe, (box[1] - origins) / safe
    enter = torch.minimum(to_low, to_high).amax(dim=-1)
    leave = torch.maximum(to_low, to_high).amin(dim=-1)
    return enter, leave


def march(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    near: Float[Tensor, " R"],
    interval: tuple[Float[Tensor, " R"], Float[Tensor, " R"]],
    offset: Float[Tensor, " R"],
    step: float,
) -> Samples:
    """Lay out the lattice points `near + (k + offset) * step`, k >= 0, that fall into an interval
    of each ray.

    Args:
        origins: Ray origins.
        directions: Ray directions.
        near: Start of each ray's lattice.
        interval: Where samples are wanted, half open; empty if its end is not after its start.
        offset: Position of the first lattice point, in steps, in [0, 1).
        step: Distance of lattice points.
    """
    first = torch.ceil((interval[0] - near) / step - offset).clamp_min(0.0)
    last = torch.ceil((interval[1] - near) / step - offset)
    # rays that miss the box have enormous ends with the wrong sign
    counts = torch.where(interval[1] > interval[0], last - first, torch.zeros_like(first))
    counts = counts.clamp_min(0.0).long()
    rays = torch.repeat_interleave(torch.arange(len(near), device=near.device), counts)
    before = counts.cumsum(0) - counts
    index = torch.arange(len(rays), device=near.device) - before.index_select(0, rays)
    start = near + (first + offset) * step
    t = start.index_select(0, rays) + index * step
    along = directions.index_select(0, rays)
    return Samples(rays, t, origins.index_select(0, rays) + along * t[:, None], along, step)


def between(
    rays: Int[Tensor, " R"],
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    edges: Float[Tensor, "R e"],
) -> Samples:
    """Place one sample in the middle of each interval.

    Args:
        rays: Index of each ray, ascending.
        origins: Ray origins.
        directions: Ray directions.
        edges: Borders of each ray's intervals, ascending; every ray has equally many.
    """
    t, length = (edges[:, :-1] + edges[:, 1:]) / 2.0, edges.diff(dim=-1)
    count = t.shape[1]
    along = directions.repeat_interleave(count, dim=0)
    points = origins.repeat_interleave(count, dim=0) + along * t.reshape(-1, 1)
    return Samples(rays.repeat_interleave(count), t.reshape(-1), points, along, length.reshape(-1))


def accumulated_before(
    values: Float[Tensor, " P"], ray_indices: Int[Tensor, " P"], n_rays: int
) -> Float[Tensor, " P"]:
    """Sum, for each sample, the values of the earlier samples of its ray.

    One cumulative sum runs over all rays and each ray's start is taken off again; float64 keeps
    that exact enough."""
    total = values.double().cumsum(0)
    before = torch.cat([total.new_zeros(1), total])
    counts = torch.bincount(ray_indices, minlength=n_rays)
    starts = (counts.cumsum(0) - counts).index_select(0, ray_indices)
    return (before[:-1] - before.index_select(0, starts)).to(values.dtype)


def transmittance_and_alpha(
    density: Float[Tensor, " P"], samples: Samples, n_rays: int
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Return `T_i = exp(-sum_{j<i} density_j step)` and `alpha_i = 1 - exp(-density_i step)` (NeRF,
    equation 3)."""
    return attenuate(density * samples.step, samples.ray_indices, n_rays)


def attenuate(
    optical: Float[Tensor, " P"], ray_indices: Int[Tensor, " P"], n_rays: int
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Return the light that reaches each interval and the share that the interval keeps, of the
    optical depths of the intervals: `T_i = exp(-sum_{j<i} optical_j)` and `alpha_i = 1 -
    exp(-optical_i)`."""
    transmittance = torch.exp(-accumulated_before(optical, ray_indices, n_rays))
    return transmittance, -torch.expm1(-optical)


def sum_over_rays(
    values: Float[Tensor, "P C"], ray_indices: Int[Tensor, " P"], n_rays: int
) -> Float[Tensor, "R C"]:
    """Add up the rows of each ray; a ray without samples gets zeros."""
    return values.new_zeros(n_rays, values.shape[1]).index_add(0, ray_indices, values)


def composite(
    sums: Float[Tensor, "R D"], channels: int, with_normal: bool
) -> dict[str, Float[Tensor, "R C"]]:
    """Split per-ray sums of `w, w t, w t^2, w color (, w normal)` into images.

    The depth is not normalised by the opacity. Its variance, `sum w (t - depth)^2`, is set to 0
    where the opacity is not above one half. Normals are mapped to [0, 1] and multiplied by the
    opacity."""
    opacity, depth, second = sums[:, 0:1], sums[:, 1:2], sums[:, 2:3]
    variance = second - 2.0 * depth * depth + depth * depth * opacity
    images = {
        "comp_rgb_fg": sums[:, 3 : 3 + channels],
        "opacity": opacity,
        "depth": depth,
        "z_variance": torch.where(opacity > 0.5, variance, torch.zeros_like(variance)),
    }
    if with_normal:
        normal = F.normalize(sums[:, 3 + channels :], dim=-1)
        images["comp_normal"] = (normal + 1.0) / 2.0 * opacity
    return images
