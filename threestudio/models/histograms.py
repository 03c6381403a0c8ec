"""Histograms along rays: made of densities, resampled, compared.

A histogram of R rays has `edges [R e]`, ascending in each row, and `weights [R e-1]`, the share of
the ray's light that each interval returns; a row of weights sums to the opacity of its ray."""

import torch
from jaxtyping import Float
from torch import Tensor

PADDING = 0.01
"""Weight that resampling spreads evenly over the intervals of a ray: one sample in a hundred looks
where nothing is known to be, and all samples of an empty ray (mip-NeRF, section 3.1, pads too)."""
LOSS_EPS = 1e-7


def borders(count: int, shift: Float[Tensor, " R"]) -> Float[Tensor, "R e"]:
    """Divide [0, 1] into `count` parts for each ray and return their `count + 1` borders.

    Args:
        count: Number of parts, at least 1.
        shift: Moves the inner borders by `shift - 0.5` parts, in [0, 1); 0.5 for equal parts. 0
            and 1, the ends, never move: nothing of the ray is left out.
    """
    inner = torch.arange(1, count, device=shift.device) + (shift[:, None] - 0.5)
    ends = shift.new_zeros(len(shift), 1), shift.new_ones(len(shift), 1)
    return torch.cat([ends[0], inner / count, ends[1]], dim=-1)


def returned_light(
    density: Float[Tensor, "R n"], edges: Float[Tensor, "R e"]
) -> Float[Tensor, "R n"]:
    """Return the weights of constant densities between edges, `T_i (1 - exp(-density_i length_i))`
    (NeRF, equation 3)."""
    optical = density * edges.diff(dim=-1)
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1]], dim=-1).cumsum(dim=-1)
    return torch.exp(-before) * -torch.expm1(-optical)


def invert(
    edges: Float[Tensor, "R e"], weights: Float[Tensor, "R n"], levels: Float[Tensor, "R k"]
) -> Float[Tensor, "R k"]:
    """Find the places below which given shares of a histogram lie (inverse transform sampling).

    The weights are padded by `PADDING` and normalised first; within an interval they are spread
    evenly.

    Args:
        edges: Edges of the histogram.
        weights: Its weights, not negative.
        levels: Shares, ascending in each row, in [0, 1].

    Returns:
        Places between the first and the last edge, ascending in each row.
    """
    cumulated = (weights + PADDING / weights.shape[1]).cumsum(dim=-1)
    cdf = torch.cat([torch.zeros_like(cumulated[:, :1]), cumulated / cumulated[:, -1:]], dim=-1)
    above = torch.searchsorted(cdf.detach(), levels.contiguous(), right=True)
    above = above.clamp_(1, weights.shape[1])
    low, high = cdf.gather(-1, above - 1), cdf.gather(-1, above)
    share = ((levels - low) / (high - low)).clamp(0.0, 1.0)
    start, end = edges.gather(-1, above - 1), edges.gather(-1, above)
    # rounding must not carry a place past the edge: the order of the places would break
    return torch.minimum(start + share * (end - start), end)


def interlevel_loss(
    edges: Float[Tensor, "R e"],
    weights: Float[Tensor, "R n"],
    proposal_edges: Float[Tensor, "R f"],
    proposal_weights: Float[Tensor, "R m"],
) -> Float[Tensor, ""]:
    """Penalise a proposal where it promises less than was found (mip-NeRF 360, equations 12 and
    13).

    No histogram on the proposal's intervals can agree with the fine one if a fine interval weighs
    more than all the proposal's intervals that overlap it. What it weighs more, squared and divided
    by the weight, is summed over each ray; the mean over the rays is returned.

    Args:
        edges: Edges of the fine histogram.
        weights: Its weights; no gradient is wanted for them.
        proposal_edges: Edges of the proposal.
        proposal_weights: Its weights, which learn.
    """
    last = proposal_weights.shape[1]
    total = proposal_weights.cumsum(dim=-1)
    total = torch.cat([torch.zeros_like(total[:, :1]), total], dim=-1)
    starts, ends = edges[:, :-1].contiguous(), edges[:, 1:].contiguous()
    first = (torch.searchsorted(proposal_edges, starts, right=True) - 1).clamp_(0, last)
    past = torch.searchsorted(proposal_edges, ends).clamp_(0, last)
    bound = total.gather(-1, past) - total.gather(-1, first)
    excess = (weights - bound).clamp_min(0.0)
    return (excess**2 / (weights + LOSS_EPS)).sum(dim=-1).mean()
