"""Rays and projections of cameras.

Cameras follow OpenGL: the columns of `c2w` are (right, up, backward, position), the camera looks
along its -z.
"""

import math
from typing import Optional, Union

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .typing import Number


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


def get_full_projection_matrix(
    c2w: Float[Tensor, "4 4"], proj: Float[Tensor, "4 4"]
) -> Float[Tensor, "4 4"]:
    """Return `c2w @ proj`, for matrices that act on rows."""
    return c2w @ proj


def convert_pose(C2W: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """Turn an OpenGL camera into an OpenCV one: y down, looking along +z."""
    return C2W * C2W.new_tensor([1.0, -1.0, -1.0, 1.0])


def get_projection_matrix_gaussian(
    znear: Number,
    zfar: Number,
    fovX: Number,
    fovY: Number,
    device: Optional[Union[str, torch.device]] = None,
) -> Float[Tensor, "4 4"]:
    """Return the projection of Gaussian splatting: OpenCV axes, depth from 0 (near) to 1 (far).

    Args:
        znear: Distance of the near plane.
        zfar: Distance of the far plane.
        fovX: Horizontal field of view, radians.
        fovY: Vertical field of view, radians.
        device: Where the matrix is made; None is torch's default device.
    """
    proj = torch.zeros(4, 4, device=device)
    proj[0, 0] = 1.0 / math.tan(fovX / 2.0)
    proj[1, 1] = 1.0 / math.tan(fovY / 2.0)
    proj[2, 2] = zfar / (zfar - znear)
    proj[2, 3] = -zfar * znear / (zfar - znear)
    proj[3, 2] = 1.0
    return proj


def get_fov_gaussian(P: Float[Tensor, "4 4"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the horizontal and the vertical field of view of a projection, radians."""
    return 2.0 * torch.atan(1.0 / P[0, 0]), 2.0 * torch.atan(1.0 / P[1, 1])


def get_cam_info_gaussian(
    c2w: Float[Tensor, "4 4"], fovx: Number, fovy: Number, znear: Number, zfar: Number
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "4 4"], Float[Tensor, "3"]]:
    """Return what a Gaussian rasteriser wants of an OpenGL camera.

    Args:
        c2w: Camera to world.
        fovx: Horizontal field of view, radians.
        fovy: Vertical field of view, radians.
        znear: Distance of the near plane.
        zfar: Distance of the far plane.

    Returns:
        World to camera and world to clip space, both transposed (they act on rows), and the camera
        position; on the device of `c2w`.
    """
    world_view = torch.linalg.inv(convert_pose(c2w)).T
    proj = get_projection_matrix_gaussian(znear, zfar, float(fovx), float(fovy), c2w.device).T
    return world_view, world_view @ proj.to(world_view), c2w[:3, 3]
