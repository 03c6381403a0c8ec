"""Triangle meshes: attributes that are computed when asked for, clean-up, regularisers.

Positions and texture coordinates have an index each, because a vertex on a seam of the texture has
several coordinates there: corner c of triangle f is at `v_pos[t_pos_idx[f, c]]` and
`v_tex[t_tex_idx[f, c]]`. Triangles are counterclockwise seen from outside.
"""

from functools import cached_property
from typing import Any, Mapping, Optional

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from threestudio.models.packages import optional_package
from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import dot
from threestudio.utils.overrides import did_you_mean
from threestudio.utils.typing import Number


class Mesh:
    """A triangle mesh. Extras, such as the grid that it was extracted from, are attributes too."""

    def __init__(
        self, v_pos: Float[Tensor, "N 3"], t_pos_idx: Integer[Tensor, "M 3"], **kwargs: Any
    ) -> None:
        self.v_pos, self.t_pos_idx = v_pos, t_pos_idx
        self.extras: dict[str, Any] = {}
        self._v_tex: Optional[Tensor] = None
        self._t_tex_idx: Optional[Tensor] = None
        self._v_rgb: Optional[Tensor] = None
        for name, value in kwargs.items():
            self.add_extra(name, value)

    def __getattr__(self, name: str) -> Any:
        extras = self.__dict__.get("extras", {})  # not there yet while a copy is being made
        if name in extras:
            return extras[name]
        raise AttributeError(
            f"Mesh has no '{name}'. Its extras are: {', '.join(sorted(extras)) or 'none'}."
        )

    def add_extra(self, name: str, value: Any) -> None:
        """Keep something with the mesh, as `mesh.extras[name]` and `mesh.<name>`."""
        self.extras[name] = value

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow into the positions."""
        return self.v_pos.requires_grad

    @cached_property
    def v_nrm(self) -> Float[Tensor, "N 3"]:
        """Unit normals of the vertices: the mean of their triangles' normals, weighted by area."""
        corners = self.v_pos[self.t_pos_idx]
        sides = corners[:, 1:] - corners[:, :1]
        # the length of a cross product is twice the triangle's area
        normals = self._gathered(torch.linalg.cross(sides[:, 0], sides[:, 1], dim=-1))
        upwards = normals.new_tensor([0.0, 0.0, 1.0])
        return F.normalize(torch.where(dot(normals, normals) > 1e-20, normals, upwards), dim=-1)

    @cached_property
    def v_tng(self) -> Float[Tensor, "N 3"]:
        """Unit tangents of the vertices: the way u grows, perpendicular to `v_nrm`."""
        corners, texture = self.v_pos[self.t_pos_idx], self.v_tex[self.t_tex_idx]
        sides = corners[:, 1:] - corners[:, :1]
        (du1, dv1), (du2, dv2) = (texture[:, 1:] - texture[:, :1]).permute(1, 2, 0)
        # side_i = P_u du_i + P_v dv_i; solved for P_u, times |determinant|: the weight is an area
        along_u = sides[:, 0] * dv2[:, None] - sides[:, 1] * dv1[:, None]
        tangents = self._gathered(along_u * (du1 * dv2 - du2 * dv1).sign()[:, None])
        return F.normalize(tangents - dot(tangents, self.v_nrm) * self.v_nrm, dim=-1)

    def _gathered(self, of_triangles: Float[Tensor, "M 3"]) -> Float[Tensor, "N 3"]:
        """Sum a value of each triangle at its three vertices."""
        values = of_triangles.repeat_interleave(3, dim=0)
        return torch.zeros_like(self.v_pos).index_add(0, self.t_pos_idx.flatten().long(), values)

    @property
    def v_tex(self) -> Float[Tensor, "T 2"]:
        """Texture coordinates in [0, 1]; made by `unwrap_uv` if it was not called yet."""
        if self._v_tex is None:
            self.unwrap_uv()
        return self._v_tex

    @property
    def t_tex_idx(self) -> Integer[Tensor, "M 3"]:
        """Texture coordinates of the triangles' corners."""
        if self._t_tex_idx is None:
            self.unwrap_uv()
        return self._t_tex_idx

    def unwrap_uv(
        self,
        chart_options: Optional[Mapping[str, Any]] = None,
        pack_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Cut the surface into charts and pack them into the unit square, with xatlas.

        Args:
            chart_options: Attributes of `xatlas.ChartOptions`.
            pack_options: Attributes of `xatlas.PackOptions`.
        """
        xatlas = optional_package("xatlas", "xatlas", "Texture coordinates")
        charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
        _set_options(charts, chart_options or {}, "system.exporter.xatlas_chart_options")
        _set_options(packing, pack_options or {}, "system.exporter.xatlas_pack_options")
        atlas = xatlas.Atlas()
        triangles = self.t_pos_idx.cpu().numpy().astype("uint32")
        atlas.add_mesh(self.v_pos.detach().cpu().float().numpy(), triangles)
        atlas.generate(charts, packing)
        _, indices, coordinates = atlas.get_mesh(0)  # triangles stay in order, vertices are split
        self._v_tex = torch.from_numpy(coordinates).to(self.v_pos)
        self._t_tex_idx = torch.from_numpy(indices.astype("int64")).to(self.t_pos_idx)
        self.__dict__.pop("v_tng", None)

    @property
    def v_rgb(self) -> Optional[Float[Tensor, "N 3"]]:
        """Colours of the vertices in [0, 1], None if `set_vertex_color` was not called."""
        return self._v_rgb

    def set_vertex_color(self, v_rgb: Float[Tensor, "N 3"]) -> None:
        """Give each vertex a colour in [0, 1]."""
        if len(v_rgb) != len(self.v_pos):
            raise ValueError(f"{len(v_rgb)} colours for {len(self.v_pos)} vertices.")
        self._v_rgb = v_rgb

    @cached_property
    def edges(self) -> Integer[Tensor, "E 2"]:
        """Each edge once, the lower vertex first."""
        ends = torch.cat([self.t_pos_idx[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]).long()
        return unique_edges(ends[:, 0], ends[:, 1], len(self.v_pos)).to(self.t_pos_idx.dtype)

    def remove_outlier(self, outlier_n_faces_threshold: Number) -> "Mesh":
        """Drop small connected components; a mesh with gradients is returned as it is.

        Args:
            outlier_n_faces_threshold: Triangles that a component needs in order to stay: an int is
                a count, a float a share of the largest component's.

        Returns:
            A mesh with the same extras, which describe the grid and not the vertices.
        """
        if self.requires_grad or len(self.t_pos_idx) == 0:
            return self
        component = self._components()[self.t_pos_idx[:, 0].long()]
        sizes = component.bincount()
        least = outlier_n_faces_threshold
        if not isinstance(least, int):
            least = least * int(sizes.max())
        return self._with_triangles((sizes >= least)[component])

    def _components(self) -> Integer[Tensor, " N"]:
        """Number the connected component of each vertex."""
        graph = optional_package("scipy.sparse.csgraph", "scipy", "Removing outliers of a mesh")
        sparse = optional_package("scipy.sparse", "scipy", "Removing outliers of a mesh")
        ends, count = self.edges.cpu().numpy(), len(self.v_pos)
        joined = np.ones(len(ends), dtype=bool)
        adjacency = sparse.coo_matrix((joined, (ends[:, 0], ends[:, 1])), shape=(count, count))
        labels = graph.connected_components(adjacency, directed=False)[1]
        return torch.from_numpy(labels).long().to(self.v_pos.device)

    def _with_triangles(self, keep: Bool[Tensor, " M"]) -> "Mesh":
        """Keep some triangles and the vertices that they use."""
        triangles = self.t_pos_idx[keep].long()
        used = torch.zeros(len(self.v_pos), dtype=torch.bool, device=self.v_pos.device)
        used[triangles.flatten()] = True
        renumbered = (used.cumsum(0) - 1)[triangles].to(self.t_pos_idx.dtype)
        kept = Mesh(self.v_pos[used], renumbered, **self.extras)
        if self._v_rgb is not None:
            kept.set_vertex_color(self._v_rgb[used])
        return kept

    def normal_consistency(self) -> Float[Tensor, ""]:
        """Return the mean of 1 - cos of the angle between the normals at the ends of an edge."""
        ends = self.v_nrm[self.edges.long()]
        return (1.0 - F.cosine_similarity(ends[:, 0], ends[:, 1], dim=-1)).mean()

    def laplacian(self) -> Float[Tensor, ""]:
        """Return the mean distance of a vertex from its neighbours' mean (uniform weights)."""
        first, second = self.edges.long().T
        ends, others = torch.cat([first, second]), torch.cat([second, first])
        degree = torch.bincount(ends, minlength=len(self.v_pos))[:, None]
        sums = torch.zeros_like(self.v_pos).index_add(0, ends, self.v_pos[others])
        offsets = (sums - degree * self.v_pos) / degree.clamp_min(1)
        return offsets.norm(dim=-1).mean()


def unique_edges(
    first: Integer[Tensor, " N"], second: Integer[Tensor, " N"], num_vertices: int
) -> Integer[Tensor, "E 2"]:
    """List undirected edges once, sorted, the lower vertex first."""
    keys = torch.minimum(first, second) * num_vertices + torch.maximum(first, second)
    keys = torch.unique(keys)
    return torch.stack([keys // num_vertices, keys % num_vertices], dim=-1)


def _set_options(options: Any, values: Mapping[str, Any], key: str) -> None:
    known = [name for name in dir(options) if not name.startswith("_")]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"`{key}` has no option `{name}`."
                f"{did_you_mean(str(name), known) or ' Known are: ' + ', '.join(known) + '.'}"
            )
        setattr(options, name, value)
