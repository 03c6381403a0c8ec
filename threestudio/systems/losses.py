"""Regularisers of a rendered scene. Each takes the renderer's output and returns a scalar."""

from typing import Any, Callable

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import binary_cross_entropy, dot

Outputs = dict[str, Any]


def orient_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise normals that face away from the camera (Ref-NeRF, Eq. 11), per visible pixel."""
    facing_away = dot(out["normal"], out["t_dirs"]).clamp(min=0) ** 2
    visible = (out["opacity"] > 0).sum().clamp(min=1)
    return (out["weights"].detach() * facing_away).sum() / visible


def sparsity_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise opacity everywhere, with a gradient at 0."""
    return (out["opacity"] ** 2 + 0.01).sqrt().mean()


def opaque_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise half transparent pixels: the entropy of the opacity."""
    opacity = out["opacity"].clamp(1.0e-3, 1.0 - 1.0e-3)
    return binary_cross_entropy(opacity, opacity)


def z_variance_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise thick surfaces: depth variance along the rays that hit something (HiFA, section
    3.3)."""
    hit = out["opacity"] > 0.5
    return (out["z_variance"] * hit).sum() / hit.sum().clamp(min=1)


def eikonal_loss(out: Outputs) -> Float[Tensor, ""]:
    """Keep the gradient of a signed distance at length 1."""
    return ((torch.linalg.norm(out["sdf_grad"], ord=2, dim=-1) - 1.0) ** 2).mean()


def normal_consistency_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise bends: 1 - cos of the vertex normals at both ends of each edge of the mesh."""
    return out["mesh"].normal_consistency()


def laplacian_smoothness_loss(out: Outputs) -> Float[Tensor, ""]:
    """Penalise vertices that are not in the middle of their neighbours."""
    return out["mesh"].laplacian()


REGULARIZERS: dict[str, tuple[Callable[[Outputs], Tensor], tuple[str, ...], str]] = {
    "orient": (orient_loss, ("normal", "t_dirs", "weights", "opacity"), "geometry.normal_type"),
    "sparsity": (sparsity_loss, ("opacity",), ""),
    "opaque": (opaque_loss, ("opacity",), ""),
    "z_variance": (z_variance_loss, ("z_variance", "opacity"), ""),
    "eikonal": (eikonal_loss, ("sdf_grad",), "geometry_type: implicit-sdf"),
    "normal_consistency": (normal_consistency_loss, ("mesh",), "renderer_type: nvdiff-rasterizer"),
    "laplacian_smoothness": (
        laplacian_smoothness_loss,
        ("mesh",),
        "renderer_type: nvdiff-rasterizer",
    ),
}
"""Name in `lambda_<name>`: function, what it needs from the renderer, and the key that provides
it."""


def regularizer(name: str, out: Outputs) -> Float[Tensor, ""]:
    """Evaluate the regulariser of `lambda_<name>`.

    Raises:
        ConfigError: If the renderer does not return what it needs.
    """
    function, needed, provider = REGULARIZERS[name]
    missing = [key for key in needed if out.get(key) is None]
    if missing:
        hint = f" Set `system.{provider}`, or" if provider else " Set"
        raise ConfigError(
            f"`system.loss.lambda_{name}` needs {', '.join(missing)} from the renderer, which does "
            f"not return it.{hint} `system.loss.lambda_{name}=0`."
        )
    return function(out)
