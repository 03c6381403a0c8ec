"""Ray intersections of the five solids and layered renders of scenes.

Every function works on rays in the world frame, `[..., 3]`, with unit directions, and returns the
distance along the ray to the first hit (`inf` where it misses) and the outward unit normal there. A
solid has a centre, a size (the radius of the ball it fills) and a yaw about z in radians.
"""

import math
from typing import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Hit = tuple[Float[Tensor, "N R"], Float[Tensor, "N R 3"]]

CUBE_HALF_EDGE = 0.72
CYLINDER_RADIUS, CYLINDER_HALF_HEIGHT = 0.66, 0.78
CONE_RADIUS, CONE_HALF_HEIGHT = 0.80, 0.86
TORUS_MAJOR, TORUS_MINOR = 0.66, 0.27
TORUS_TRACE_STEPS = 40

HALF_HEIGHT = {
    "sphere": 1.0,
    "cube": CUBE_HALF_EDGE,
    "cylinder": CYLINDER_HALF_HEIGHT,
    "cone": CONE_HALF_HEIGHT,
    "torus": TORUS_MAJOR + TORUS_MINOR,
}
"""Half of the extent along z, in units of the size."""

LIGHT_DIRECTION = (0.45, -0.35, 0.82)
AMBIENT = 0.38


def intersect(
    shape: str,
    rays_o: Float[Tensor, "N R 3"],
    rays_d: Float[Tensor, "N R 3"],
    center: Float[Tensor, "N 3"],
    size: Float[Tensor, " N"],
    yaw: Float[Tensor, " N"],
) -> Hit:
    """Intersect rays with N instances of one shape, R rays each."""
    scale = size[:, None, None]
    rotation = _rotation_z(-yaw)
    local_o = torch.einsum("nij,nrj->nri", rotation, (rays_o - center[:, None]) / scale)
    local_d = torch.einsum("nij,nrj->nri", rotation, rays_d)
    distance, normal = _LOCAL_INTERSECTIONS[shape](local_o, local_d)
    return distance * scale[..., 0], torch.einsum("nji,nrj->nri", rotation, normal)


def shade(normal: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """Half-Lambert shading in [AMBIENT, 1] under the fixed light of the object's frame."""
    light = F.normalize(normal.new_tensor(LIGHT_DIRECTION), dim=0)
    return AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * normal @ light)


def _rotation_z(angle: Float[Tensor, " N"]) -> Float[Tensor, "N 3 3"]:
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).view(-1, 3, 3)


def _nearest(*hits: Hit) -> Hit:
    distance, normal = hits[0]
    for other_distance, other_normal in hits[1:]:
        closer = other_distance < distance
        distance = torch.where(closer, other_distance, distance)
        normal = torch.where(closer[..., None], other_normal, normal)
    return distance, normal


def _quadratic_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the smaller root of a t^2 + 2 b t + c = 0, `inf` where there is none."""
    discriminant = b * b - a * c
    root = (-b - discriminant.clamp(min=0).sqrt()) / torch.where(a.abs() < 1e-9, 1e-9, a)
    return torch.where((discriminant > 0) & (root > 0), root, math.inf)


def _disk(o: Tensor, d: Tensor, z: float, radius: float) -> Hit:
    t = (z - o[..., 2]) / torch.where(d[..., 2].abs() < 1e-9, 1e-9, d[..., 2])
    inside = (o + t[..., None] * d)[..., :2].square().sum(-1) <= radius**2
    normal = torch.zeros_like(o)
    normal[..., 2] = math.copysign(1.0, z)
    return torch.where(inside & (t > 0), t, math.inf), normal


def _sphere(o: Tensor, d: Tensor) -> Hit:
    t = _quadratic_root(torch.ones_like(o[..., 0]), (o * d).sum(-1), o.square().sum(-1) - 1)
    return t, _point(o, d, t)


def _cube(o: Tensor, d: Tensor) -> Hit:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    near = (-CUBE_HALF_EDGE * inverse.sign() - o) * inverse
    far = (CUBE_HALF_EDGE * inverse.sign() - o) * inverse
    t, axis = near.max(dim=-1)
    hit = (t < far.min(dim=-1).values) & (t > 0)
    normal = F.one_hot(axis, 3).to(o) * -d.sign()
    return torch.where(hit, t, math.inf), normal


def _cylinder(o: Tensor, d: Tensor) -> Hit:
    a = d[..., :2].square().sum(-1)
    b = (o[..., :2] * d[..., :2]).sum(-1)
    t = _quadratic_root(a, b, o[..., :2].square().sum(-1) - CYLINDER_RADIUS**2)
    point = _point(o, d, t)
    side = torch.where(point[..., 2].abs() <= CYLINDER_HALF_HEIGHT, t, math.inf)
    normal = F.normalize(point * point.new_tensor([1.0, 1.0, 0.0]), dim=-1)
    caps = [_disk(o, d, z, CYLINDER_RADIUS) for z in (CYLINDER_HALF_HEIGHT, -CYLINDER_HALF_HEIGHT)]
    return _nearest((side, normal), *caps)


def _cone(o: Tensor, d: Tensor) -> Hit:
    slope = CONE_RADIUS / (2 * CONE_HALF_HEIGHT)
    apex_o = o - o.new_tensor([0.0, 0.0, CONE_HALF_HEIGHT])
    signs = o.new_tensor([1.0, 1.0, -(slope**2)])
    a, b, c = ((u * v * signs).sum(-1) for u, v in ((d, d), (apex_o, d), (apex_o, apex_o)))
    discriminant = (b * b - a * c).clamp(min=0).sqrt()
    safe_a = torch.where(a.abs() < 1e-9, 1e-9, a)
    sides = []
    for sign in (-1, 1):
        t = (-b + sign * discriminant) / safe_a
        point = _point(o, d, t)
        valid = (b * b > a * c) & (t > 0) & (point[..., 2].abs() <= CONE_HALF_HEIGHT)
        normal = (point - o.new_tensor([0.0, 0.0, CONE_HALF_HEIGHT])) * signs
        sides.append((torch.where(valid, t, math.inf), F.normalize(normal, dim=-1)))
    return _nearest(*sides, _disk(o, d, -CONE_HALF_HEIGHT, CONE_RADIUS))


def _torus_distance(p: Tensor) -> Tensor:
    """Signed distance to a torus whose axis is x, so that the ring faces the front."""
    ring = p[..., 1:].norm(dim=-1) - TORUS_MAJOR
    return torch.stack([ring, p[..., 0]], dim=-1).norm(dim=-1) - TORUS_MINOR


def _torus(o: Tensor, d: Tensor) -> Hit:
    """Sphere-trace the rays that meet the bounding ball."""
    bound = TORUS_MAJOR + TORUS_MINOR
    b = (o * d).sum(-1)
    entry = _quadratic_root(torch.ones_like(b), b, o.square().sum(-1) - bound**2)
    chosen = entry.isfinite()
    ray_o, ray_d, t = o[chosen], d[chosen], entry[chosen]
    for _ in range(TORUS_TRACE_STEPS):
        t = t + _torus_distance(_point(ray_o, ray_d, t))
    point = _point(ray_o, ray_d, t)
    ring = F.normalize(point * point.new_tensor([0.0, 1.0, 1.0]), dim=-1) * TORUS_MAJOR
    hit = (_torus_distance(point) < 1e-2) & (t < entry[chosen] + 2 * bound)
    distance, normal = torch.full_like(entry, math.inf), torch.zeros_like(o)
    distance[chosen] = torch.where(hit, t, math.inf)
    normal[chosen] = F.normalize(point - ring, dim=-1)
    return distance, normal


def _point(o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    return o + torch.where(t.isfinite(), t, 0.0)[..., None] * d


_LOCAL_INTERSECTIONS: dict[str, Callable[[Tensor, Tensor], Hit]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
}
