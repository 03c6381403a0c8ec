"""Meshes of level sets on a grid over the unit cube; a level is negative inside."""

from abc import ABC, abstractmethod
from typing import Optional

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from threestudio.models.mesh import Mesh, unique_edges
from threestudio.models.packages import optional_package
from threestudio.models.tetrahedra import EDGES, body_centred_grid, read_grid, surface_table


class IsosurfaceHelper(nn.Module, ABC):
    """A grid, and how a mesh is taken of the levels at its vertices."""

    points_range: tuple[int, int] = (0, 1)
    """Lowest and highest coordinate of the grid and of the meshes."""

    @property
    @abstractmethod
    def grid_vertices(self) -> Float[Tensor, "N 3"]:
        """Where levels are needed, in `points_range`."""

    @abstractmethod
    def forward(
        self, level: Float[Tensor, "N 1"], deformation: Optional[Float[Tensor, "N 3"]] = None
    ) -> Mesh:
        """Return the zero level set.

        Args:
            level: Level at the grid's vertices.
            deformation: Raw offsets of the grid's vertices, any scale.
        """


class MarchingCubeCPUHelper(IsosurfaceHelper):
    """Marching cubes on a regular grid with `resolution` vertices a side; has no gradients."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        ticks = torch.linspace(*self.points_range, resolution)
        vertices = torch.cartesian_prod(ticks, ticks, ticks)
        self.register_buffer("_grid_vertices", vertices, persistent=False)

    @property
    def grid_vertices(self) -> Float[Tensor, "N 3"]:
        """Vertices of the grid, the last coordinate running fastest."""
        return self._grid_vertices

    def forward(
        self, level: Float[Tensor, "N 1"], deformation: Optional[Float[Tensor, "N 3"]] = None
    ) -> Mesh:
        """Return the zero level set, by scikit-image; the grid cannot be deformed."""
        if deformation is not None:
            raise ValueError(
                "Marching cubes cannot move the grid's vertices. Set "
                "`system.geometry.isosurface_method` to mt, or "
                "`system.geometry.isosurface_deformable_grid` to false."
            )
        measure = optional_package("skimage.measure", "scikit-image", "`isosurface_method: mc-cpu`")
        volume = level.detach().reshape((self.resolution,) * 3).float().cpu().numpy()
        vertices, faces, _, _ = measure.marching_cubes(volume, 0.0)
        return Mesh(
            torch.from_numpy(vertices.copy()).to(level) / (self.resolution - 1),
            torch.from_numpy(faces.copy()).long().to(level.device),
            grid_vertices=self.grid_vertices,
            grid_level=level,
        )


class MarchingTetrahedraHelper(IsosurfaceHelper):
    """Marching tetrahedra (Doi and Koide 1991): exact on a level that is linear in each
    tetrahedron, and differentiable in the levels and in the deformation of the grid (DMTet).

    The mesh is closed but for the cube's border, and has one vertex per cut edge.
    """

    def __init__(self, resolution: int, tets_path: str = "") -> None:
        """Make the grid.

        Args:
            resolution: Layers of vertices along an axis; an offset of the grid's vertices is at
                most `1 / resolution`.
            tets_path: An `.npz` with another grid, see `read_grid`; "" uses `body_centred_grid`.
        """
        super().__init__()
        self.resolution = resolution
        vertices, tetrahedra = read_grid(tets_path) if tets_path else body_centred_grid(resolution)
        self.register_buffer("_grid_vertices", vertices, persistent=False)
        self.register_buffer("tetrahedra", tetrahedra, persistent=False)
        self.register_buffer("table", surface_table(), persistent=False)
        self.register_buffer("edge_corners", torch.tensor(EDGES), persistent=False)
        self.register_buffer("_all_edges", None, persistent=False)

    @property
    def grid_vertices(self) -> Float[Tensor, "N 3"]:
        """Vertices of the undeformed grid."""
        return self._grid_vertices

    @property
    def all_edges(self) -> Int[Tensor, "E 2"]:
        """Each edge of the grid once; found at the first use."""
        if self._all_edges is None:
            first, second = (
                torch.cat([self.tetrahedra[:, pair[end]] for pair in EDGES]) for end in (0, 1)
            )
            self._all_edges = unique_edges(first, second, len(self._grid_vertices))
        return self._all_edges

    def forward(
        self, level: Float[Tensor, "N 1"], deformation: Optional[Float[Tensor, "N 3"]] = None
    ) -> Mesh:
        """Return the zero level set; the grid's vertices move by `tanh(deformation) /
        resolution`."""
        grid = self.grid_vertices
        if deformation is not None:
            grid = grid + torch.tanh(deformation) / self.resolution
        with torch.no_grad():
            edges, triangles = self._cut(level[:, 0] < 0)
        ends, levels = grid[edges], level[edges]
        # where the straight line between the two levels is zero; one is negative, one is not
        vertices = (ends[:, 0] * levels[:, 1] - ends[:, 1] * levels[:, 0]) / (
            levels[:, 1] - levels[:, 0]
        )
        return Mesh(
            vertices,
            triangles,
            grid_vertices=grid,
            tet_edges=self.all_edges,
            grid_level=level,
            grid_deformation=deformation,
        )

    def _cut(self, inside: Bool[Tensor, " N"]) -> tuple[Int[Tensor, "V 2"], Int[Tensor, "M 3"]]:
        """Return the cut edges, each a vertex of the mesh, and the triangles between them."""
        codes = sum(inside[self.tetrahedra[:, i]].byte() << i for i in range(4))
        is_cut = (codes > 0) & (codes < 15)
        tetrahedra, codes = self.tetrahedra[is_cut], codes[is_cut].long()
        ends = tetrahedra[:, self.edge_corners]
        crossing = inside[ends[..., 0]] != inside[ends[..., 1]]
        count = len(inside)
        keys = ends[crossing].amin(dim=-1) * count + ends[crossing].amax(dim=-1)
        unique, vertex = torch.unique(keys, return_inverse=True)
        vertex_of_edge = torch.zeros_like(crossing, dtype=torch.long)
        vertex_of_edge[crossing] = vertex
        local = self.table[codes]
        triangles = vertex_of_edge.gather(1, local.clamp_min(0).flatten(1)).view(-1, 3)
        edges = torch.stack([unique // count, unique % count], dim=-1)
        return edges, triangles[local.view(-1, 3)[:, 0] >= 0]
