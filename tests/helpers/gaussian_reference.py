"""Gaussian splatting as the papers write it, one pixel and one Gaussian after the other, float64.

Shares no line with the extension: covariances are products of matrices, the order is a sort of
Python tuples, and harmonics are looked up from scipy."""

import math

import numpy as np
from scipy.special import sph_harm_y


def rotation(q: np.ndarray) -> np.ndarray:
    """Turn by a unit quaternion: the imaginary part of q v q*, for each unit vector v."""

    def times(a, b):
        scalar = a[0] * b[0] - a[1:] @ b[1:]
        return np.concatenate([[scalar], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])

    q = q / np.linalg.norm(q)
    conjugate = q * [1, -1, -1, -1]
    columns = [times(times(q, np.concatenate([[0.0], v])), conjugate)[1:] for v in np.eye(3)]
    return np.stack(columns, axis=1)


def harmonics(direction: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics up to a degree, from the complex ones."""
    x, y, z = direction / np.linalg.norm(direction)
    polar, azimuth = math.acos(z), math.atan2(y, x)
    values = []
    for band in range(degree + 1):
        for m in range(-band, band + 1):
            value = sph_harm_y(band, abs(m), polar, azimuth)
            part = value.imag if m < 0 else value.real
            values.append(part * (math.sqrt(2) if m else 1.0))
    return np.array(values)


def ellipse(mean, scale, quaternion, c2w, fovy, height, width):
    """Return centre, inverse covariance and depth in a picture; None behind the near plane."""
    turn = rotation(quaternion)
    covariance = turn @ np.diag(scale**2) @ turn.T
    world_to_camera = np.diag([1.0, -1.0, -1.0]) @ c2w[:3, :3].T
    x, y, z = world_to_camera @ (mean - c2w[:3, 3])
    if not 0.1 < z <= 100:
        return None
    focal = height / (2 * math.tan(fovy / 2))
    edge = [1.3 * size / (2 * focal) * z for size in (width, height)]
    bx, by = max(-edge[0], min(edge[0], x)), max(-edge[1], min(edge[1], y))
    jacobian = np.array([[focal / z, 0, -focal * bx / z**2], [0, focal / z, -focal * by / z**2]])
    projected = jacobian @ world_to_camera
    flat = projected @ covariance @ projected.T + 0.3 * np.eye(2)
    return np.array([focal * x / z + width / 2, focal * y / z + height / 2]), np.linalg.inv(flat), z


def render(gaussians, c2w, fovy, height, width):
    """Return color, normal, depth and opacity [H W 8], by the formulas above.

    Args:
        gaussians: Arrays means, scales, rotations, opacities, harmonics.
        c2w: OpenGL camera [4 4].
        fovy: Vertical field of view, radians.
        height: Rows.
        width: Columns.
    """
    found = []
    for n, mean in enumerate(gaussians["means"]):
        shape = gaussians["scales"][n], gaussians["rotations"][n]
        place = ellipse(mean, *shape, c2w, fovy, height, width)
        if place is not None:
            found.append((place[2], n, place))
    found.sort(key=lambda f: f[:2])
    rows = [[pixel(gaussians, found, c2w, i, j) for i in range(width)] for j in range(height)]
    return np.array(rows)


def pixel(gaussians, found, c2w, i, j):
    """Blend what is found at one pixel, front to back."""
    total, transmittance = np.zeros(8), 1.0
    for depth, n, (center, inverse, _) in found:
        offset = np.array([i + 0.5, j + 0.5]) - center
        power = -0.5 * offset @ inverse @ offset
        alpha = min(0.99, gaussians["opacities"][n] * math.exp(power))
        if alpha <= 1 / 255:
            continue
        if transmittance * (1 - alpha) <= 1e-4:
            break
        total += transmittance * alpha * value(gaussians, n, depth, c2w)
        transmittance *= 1 - alpha
    return total


def value(gaussians, n, depth, c2w):
    """Return colour, normal, depth and 1 of a Gaussian."""
    coefficients = gaussians["harmonics"][n]
    away = gaussians["means"][n] - c2w[:3, 3]
    basis = harmonics(away, math.isqrt(len(coefficients)) - 1)
    normal = rotation(gaussians["rotations"][n])[:, np.argmin(gaussians["scales"][n])]
    normal = normal * (1 if normal @ -away >= 0 else -1)
    return np.concatenate([np.maximum(basis @ coefficients + 0.5, 0), normal, [depth, 1.0]])
