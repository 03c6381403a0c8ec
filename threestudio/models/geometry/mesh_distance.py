"""Signed distance to a triangle mesh that is read from a file."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.packages import optional_package
from threestudio.utils.errors import UserError
from threestudio.utils.logging import warn
from threestudio.utils.ops import chunk_batch
from threestudio.utils.typing import Number

AXES = {
    f"{sign}{name}": (1 if sign == "+" else -1) * np.eye(3)[i]
    for sign in "+-"
    for i, name in enumerate("xyz")
}
"""Directions by name, `+x` to `-z`."""
NUM_SAMPLES = 50_000
NUM_NEIGHBOURS = 8
NUM_AT_ONCE = 50_000
ON_BORDER = 1e-6


def read_mesh(path: str, size: Number, up: str, front: str) -> Any:
    """Read a mesh and bring it into the scene.

    Args:
        path: Any format that trimesh reads; the parts of a scene are joined.
        size: Half of the longest edge of its bounding box afterwards, world units. The box is
            centred on the origin.
        up: Axis of the file, a key of `AXES`, that becomes +z.
        front: Axis of the file that becomes +x.

    Returns:
        A `trimesh.Trimesh` without duplicate vertices and degenerate triangles.
    """
    import trimesh

    try:
        mesh = trimesh.load_mesh(path)
    except Exception as error:  # each format fails in its own way
        raise UserError(f"The mesh '{path}' cannot be read: {error}") from error
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())
    if len(mesh.faces) == 0:
        raise UserError(f"The mesh '{path}' has no triangles.")
    rotation = np.stack([AXES[front], np.cross(AXES[up], AXES[front]), AXES[up]])
    low, high = mesh.bounds
    vertices = (mesh.vertices - (low + high) / 2) / ((high - low).max() / 2) * size
    mesh.vertices = vertices @ rotation.T
    if not mesh.is_watertight:
        warn(f"The mesh '{path}' is not closed: inside and outside may be mistaken at the gaps.")
    return mesh


class MeshDistance:
    """Signed distance to a closed mesh, negative inside.

    The distance to the nearest of a few candidate triangles, which come from a k-d tree of points
    on the surface; where several triangles are about as near, the nearest may be missed, for an
    error below the spacing of these points. The sign is that of the pseudonormal at the foot of
    the perpendicular: on an edge the sum of its two triangles' normals, at a vertex the angle
    weighted one (Baerentzen and Aanaes 2005).
    """

    def __init__(self, mesh: Any) -> None:
        import trimesh

        spatial = optional_package("scipy.spatial", "scipy", "`shape_init: mesh:...`")
        samples, triangle = trimesh.sample.sample_surface(mesh, NUM_SAMPLES, seed=0)
        samples = np.concatenate([samples, mesh.triangles_center])  # no triangle is left out
        self.triangle_of_sample = np.concatenate([triangle, np.arange(len(mesh.faces))])
        self.tree = spatial.cKDTree(samples)
        self.mesh, self.triangles = mesh, np.asarray(mesh.triangles)
        self.edge_normals = np.zeros((len(mesh.edges_unique), 3))
        np.add.at(self.edge_normals, mesh.faces_unique_edges, mesh.face_normals[:, None])

    def __call__(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Return the signed distance of points; it has no gradient."""
        return chunk_batch(self._signed, NUM_AT_ONCE, points)

    def _signed(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        from trimesh.triangles import closest_point

        queries = points.detach().cpu().double().numpy()
        candidates = self.triangle_of_sample[self.tree.query(queries, k=NUM_NEIGHBOURS)[1]]
        repeated = np.repeat(queries, NUM_NEIGHBOURS, axis=0)
        feet = closest_point(self.triangles[candidates.ravel()], repeated)
        feet = feet.reshape(-1, NUM_NEIGHBOURS, 3)
        distances = np.linalg.norm(queries[:, None] - feet, axis=-1)
        best = (np.arange(len(queries)), distances.argmin(axis=1))
        normals = self._pseudonormals(candidates[best], feet[best])
        inside = ((queries - feet[best]) * normals).sum(axis=-1) < 0
        signed = np.where(inside, -distances[best], distances[best])
        return torch.from_numpy(signed)[:, None].to(points)

    def _pseudonormals(self, triangle: np.ndarray, foot: np.ndarray) -> np.ndarray:
        from trimesh.triangles import points_to_barycentric

        shares = points_to_barycentric(self.triangles[triangle], foot)
        num_corners = (shares > ON_BORDER).sum(axis=-1)  # 3 in the middle, 2 on an edge, else 1
        edge = (shares.argmin(axis=-1) + 1) % 3  # edges are (0, 1), (1, 2), (2, 0)
        of_edge = self.edge_normals[self.mesh.faces_unique_edges[triangle, edge]]
        of_vertex = self.mesh.vertex_normals[self.mesh.faces[triangle, shares.argmax(axis=-1)]]
        of_triangle = self.mesh.face_normals[triangle]
        on_edge, inside = (num_corners == 2)[:, None], (num_corners == 3)[:, None]
        return np.where(inside, of_triangle, np.where(on_edge, of_edge, of_vertex))
