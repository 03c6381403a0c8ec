"""Blending splats front to back, tile by tile, with an exact gradient (Kerbl et al. 2023, section 6
and appendix C).

A splat has `alpha = min(0.99, o exp(-q / 2))` at a pixel, where q is the squared Mahalanobis
distance of the pixel's centre, and none if that is at most 1 / 255. It adds `w = T alpha` times its
features; T is the transmittance, the product of 1 - alpha of all splats before it. A splat that
would take T to `STOP` or below is not drawn, nor is any behind it.

Inside of a tile the exponent is a polynomial of the pixel's place (x, y), measured from the middle
of the tile. All exponents of many splats and pixels are then one product of a matrix of
coefficients and the matrix of the monomials (x^2, x y, y^2, x, y, 1). Work goes through layers of
`LAYER` splats of `TILES_AT_ONCE` tiles; the backward pass evaluates a layer again, so that nothing
is stored but the transmittance before each layer."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .projection import ALPHA_MIN, Splats
from .tiles import TILE, TileLists

ALPHA_MAX = 0.99
"""Alpha is cut off here, so that T stays above 0."""
STOP = 1e-4
"""Transmittance at which a pixel counts as opaque."""
LAYER = 32
"""Splats of a tile that are evaluated together."""
TILES_AT_ONCE = 256
"""Tiles that are evaluated together: 256 * 32 * 64 numbers, which fits a CPU's cache."""
NOTHING = -1e4
"""Logarithm of the opacity of the splat that fills lists up."""


def blend(
    splats: Splats, features: Float[Tensor, "M F"], lists: TileLists
) -> Float[Tensor, "B H W F"]:
    """Return the sums of `w` times the features of splats at every pixel.

    Gradients reach the splats' centres, conics, opacities and features; they are exact except where
    alpha crosses one of its limits. There are no second derivatives."""
    shapes = torch.cat([splats.mean, splats.conic, splats.log_opacity[:, None]], dim=1)
    return lists.grid.assemble(_Blend.apply(shapes, features, lists))


@dataclass(frozen=True)
class _Layer:
    """Up to `LAYER` consecutive splats of A tiles."""

    tiles: Int[Tensor, " A"]
    rows: Int[Tensor, "A L"]
    """Splats; where the list of a tile has ended, one row past the last."""
    before: Float[Tensor, "A P"]
    """Transmittance before the first of them."""


@dataclass(frozen=True)
class _Evaluated:
    """A layer at the pixels of its tiles."""

    raw: Float[Tensor, "A L P"]
    """`o exp(-q / 2)`."""
    alpha: Float[Tensor, "A L P"]
    before: Float[Tensor, "A L P"]
    """Transmittance before each splat; 0 for splats that are not drawn because the pixel is opaque.
    """
    after: Float[Tensor, "A P"]
    """Transmittance after the layer."""


def _monomials(like: Tensor) -> Float[Tensor, "6 P"]:
    """Evaluate (x^2, x y, y^2, x, y, 1) at the pixels of a tile, row by row."""
    place = torch.arange(TILE, device=like.device).to(like) - 0.5 * (TILE - 1)
    y, x = (v.flatten() for v in torch.meshgrid(place, place, indexing="ij"))
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])


def _coefficients(
    shapes: Float[Tensor, "N 6"], center: Float[Tensor, "N 2"]
) -> Float[Tensor, "N 6"]:
    """Expand `log o - q / 2` into monomials of the place relative to `center`."""
    (u, v), (xx, xy, yy, log_opacity) = (shapes[:, :2] - center).unbind(1), shapes[:, 2:].unbind(1)
    x, y = xx * u + xy * v, xy * u + yy * v
    constant = log_opacity - 0.5 * (u * x + v * y)
    return torch.stack([-0.5 * xx, -xy, -0.5 * yy, x, y, constant], dim=1)


def _coefficients_backward(
    shapes: Float[Tensor, "N 6"], center: Float[Tensor, "N 2"], grad: Float[Tensor, "N 6"]
) -> Float[Tensor, "N 6"]:
    """Return the gradient of `shapes` from that of their coefficients."""
    (u, v), (xx, xy, yy, _) = (shapes[:, :2] - center).unbind(1), shapes[:, 2:].unbind(1)
    g_xx, g_xy, g_yy, g_x, g_y, g_1 = grad.unbind(1)
    # the constant is log o - (u x + v y) / 2, and x and y are linear in u and v
    p, q = g_x - u * g_1, g_y - v * g_1
    return torch.stack(
        [
            xx * p + xy * q,
            xy * p + yy * q,
            -0.5 * g_xx + u * (g_x - 0.5 * u * g_1),
            -g_xy + v * g_x + u * g_y - u * v * g_1,
            -0.5 * g_yy + v * (g_y - 0.5 * v * g_1),
            g_1,
        ],
        dim=1,
    )


class _Blend(torch.autograd.Function):
    """`blend` on tiles: `(shapes [M 6], features [M F], lists) -> [T P F]`."""

    @staticmethod
    def forward(ctx: Any, shapes: Tensor, features: Tensor, lists: TileLists) -> Tensor:
        filler = shapes.new_zeros(1, 6)
        filler[:, 5] = NOTHING
        shapes = torch.cat([shapes, filler])
        features = torch.cat([features, features.new_zeros(1, features.shape[1])])
        out = features.new_zeros(lists.grid.count, TILE * TILE, features.shape[1])
        layers = []
        monomials = _monomials(shapes)
        order = torch.argsort(lists.count, descending=True, stable=True)
        order = order[: int((lists.count > 0).sum())]
        for tiles in order.split(TILES_AT_ONCE):
            before, begin = shapes.new_ones(len(tiles), TILE * TILE), 0
            while len(tiles) > 0:
                layer = _Layer(tiles, _rows(lists, tiles, begin, len(shapes) - 1), before)
                found = _evaluate(layer, shapes, lists, monomials)
                weights = found.alpha * found.before
                sums = weights.transpose(1, 2) @ features[layer.rows]
                out.index_add_(0, tiles, sums)
                layers.append(layer)
                begin += LAYER
                goes_on = (lists.count[tiles] > begin) & (found.after.amax(dim=1) > STOP)
                tiles, before = tiles[goes_on], found.after[goes_on]
        ctx.save_for_backward(shapes, features)
        ctx.lists, ctx.layers = lists, layers
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        shapes, features = ctx.saved_tensors
        lists, monomials = ctx.lists, _monomials(shapes)
        to_shapes, to_features = torch.zeros_like(shapes), torch.zeros_like(features)
        # per pixel, the sum of w times its gradient over all that is behind a layer
        behind = grad.new_zeros(grad.shape[:2])
        for layer in reversed(ctx.layers):
            found = _evaluate(layer, shapes, lists, monomials)
            weights, at_pixels = found.alpha * found.before, grad[layer.tiles]
            to_weights = features[layer.rows] @ at_pixels.transpose(1, 2)
            rows = layer.rows.flatten()
            to_features.index_add_(0, rows, (weights @ at_pixels).flatten(0, 1))
            sums = (weights * to_weights).flip(1).cumsum(dim=1).flip(1)
            sums += behind[layer.tiles][:, None]
            following = torch.cat([sums[:, 1:], behind[layer.tiles][:, None]], dim=1)
            behind[layer.tiles] = sums[:, 0]
            to_alpha = found.before * to_weights - following / (1.0 - found.alpha)
            to_exponent = to_alpha * found.alpha * (found.raw <= ALPHA_MAX)
            to_coefficients = to_exponent.flatten(0, 1) @ monomials.T
            shape, center = shapes[rows], _centers(layer, lists, shapes)
            change = _coefficients_backward(shape, center, to_coefficients)
            to_shapes.index_add_(0, rows, change)
        return to_shapes[:-1], to_features[:-1], None


def _rows(
    lists: TileLists, tiles: Int[Tensor, " A"], begin: int, filler: int
) -> Int[Tensor, "A L"]:
    """Return the splats at places `begin` and following of the lists of tiles."""
    longest = int(lists.count[tiles].max())
    places = torch.arange(begin, min(begin + LAYER, longest), device=tiles.device)
    is_there = places < lists.count[tiles][:, None]
    places = (lists.start[tiles][:, None] + places).clamp_max(len(lists.splat) - 1)
    return lists.splat[places].masked_fill(~is_there, filler)


def _centers(layer: _Layer, lists: TileLists, like: Tensor) -> Float[Tensor, "N 2"]:
    """Return the middle of the tile that each splat of a layer is in."""
    centers = lists.grid.centers(layer.tiles).to(like)
    return centers.repeat_interleave(layer.rows.shape[1], dim=0)


def _evaluate(
    layer: _Layer, shapes: Float[Tensor, "N 6"], lists: TileLists, monomials: Float[Tensor, "6 P"]
) -> _Evaluated:
    coefficients = _coefficients(shapes[layer.rows.flatten()], _centers(layer, lists, shapes))
    raw = (coefficients @ monomials).exp_().view(*layer.rows.shape, -1)
    alpha = F.threshold(raw.clamp_max(ALPHA_MAX), ALPHA_MIN, 0.0)
    after = torch.cumprod(1.0 - alpha, dim=1) * layer.before[:, None]
    before = torch.cat([layer.before[:, None], after[:, :-1]], dim=1)
    last = after[:, -1]
    if bool((last <= STOP).any()):
        before = before.masked_fill(after <= STOP, 0.0)
    return _Evaluated(raw, alpha, before, last)
