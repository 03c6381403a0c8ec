"""Maths on tensors: activations, chunking, small formulas; and, where extensions look for them, the
cameras of `threestudio.utils.cameras`."""

import math
from typing import Any, Callable, Optional, Union

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .cameras import (
    convert_pose,
    get_cam_info_gaussian,
    get_fov_gaussian,
    get_full_projection_matrix,
    get_mvp_matrix,
    get_projection_matrix,
    get_projection_matrix_gaussian,
    get_ray_directions,
    get_rays,
)
from .logging import warn
from .typing import Number

__all__ = [
    "SpecifyGradient",
    "ValidScale",
    "binary_cross_entropy",
    "chunk_batch",
    "convert_pose",
    "dot",
    "get_activation",
    "get_cam_info_gaussian",
    "get_fov_gaussian",
    "get_full_projection_matrix",
    "get_mvp_matrix",
    "get_projection_matrix",
    "get_projection_matrix_gaussian",
    "get_ray_directions",
    "get_rays",
    "lin2srgb",
    "perpendicular_component",
    "reflect",
    "scale_tensor",
    "shifted_cosine_decay",
    "shifted_expotional_decay",
    "tet_sdf_diff",
    "trunc_exp",
    "validate_empty_rays",
]

ValidScale = Union[tuple[Number, Number], Tensor]
"""Bounds `(low, high)`, or a `[2, D]` tensor of bounds per channel."""


def dot(x: Float[Tensor, "*N D"], y: Float[Tensor, "*N D"]) -> Float[Tensor, "*N 1"]:
    """Return the inner product over the last axis."""
    return torch.sum(x * y, -1, keepdim=True)


def reflect(x: Float[Tensor, "*N 3"], n: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Mirror directions `x` at unit normals `n`: `2 (x . n) n - x`."""
    return 2 * dot(x, n) * n - x


def scale_tensor(
    dat: Float[Tensor, "*N D"], inp_scale: Optional[ValidScale], tgt_scale: Optional[ValidScale]
) -> Float[Tensor, "*N D"]:
    """Map `inp_scale` affinely to `tgt_scale`; None is (0, 1)."""
    low, high = (0.0, 1.0) if inp_scale is None else inp_scale
    new_low, new_high = (0.0, 1.0) if tgt_scale is None else tgt_scale
    return (dat - low) / (high - low) * (new_high - new_low) + new_low


class _TruncExp(torch.autograd.Function):
    """`exp` whose gradient is that of `exp(min(x, 15))`, so that a density cannot explode in one
    step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.float()
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(torch.clamp(x, max=15))


trunc_exp = _TruncExp.apply


class SpecifyGradient(torch.autograd.Function):
    """A loss of value 1 whose gradient is given: `SpecifyGradient.apply(x, gradient)`."""

    @staticmethod
    def forward(ctx: Any, input_tensor: Tensor, gt_grad: Tensor) -> Tensor:
        ctx.save_for_backward(gt_grad)
        return torch.ones([1], device=input_tensor.device, dtype=input_tensor.dtype)

    @staticmethod
    def backward(ctx: Any, grad_scale: Tensor) -> tuple[Tensor, None]:
        (gt_grad,) = ctx.saved_tensors
        return gt_grad * grad_scale, None


def lin2srgb(x: Tensor) -> Tensor:
    """Encode linear RGB in [0, 1] as sRGB (IEC 61966-2-1)."""
    curve = 1.055 * torch.clamp(x, min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(x > 0.0031308, curve, 12.92 * x).clamp(0.0, 1.0)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "lin2srgb": lin2srgb,
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1.0),
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1.0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "shifted_softplus": lambda x: F.softplus(x - 1.0),
    "scale_-11_01": lambda x: x * 0.5 + 0.5,
}


def get_activation(name: Optional[str]) -> Callable[[Tensor], Tensor]:
    """Return an activation by name: one of ours, else a function of `torch.nn.functional`; None is
    the identity.
    """
    if name is None:
        return _ACTIVATIONS["none"]
    key = name.lower()
    if key in _ACTIVATIONS:
        return _ACTIVATIONS[key]
    function = getattr(F, key, None)
    if not callable(function):
        raise ValueError(
            f"Unknown activation '{name}'. Use null, one of {', '.join(_ACTIVATIONS)}, or a "
            "function of torch.nn.functional such as softplus."
        )
    return function


def chunk_batch(func: Callable, chunk_size: int, *args: Any, **kwargs: Any) -> Any:
    """Call `func` on slices of its tensor arguments along axis 0 and join what it returns.

    Args:
        func: Returns a tensor, or a tuple, list or dict of tensors and Nones.
        chunk_size: Length of a slice; 0 or less means one call with everything.
        *args: Tensors are sliced, everything else is passed on.
        **kwargs: Like `args`.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if chunk_size <= 0 or not tensors:
        return func(*args, **kwargs)
    length = tensors[0].shape[0]
    chunks = []
    for start in range(0, max(length, 1), chunk_size):  # an empty batch still tells what comes out
        part = slice(start, start + chunk_size)
        out = func(*(_cut(v, part) for v in args), **{k: _cut(v, part) for k, v in kwargs.items()})
        chunks.append(out)
    return _join(chunks)


def _cut(value: Any, part: slice) -> Any:
    return value[part] if isinstance(value, Tensor) else value


def _join(chunks: list[Any]) -> Any:
    first = chunks[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        joined = torch.cat(chunks, dim=0)
        return joined if torch.is_grad_enabled() else joined.detach()
    if isinstance(first, dict):
        return {key: _join([chunk[key] for chunk in chunks]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_join(list(column)) for column in zip(*chunks, strict=True))
    raise TypeError(
        f"chunk_batch can join tensors, tuples, lists and dicts, not {type(first).__name__}."
    )


def binary_cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross entropy of probabilities; unlike torch's, allowed under
    autocast.
    """
    return -(target * torch.log(input) + (1 - target) * torch.log(1 - input)).mean()


def shifted_expotional_decay(a: Number, b: Number, c: Number, r: Any) -> Any:
    """Return `a exp(-b r) + c` (upstream's spelling)."""
    return a * (math.exp(-b * r) if isinstance(r, (int, float)) else torch.exp(-b * r)) + c


def shifted_cosine_decay(a: Number, b: Number, c: Number, r: Any) -> Any:
    """Return `a cos(b r + c) + a`."""
    return a * (math.cos(b * r + c) if isinstance(r, (int, float)) else torch.cos(b * r + c)) + a


def perpendicular_component(
    x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """Return the part of `x` that is perpendicular to `y`, per image (Perp-Neg, 2304.04968)."""
    inner = torch.sum(x * y, dim=(1, 2, 3), keepdim=True)
    norm = torch.sum(y * y, dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    return x - inner / norm * y


def tet_sdf_diff(
    vert_sdf: Float[Tensor, "N 1"], tet_edges: Int[Tensor, "M 2"]
) -> Float[Tensor, ""]:
    """Penalise sign changes along edges of a tetrahedral grid (nvdiffrec, section 5), which would
    be floating or inner surfaces.

    Args:
        vert_sdf: Signed distance at each vertex.
        tet_edges: The two vertices of each edge.
    """
    first, second = vert_sdf[tet_edges[:, 0], 0], vert_sdf[tet_edges[:, 1], 0]
    changes = torch.sign(first) != torch.sign(second)
    if not changes.any():
        return vert_sdf.sum() * 0.0
    first, second = first[changes], second[changes]
    entropy = F.binary_cross_entropy_with_logits
    towards_second = entropy(first, (second > 0).to(first))
    return towards_second + entropy(second, (first > 0).to(second))


def validate_empty_rays(
    ray_indices: Int[Tensor, " N"], t_start: Float[Tensor, " N"], t_end: Float[Tensor, " N"]
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Replace a set of no samples by one sample without length, which keeps the graph connected."""
    if len(ray_indices) > 0:
        return ray_indices, t_start, t_end
    warn("No ray meets the scene.")
    return ray_indices.new_zeros(1), t_start.new_zeros(1), t_end.new_zeros(1)
