"""3D Gaussians to ellipses in a picture: Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time
Radiance Field Rendering", section 4, after Zwicker et al. 2001, "EWA Volume Splatting".

The camera looks along +z, x points right and y down (OpenCV). Pixel space has x to the right and y
down; the centre of the pixel in column i and row j is (i + 0.5, j + 0.5)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio.utils.errors import NonFiniteError

from .covariance import rotation_matrices, scaled_axes

DILATION = 0.3
"""Added to both variances of a projected Gaussian, square pixels: none is thinner than a pixel."""
ALPHA_MIN = 1.0 / 255.0
"""A Gaussian adds nothing to pixels where its alpha is at most this."""
RADIUS_SIGMAS = 3.0
"""Standard deviations in the radius that is reported of a projected Gaussian."""
FIELD_MARGIN = 1.3
"""The affine approximation is taken at most at this multiple of the half field of view: further out
it would blow Gaussians up that only touch the picture."""


@dataclass(frozen=True)
class Gaussians:
    """Gaussians in world space, their parameters after activation."""

    means: Float[Tensor, "N 3"]
    """Centres, world units."""
    scales: Float[Tensor, "N 3"]
    """Standard deviations along the three axes, world units, above 0."""
    rotations: Float[Tensor, "N 4"]
    """Quaternions (w, x, y, z) of any length above 0 that turn the axes."""
    opacities: Float[Tensor, " N"]
    """Opacity at the centre, in [0, 1]."""
    harmonics: Float[Tensor, "N K 3"]
    """Spherical harmonics of the colours, all of one degree."""

    def refuse_non_finite(self) -> None:
        """Raise an error that names the first parameter that is NaN or infinite."""
        for name in ("means", "scales", "rotations", "opacities", "harmonics"):
            values = getattr(self, name)
            bad = ~values.detach().flatten(1 if values.ndim > 1 else 0).isfinite()
            bad = bad.any(dim=1) if bad.ndim > 1 else bad
            if bad.any():
                raise NonFiniteError(
                    f"The {name} of {int(bad.sum())} of {len(bad)} Gaussians are NaN or infinite, "
                    f"the first is number {int(bad.nonzero()[0, 0])}. Lower the learning rates "
                    "(`system.geometry.*_lr`), or remove it from the file it was read from."
                )


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with square pixels, the principal point in the middle."""

    rotation: Float[Tensor, "B 3 3"]
    """World to camera."""
    center: Float[Tensor, "B 3"]
    """Positions, world units."""
    focal: Float[Tensor, " B"]
    """Focal lengths, pixels."""
    height: int
    width: int

    @classmethod
    def of(
        cls, c2w: Float[Tensor, "B 4 4"], fovy: Float[Tensor, " B"], height: int, width: int
    ) -> "Cameras":
        """Take over cameras of the runtime: OpenGL matrices, vertical fields of view in radians."""
        flip = c2w.new_tensor([1.0, -1.0, -1.0])
        rotation = (c2w[:, :3, :3] * flip).transpose(1, 2)
        return cls(rotation, c2w[:, :3, 3], 0.5 * height / torch.tan(0.5 * fovy), height, width)


@dataclass(frozen=True)
class Splats:
    """The projected Gaussians that some picture shows, one row for each picture and Gaussian."""

    view: Int[Tensor, " M"]
    """Picture."""
    index: Int[Tensor, " M"]
    """Gaussian."""
    mean: Float[Tensor, "M 2"]
    """Centre, pixels."""
    conic: Float[Tensor, "M 3"]
    """Entries (xx, xy, yy) of the inverse covariance, 1 / square pixels."""
    log_opacity: Float[Tensor, " M"]
    """Logarithm of the opacity."""
    depth: Float[Tensor, " M"]
    """Distance from the camera along its axis, world units."""
    reach: Float[Tensor, "M 2"]
    """Half sizes of the box outside of which alpha is at most `ALPHA_MIN`, pixels; no gradient."""
    radii: Float[Tensor, "B N"]
    """`RADIUS_SIGMAS` standard deviations along the longer axis, rounded up to pixels, of every
    Gaussian in every picture; 0 where a picture does not show it. No gradient."""


def facing_normals(
    gaussians: Gaussians, index: Int[Tensor, " M"], towards: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 3"]:
    """Return the shortest axis of Gaussians, a unit vector on the side of `towards`.

    The choice of axis and side has no gradient, the direction has that of the rotation."""
    shortest = gaussians.scales.detach().argmin(dim=1)
    columns = rotation_matrices(gaussians.rotations).transpose(1, 2)
    axis = columns[torch.arange(len(columns), device=columns.device), shortest][index]
    return torch.where((axis * towards).sum(dim=-1, keepdim=True) < 0, -axis, axis)


def affine_images(
    axes: Float[Tensor, "N 3 3"], seen: Float[Tensor, "B N 3"], cameras: Cameras
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 3"]]:
    """Project the axes of Gaussians by the local affine approximation of the perspective (Zwicker
    et al. 2001, equation 29).

    Args:
        axes: Scaled axes as rows, in the world.
        seen: Centres in camera space, with z above 0.
        cameras: The cameras.

    Returns:
        The x and the y of the three projected axes, in pixels. With these as the rows of V, the
        covariance in the picture is `V V^T`.
    """
    count = len(axes)
    turned = axes.reshape(1, -1, 3) @ cameras.rotation.transpose(1, 2)
    turned = turned.reshape(len(seen), count, 3, 3)
    focal = cameras.focal[:, None]
    rows = []
    for k, size in enumerate((cameras.width, cameras.height)):
        limit = FIELD_MARGIN * 0.5 * size / focal
        slope = (seen[..., k] / seen[..., 2]).clamp(-limit, limit)
        rate = (focal / seen[..., 2])[..., None]
        rows.append((turned[..., k] - slope[..., None] * turned[..., 2]) * rate)
    return rows[0], rows[1]


def ellipses(
    gaussians: Gaussians, seen: Float[Tensor, "B N 3"], cameras: Cameras
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 3"]]:
    """Return the covariances in the pictures and their inverses, entries (xx, xy, yy)."""
    axes = scaled_axes(gaussians.scales, gaussians.rotations)
    across, down = affine_images(axes, seen, cameras)
    xx, yy = ((v * v).sum(dim=-1) + DILATION for v in (across, down))
    xy = (across * down).sum(dim=-1)
    # |V V^T| is the squared cross product of the rows of V; xx * yy - xy^2 would cancel
    flat = (torch.linalg.cross(across, down, dim=-1) ** 2).sum(dim=-1)
    determinant = flat + DILATION * (xx + yy - DILATION)
    inverse = torch.stack([yy, -xy, xx], dim=-1) / determinant[..., None]
    return torch.stack([xx, xy, yy], dim=-1), inverse


def project(
    gaussians: Gaussians, cameras: Cameras, near: float, far: float, offsets: Float[Tensor, "B N 2"]
) -> Splats:
    """Project Gaussians and keep what is in front of a camera and inside of its picture.

    Args:
        gaussians: The Gaussians.
        cameras: The cameras.
        near: Gaussians whose centre has a depth of this or less are not drawn.
        far: Nor are those with more than this.
        offsets: Added to the projected centres, in units of half a picture (x of its width, y of
            its height). Their gradient is what density control looks at.

    Raises:
        NonFiniteError: For parameters that are NaN or infinite, or so large that the projection is.
    """
    gaussians.refuse_non_finite()
    seen = (gaussians.means - cameras.center[:, None]) @ cameras.rotation.transpose(1, 2)
    ahead = (seen[..., 2] > near) & (seen[..., 2] <= far)
    ahead = ahead & (gaussians.opacities > ALPHA_MIN)
    # a stand-in depth where there is nothing to draw keeps the division and its gradient finite
    seen = torch.where(ahead[..., None], seen, torch.ones_like(seen))
    covariance, conic = ellipses(gaussians, seen, cameras)
    _refuse_overflow(ahead, conic)
    half = offsets.new_tensor([0.5 * cameras.width, 0.5 * cameras.height])
    mean = seen[..., :2] / seen[..., 2:] * cameras.focal[:, None, None] + half * (1.0 + offsets)
    reach, radii = _extents(covariance, gaussians.opacities)
    shown = ahead & ((mean + reach > 0) & (mean - reach < 2.0 * half)).all(dim=-1)
    view, index = shown.nonzero(as_tuple=True)
    rows = view * shown.shape[1] + index
    return Splats(
        view=view,
        index=index,
        mean=mean.flatten(0, 1).index_select(0, rows),
        conic=conic.flatten(0, 1).index_select(0, rows),
        log_opacity=gaussians.opacities.index_select(0, index).log(),
        depth=seen[..., 2].flatten().index_select(0, rows),
        reach=reach.flatten(0, 1).index_select(0, rows),
        radii=radii * shown,
    )


@torch.no_grad()
def _extents(
    covariance: Float[Tensor, "B N 3"], opacities: Float[Tensor, " N"]
) -> tuple[Float[Tensor, "B N 2"], Float[Tensor, "B N"]]:
    """Return the half sizes of the boxes that can be seen, and the radii in whole pixels."""
    xx, xy, yy = covariance.unbind(-1)
    # alpha falls to ALPHA_MIN where the squared Mahalanobis distance is this
    limit = 2.0 * (opacities / ALPHA_MIN).clamp_min(1.0).log()
    reach = (limit[:, None] * torch.stack([xx, yy], dim=-1)).sqrt()
    largest = 0.5 * (xx + yy) + torch.hypot(0.5 * (xx - yy), xy)
    return reach, (RADIUS_SIGMAS * largest.sqrt()).ceil()


def _refuse_overflow(ahead: Bool[Tensor, "B N"], conic: Float[Tensor, "B N 3"]) -> None:
    broken = ahead & ~conic.detach().isfinite().all(dim=-1)
    if broken.any():
        raise NonFiniteError(
            f"Gaussian number {int(broken.nonzero()[0, 1])} is so large or so near that its "
            "projection overflows. Lower `system.geometry.scaling_lr`, or bound its scale."
        )
