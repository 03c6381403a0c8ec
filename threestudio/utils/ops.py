"""Maths on tensors: activations, rays and cameras, chunking.

Cameras follow OpenGL: the columns of `c2w` are (right, up, backward, position), the camera looks
along its -z.
"""

import math
from typing import Any, Callable, Optional, Union

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .typing import Number

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


def get_ray_directions(
    H: int,
    W: int,
    focal: Union[Number, tuple[Number, Number]],
    principal: Optional[tuple[Number, Number]] = None,
    use_pixel_centers: bool = True,
) -> Float[Tensor, "H W 3"]:
    """Return the viewing direction of each pixel in camera coordinates, with z = -1.

    Args:
        H: Image height in pixels.
        W: Image width in pixels.
        focal: Focal length in pixels; a pair (fx, fy) needs `principal`.
        principal: Principal point (cx, cy) in pixels; the centre when `focal` is one number.
        use_pixel_centers: Shoot through the middle of each pixel.
    """
    offset = 0.5 if use_pixel_centers else 0.0
    if isinstance(focal, (int, float)):
        fx = fy = float(focal)
        cx, cy = W / 2, H / 2
    else:
        if principal is None:
            raise ValueError("A pair of focal lengths needs the `principal` point (cx, cy).")
        (fx, fy), (cx, cy) = focal, principal
    x = (torch.arange(W, dtype=torch.float32) + offset - cx) / fx
    y = -(torch.arange(H, dtype=torch.float32) + offset - cy) / fy
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, -torch.ones_like(x)], dim=-1)


def get_rays(
    directions: Float[Tensor, "*N 3"],
    c2w: Float[Tensor, "*B 4 4"],
    keepdim: bool = False,
    noise_scale: Number = 0.0,
    normalize: bool = True,
    generator: Optional[torch.Generator] = None,
) -> tuple[Float[Tensor, "*M 3"], Float[Tensor, "*M 3"]]:
    """Turn pixel directions into rays in world coordinates.

    Args:
        directions: `[N, 3]` (one per camera), `[H, W, 3]` (shared) or `[B, H, W, 3]`.
        c2w: `[4, 4]` or `[B, 4, 4]`.
        keepdim: Keep the image axes instead of returning `[N, 3]`.
        noise_scale: Standard deviation of noise added to origins and directions.
        normalize: Make directions unit vectors.
        generator: Source of the noise; needed when `noise_scale` is not 0.

    Returns:
        Origins and directions, of one shape.
    """
    if directions.ndim == 2 and c2w.ndim == 2:
        c2w = c2w[None]
    if directions.ndim == 3 and c2w.ndim == 3:
        directions = directions[None]
    axes = (None,) * (directions.ndim - 2) if c2w.ndim == 3 else (None,) * (directions.ndim - 1)
    rotation = c2w[..., :3, :3] if c2w.ndim == 2 else c2w[(slice(None), *axes, slice(3), slice(3))]
    rays_d = (directions[..., None, :] * rotation).sum(-1)
    position = c2w[..., :3, 3] if c2w.ndim == 2 else c2w[(slice(None), *axes, slice(3), 3)]
    rays_o = position.expand(rays_d.shape)
    if noise_scale > 0:
        noise = torch.randn((2, *rays_d.shape), generator=generator).to(rays_d)
        rays_o, rays_d = rays_o + noise_scale * noise[0], rays_d + noise_scale * noise[1]
    if normalize:
        rays_d = F.normalize(rays_d, dim=-1)
    return (rays_o, rays_d) if keepdim else (rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))


def get_projection_matrix(
    fovy: Float[Tensor, " B"], aspect_wh: Number, near: Number, far: Number
) -> Float[Tensor, "B 4 4"]:
    """Return perspective projections.

    Image y points down, as rasterisers expect; `fovy` in radians.
    """
    half = torch.tan(fovy / 2.0)
    proj = torch.zeros(fovy.shape[0], 4, 4, dtype=torch.float32, device=fovy.device)
    proj[:, 0, 0] = 1.0 / (half * aspect_wh)
    proj[:, 1, 1] = -1.0 / half
    proj[:, 2, 2] = -(far + near) / (far - near)
    proj[:, 2, 3] = -2.0 * far * near / (far - near)
    proj[:, 3, 2] = -1.0
    return proj


def get_mvp_matrix(
    c2w: Float[Tensor, "B 4 4"], proj: Float[Tensor, "B 4 4"]
) -> Float[Tensor, "B 4 4"]:
    """Return `proj @ inverse(c2w)`, using that the upper left of `c2w` is a rotation."""
    world_to_camera = torch.zeros_like(c2w)
    rotation = c2w[:, :3, :3].transpose(1, 2)
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3:] = -rotation @ c2w[:, :3, 3:]
    world_to_camera[:, 3, 3] = 1.0
    return proj @ world_to_camera


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
