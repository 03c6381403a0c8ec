"""Camera maths. World: right-handed, z up; azimuth 0 is the front, with the camera on +x, and grows
towards +y.

Cameras follow OpenGL: the columns of `c2w` are (right, up, backward, position); a camera looks
along its -z. Seen from the front, the right of the image is +y. Angles of a pose are in degrees, a
field of view is in radians."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.ops import (
    get_mvp_matrix,
    get_projection_matrix,
    get_ray_directions,
    get_rays,
)


@dataclass(frozen=True)
class Poses:
    """Where B cameras and their lights stand, and how wide they see."""

    elevation: Float[Tensor, " B"]
    """Degrees above the xy plane."""
    azimuth: Float[Tensor, " B"]
    """Degrees from +x towards +y."""
    distance: Float[Tensor, " B"]
    """Distance from the origin before any perturbation, world units."""
    fovy: Float[Tensor, " B"]
    """Vertical field of view, radians."""
    position: Float[Tensor, "B 3"]
    """Camera centre, after perturbation."""
    center: Float[Tensor, "B 3"]
    """Point that is looked at."""
    up: Float[Tensor, "B 3"]
    """Approximate up direction, any length."""
    light: Float[Tensor, "B 3"]
    """Position of the point light."""


def spherical_to_cartesian(
    elevation_deg: Float[Tensor, "*N"],
    azimuth_deg: Float[Tensor, "*N"],
    distance: Float[Tensor, "*N"],
) -> Float[Tensor, "*N 3"]:
    """Place points at `distance * (cos e cos a, cos e sin a, sin e)`."""
    elevation, azimuth = torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg)
    directions = torch.stack(
        [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1
    )
    return distance[..., None] * directions


def look_at(
    position: Float[Tensor, "B 3"], center: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """Build the camera-to-world matrix of cameras that look from `position` to `center`.

    A camera that looks straight along `up` has no defined roll; its image then points to -x at the
    top, which is the limit of a front camera that rises to 90 degrees."""
    forward = F.normalize(center - position, dim=-1)
    right = torch.linalg.cross(forward, F.normalize(up, dim=-1), dim=-1)
    spare = torch.linalg.cross(
        forward, forward.new_tensor([-1.0, 0.0, 0.0]).expand_as(forward), dim=-1
    )
    right = F.normalize(torch.where(right.norm(dim=-1, keepdim=True) < 1e-6, spare, right), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(right, forward, dim=-1), -forward], dim=-1)
    top = torch.cat([rotation, position[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def camera_rays(
    c2w: Float[Tensor, "B 4 4"],
    fovy: Float[Tensor, " B"],
    height: int,
    width: int,
    normalize: bool = True,
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
    """Cast one ray through the centre of every pixel.

    Args:
        c2w: Camera-to-world matrices.
        fovy: Vertical field of view in radians.
        height: Rows of the image; row 0 is the top.
        width: Columns of the image; column 0 is the left.
        normalize: Whether directions have unit length; otherwise their camera-space z is -1.

    Returns:
        Origins and directions in world space.
    """
    directions = get_ray_directions(height, width, 1.0).to(c2w)[None].repeat(len(c2w), 1, 1, 1)
    focal = 0.5 * height / torch.tan(0.5 * fovy)
    directions[..., :2] = directions[..., :2] / focal[:, None, None, None]
    return get_rays(directions, c2w, keepdim=True, normalize=normalize)


def dreamfusion_light(
    position: Float[Tensor, "B 3"], noise: Float[Tensor, "B 3"], distance: Float[Tensor, " B"]
) -> Float[Tensor, "B 3"]:
    """Put a light near the camera's direction: `distance * normalize(position + noise)`."""
    return distance[:, None] * F.normalize(position + noise, dim=-1)


def magic3d_light(
    position: Float[Tensor, "B 3"], uniform: Float[Tensor, "B 2"], distance: Float[Tensor, " B"]
) -> Float[Tensor, "B 3"]:
    """Put a light within 60 degrees of the camera's direction, at local elevation 30 to 90.

    Args:
        position: Camera centres.
        uniform: Draws in [0, 1) for the local azimuth (a full turn) and the local elevation.
        distance: Distance of the light from the origin.
    """
    rotation = look_at(
        position,
        torch.zeros_like(position),
        position.new_tensor([0.0, 0.0, 1.0]).expand_as(position),
    )
    azimuth = (2.0 * uniform[:, 0] - 1.0) * 180.0
    elevation = 30.0 + 60.0 * uniform[:, 1]
    local = spherical_to_cartesian(elevation, azimuth, distance)
    return (rotation[:, :3, :3] @ local[..., None])[..., 0]


def camera_batch(
    poses: Poses, height: int, width: int, near: float, far: float, normalize: bool
) -> dict[str, Float[Tensor, "B ..."] | int]:
    """Turn poses into the batch that systems, renderers and guidances read.

    Args:
        poses: B camera poses.
        height: Rows of the rendered image.
        width: Columns of the rendered image.
        near: Near plane of the projection matrix, world units.
        far: Far plane of the projection matrix, world units.
        normalize: Whether ray directions have unit length.

    Returns:
        `rays_o, rays_d [B H W 3]`, `mvp_mtx, proj_mtx, c2w [B 4 4]`, `camera_positions,
        light_positions [B 3]`, `elevation, azimuth [B]` in degrees, `camera_distances [B]`, `fovy
        [B]` in radians, `height`, `width`.
    """
    c2w = look_at(poses.position, poses.center, poses.up)
    rays_o, rays_d = camera_rays(c2w, poses.fovy, height, width, normalize)
    projection = get_projection_matrix(poses.fovy, width / height, near, far)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, projection),
        "proj_mtx": projection,
        "camera_positions": poses.position,
        "c2w": c2w,
        "light_positions": poses.light,
        "elevation": poses.elevation,
        "azimuth": poses.azimuth,
        "camera_distances": poses.distance,
        "fovy": poses.fovy,
        "height": height,
        "width": width,
    }


def sphere_elevation(
    uniform: Float[Tensor, " R"], low_deg: float, high_deg: float
) -> Float[Tensor, " R"]:
    """Map uniform draws to elevations in degrees, uniform in area on the sphere."""
    low, high = math.sin(math.radians(low_deg)), math.sin(math.radians(high_deg))
    return torch.rad2deg(torch.asin((uniform * (high - low) + low).clamp(-1.0, 1.0)))
