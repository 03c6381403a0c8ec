"""A tetrahedral grid of the unit cube, and how a surface cuts one tetrahedron.

All tetrahedra (a, b, c, d) are positively oriented: det(b - a, c - a, d - a) > 0.
"""

import zipfile
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.utils.errors import UserError

Grid = tuple[Float[Tensor, "N 3"], Int[Tensor, "T 4"]]
"""Vertices in [0, 1]^3 and the four vertices of each tetrahedron."""

EDGES = tuple(combinations(range(4), 2))
"""The six edges of a tetrahedron, as pairs of its corners."""
RING = ((-1, -1), (1, -1), (1, 1), (-1, 1))
"""The corners of a square, counterclockwise."""


def body_centred_grid(resolution: int) -> Grid:
    """Fill the unit cube with the tetrahedra of the body-centred cubic lattice.

    The lattice is the corners and the centres of n = ceil(resolution / 2) cubes a side. The line
    between two neighbouring centres crosses the square that their cubes share, and makes a
    tetrahedron with each of its four sides. At the border the square's middle takes the place of
    the missing centre: half a tetrahedron, so that the unit cube is filled exactly.
    """
    side = 2 * max((resolution + 1) // 2, 1)  # coordinates in half cubes: even corners, odd centres
    even, odd = torch.arange(0, side + 1, 2), torch.arange(1, side, 2)
    tetrahedra = torch.cat([_around_lines(axis, even, odd, side) for axis in range(3)])
    used = torch.zeros((side + 1) ** 3, dtype=torch.bool)
    used[tetrahedra.flatten()] = True
    points = torch.stack(torch.unravel_index(used.nonzero()[:, 0], (side + 1,) * 3), dim=-1)
    return points / side, (used.cumsum(0) - 1)[tetrahedra]


def _around_lines(
    axis: int, even: Int[Tensor, " P"], odd: Int[Tensor, " Q"], side: int
) -> Int[Tensor, "T 4"]:
    """Return the tetrahedra around all lines between centres that run along one axis."""
    along, u, v = torch.cartesian_prod(even, odd, odd).T

    def number(*coordinates: Tensor) -> Tensor:
        x, y, z = (coordinates[(i - axis) % 3] for i in range(3))  # a cyclic swap keeps orientation
        return (x * (side + 1) + y) * (side + 1) + z

    low, high = number((along - 1).clamp_min(0), u, v), number((along + 1).clamp_max(side), u, v)
    ring = [number(along, u + du, v + dv) for du, dv in RING]
    ring.append(ring[0])
    parts = [torch.stack([low, high, *ring[i : i + 2]], dim=-1) for i in range(4)]
    return torch.cat(parts)


def read_grid(path: str) -> Grid:
    """Read `vertices` in [0, 1]^3 and `indices` of an `.npz`; negative tetrahedra are turned."""
    try:
        with np.load(path) as file:
            vertices, indices = file["vertices"], file["indices"]
        if vertices.shape[1:] != (3,) or indices.shape[1:] != (4,):
            raise ValueError(f"its shapes are {vertices.shape} and {indices.shape}")
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"The tetrahedral grid '{path}' cannot be read: {error}. It must be an .npz with "
            "`vertices` [Nv, 3] and `indices` [Nt, 4]."
        ) from error
    points, tetrahedra = torch.from_numpy(vertices).float(), torch.from_numpy(indices).long()
    first, *others = points[tetrahedra].double().unbind(1)
    negative = torch.linalg.det(torch.stack([point - first for point in others], dim=1)) < 0
    tetrahedra[negative] = tetrahedra[negative][:, [0, 1, 3, 2]]
    return points, tetrahedra


def surface_table() -> Int[Tensor, "16 2 3"]:
    """List the triangles that a surface cuts out of a tetrahedron.

    Row `code` has bit i set if corner i is inside. A triangle is three edges (indices of `EDGES`)
    whose cuts are counterclockwise seen from outside; -1 fills the rows up to two triangles.
    """
    table = torch.full((16, 2, 3), -1)
    for code in range(16):
        for row, triangle in enumerate(_triangles(code)):
            table[code, row] = torch.tensor(triangle)
    return table


def _triangles(code: int) -> list[list[int]]:
    inside = [corner for corner in range(4) if code >> corner & 1]
    outside = [corner for corner in range(4) if not code >> corner & 1]
    if len(inside) in (0, 4):
        return []
    if len(inside) == 2:
        a, b, c, d = _positive(inside + outside)
        quad = [_edge(a, c), _edge(a, d), _edge(b, d), _edge(b, c)]
        return [[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]]
    alone, rest = sorted((inside, outside), key=len)
    a, b, c, d = _positive(alone + rest)
    triangle = [_edge(a, b), _edge(a, c), _edge(a, d)]  # its normal points away from a
    return [triangle if alone is inside else triangle[::-1]]


def _positive(corners: list[int]) -> list[int]:
    """Return the corners as an even permutation, which is as oriented as the tetrahedron."""
    inversions = sum(first > second for first, second in combinations(corners, 2))
    return corners if inversions % 2 == 0 else [*corners[:2], corners[3], corners[2]]


def _edge(first: int, second: int) -> int:
    return EDGES.index((min(first, second), max(first, second)))
