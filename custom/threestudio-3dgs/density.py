"""Density control: where pictures want more Gaussians, and which ones they can do without.

The rules are those of Kerbl et al. 2023, section 5.2: Gaussians whose projected centre has a large
gradient on average are doubled if they are small and split if they are large; transparent ones are
removed. One thing differs: when a Gaussian is doubled, both get the opacity 1 - sqrt(1 - o), so
that together they are as opaque as it was (Rota Bulo et al. 2024, arXiv 2404.06109)."""

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .covariance import rotation_matrices
from .parameters import Values

SPLIT_FACTOR = 1.6
"""The halves of a split Gaussian are narrower by this."""
FEWEST = 64
"""Pruning leaves at least so many Gaussians, the most opaque ones: a picture of nothing has no
gradient, and a run would never recover."""
BIG = 3.0
"""With `prune_big_points`, Gaussians with this multiple of the mean radius are removed."""


@dataclass(frozen=True)
class Change:
    """How a set of Gaussians changes."""

    kept: Int[Tensor, " K"]
    """Rows that stay, in order."""
    added: Values
    """New rows behind them."""


def densify(
    values: Values,
    slopes: Float[Tensor, " P"],
    threshold: float,
    split_above: float,
    room: int,
    generator: Optional[torch.Generator],
) -> Change:
    """Double or split the Gaussians with a large gradient; changes opacities of doubled ones.

    Args:
        values: The parameters; `_opacity` is written to.
        slopes: Mean length of the gradient of the projected centre, in units of half a picture.
        threshold: Gaussians with more than this are chosen.
        split_above: Of these, the ones whose largest scale exceeds this are split, world units.
        room: New Gaussians that there may be; those with the largest gradients come first.
        generator: Source of the places of split Gaussians.
    """
    chosen = (slopes > threshold).nonzero()[:, 0]
    order = slopes[chosen].argsort(descending=True, stable=True)
    chosen = chosen[order[: max(room, 0)]].sort().values
    large = values["_scaling"][chosen].exp().amax(dim=1) > split_above
    doubled, split = chosen[~large], chosen[large]
    values["_opacity"][doubled] = shared_opacity(values["_opacity"][doubled])
    copies = {name: value[doubled] for name, value in values.items()}
    halves = _halves({name: value[split] for name, value in values.items()}, generator)
    kept = torch.ones_like(slopes, dtype=torch.bool)
    kept[split] = False
    added = {name: torch.cat([copies[name], halves[name]]) for name in values}
    return Change(kept.nonzero()[:, 0], added)


def shared_opacity(logits: Float[Tensor, "N 1"]) -> Float[Tensor, "N 1"]:
    """Return the logit of 1 - sqrt(1 - o): two such Gaussians are as opaque as one with o.

    With s = sqrt(1 - o) it is log((1 - s) / s), and 1 - o = sigmoid(-logit)."""
    root = torch.sigmoid(-logits).sqrt()
    # 1 - s = o / (1 + s): exact where o is small
    return (torch.sigmoid(logits) / (1.0 + root) / root).log()


def _halves(values: Values, generator: Optional[torch.Generator]) -> Values:
    """Replace each Gaussian by two narrower ones at places drawn from it."""
    twice = {name: torch.cat([value, value]) for name, value in values.items()}
    place = twice["_xyz"]
    drawn = torch.randn(place.shape, generator=generator).to(place) * twice["_scaling"].exp()
    turned = (rotation_matrices(twice["_rotation"]) @ drawn[..., None])[..., 0]
    narrower = twice["_scaling"] - math.log(SPLIT_FACTOR)
    return {**twice, "_xyz": place + turned, "_scaling": narrower}


def surviving(
    opacity: Float[Tensor, " P"], least: float, radii: Optional[Float[Tensor, " P"]]
) -> Int[Tensor, " K"]:
    """Return the rows that pruning keeps.

    Args:
        opacity: Opacities.
        least: Gaussians below this are removed.
        radii: Largest radius of each in a picture, pixels, 0 if never seen. If given, those are
            removed too that exceed `BIG` times the mean of those that were seen.
    """
    fine = opacity >= least
    if radii is not None and bool((radii > 0).any()):
        fine = fine & (radii <= BIG * radii[radii > 0].mean())
    return _with_the_most_opaque(fine, opacity).nonzero()[:, 0]


def _with_the_most_opaque(
    fine: Bool[Tensor, " P"], opacity: Float[Tensor, " P"]
) -> Bool[Tensor, " P"]:
    fewest = min(FEWEST, len(fine))
    if int(fine.sum()) >= fewest:
        return fine
    # those that are fine first, then by opacity
    best = (opacity + fine.to(opacity)).argsort(descending=True, stable=True)[:fewest]
    return fine.index_fill(0, best, True)


def is_due(step: int, first: int, last: int, interval: int) -> bool:
    """Tell whether something is done at a step: every `interval` steps from `first` up to, and not
    at, `last`; never at step 0, before which nothing was trained."""
    return max(first, 1) <= step < last and step % interval == 0


def accumulate(
    sums: Float[Tensor, " P"],
    counts: Float[Tensor, " P"],
    largest: Float[Tensor, " P"],
    visible: Bool[Tensor, " P"],
    radii: Float[Tensor, " P"],
    gradient: Any,
) -> None:
    """Add one picture to the statistics, in place.

    Args:
        sums: Lengths of the gradients of projected centres, summed.
        counts: Pictures that showed a Gaussian.
        largest: Largest radius so far, pixels.
        visible: Which Gaussians the picture shows.
        radii: Their radii in it.
        gradient: Gradient of the projected centres [P 2 or more], None if there is none. One that
            is not finite is not counted.
    """
    torch.maximum(largest, radii.to(largest), out=largest)
    if gradient is not None:
        length = gradient[:, :2].norm(dim=1)
        counted = visible & length.isfinite()
        sums += torch.where(counted, length, 0.0)
        counts += counted
