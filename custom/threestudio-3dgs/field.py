"""Gaussians as a field in space, of which a surface can be taken.

The density at x is the sum of `o exp(-q / 2)` over the Gaussians, with the opacity o and the
squared Mahalanobis distance q of x; the colour there is the mean of their colours with these
weights. Points and Gaussians are sorted into cells, and each cell is one product of matrices, as in
`compositing`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .covariance import covariances
from .projection import Gaussians
from .spherical_harmonics import harmonics_to_rgb

CELLS = 16
"""Cells along each side of the box of the points."""
LEAST = 1e-4
"""A Gaussian ends where it adds less than this."""
SMALLEST = 1e-12
"""Density below which there is no colour."""


@torch.no_grad()
def evaluate(
    gaussians: Gaussians, points: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "N 1"], Float[Tensor, "N 3"]]:
    """Return density and colour at points; where there is nothing the colour is black.

    Computed in double precision: Gaussians may be far narrower than a cell."""
    covariance = covariances(gaussians.scales.double(), gaussians.rotations.double())
    means, opacities = gaussians.means.double(), gaussians.opacities.double()
    places = points.double()
    low = places.amin(dim=0) if len(places) else places.new_zeros(3)
    size = (places.amax(dim=0) - low if len(places) else low).clamp_min(1e-9) / CELLS
    squared = 2.0 * (opacities / LEAST).clamp_min(1.0).log()
    reach = (squared[:, None] * covariance.diagonal(dim1=1, dim2=2)).sqrt()
    member, cell = _cells_reached((means - reach - low) / size, (means + reach - low) / size)
    inverse = torch.linalg.inv(covariance)
    colors = harmonics_to_rgb(gaussians.harmonics[:, 0].double())
    values = torch.cat([torch.ones_like(colors[:, :1]), colors], dim=1)
    owner = _number(((places - low) / size).floor().clamp(0, CELLS - 1).long())
    order = torch.argsort(owner, stable=True)
    sums = places.new_zeros(len(places), 4)
    lists = _split(order, owner), _split(member, cell)
    for rows, members in zip(*lists, strict=True):
        if len(rows) and len(members):
            center = means[members].mean(dim=0)
            exponent = _coefficients(means[members] - center, inverse[members], opacities[members])
            weights = (_monomials(places[rows] - center) @ exponent.T).exp()
            sums[rows] = weights @ values[members]
    density = sums[:, :1]
    color = torch.where(density > SMALLEST, sums[:, 1:] / density.clamp_min(SMALLEST), 0.0)
    return density.to(points), color.to(points)


def _number(index: Int[Tensor, "N 3"]) -> Int[Tensor, " N"]:
    return (index[:, 0] * CELLS + index[:, 1]) * CELLS + index[:, 2]


def _cells_reached(
    low: Float[Tensor, "P 3"], high: Float[Tensor, "P 3"]
) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
    """List pairs of a Gaussian and a cell that its box meets, sorted by cell.

    The boxes are in units of a cell."""
    first = low.floor().clamp(0, CELLS).long()
    count = (high.floor().clamp(-1, CELLS - 1).long() - first + 1).clamp_min(0)
    volume = count.prod(dim=1)
    member = torch.repeat_interleave(volume)
    nth = torch.arange(len(member), device=member.device) - (volume.cumsum(0) - volume)[member]
    count, first = count[member], first[member]
    _, rows, columns = count.unbind(1)
    place = torch.stack([nth // (rows * columns), nth // columns % rows, nth % columns], dim=1)
    cell, order = torch.sort(_number(place + first), stable=True)
    return member[order], cell


def _split(items: Int[Tensor, " N"], cell: Int[Tensor, " N"]) -> tuple[Tensor, ...]:
    """Cut items that are sorted by cell into one list for each cell."""
    return items.split(torch.bincount(cell, minlength=CELLS**3).tolist())


def _monomials(x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 10"]:
    ones = torch.ones_like(x[:, :1])
    return torch.cat([x * x, x * x.roll(-1, dims=1), x, ones], dim=1)


def _coefficients(
    mean: Float[Tensor, "P 3"], inverse: Float[Tensor, "P 3 3"], opacity: Float[Tensor, " P"]
) -> Float[Tensor, "P 10"]:
    """Expand `log o - q / 2` into the monomials (x^2, y^2, z^2, x y, y z, z x, x, y, z, 1)."""
    linear = (inverse @ mean[..., None])[..., 0]
    mixed = torch.stack([inverse[:, 0, 1], inverse[:, 1, 2], inverse[:, 2, 0]], dim=1)
    constant = opacity.clamp_min(LEAST).log() - 0.5 * (linear * mean).sum(dim=1)
    square = inverse.diagonal(dim1=1, dim2=2)
    return torch.cat([-0.5 * square, -mixed, linear, constant[:, None]], dim=1)
