"""`tetrahedra-sdf-grid`: a surface from distances stored at the vertices of a tetrahedral grid."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.faults import refuse
from threestudio.models.geometry.base import (
    BaseExplicitGeometry,
    BaseGeometry,
    BaseImplicitGeometry,
    contract_to_unisphere,
)
from threestudio.models.geometry.extraction import level_set, outlier_faults, without_outliers
from threestudio.models.geometry.implicit_sdf import ImplicitSDF
from threestudio.models.geometry.implicit_volume import (
    copy_parts,
    default_encoding,
    default_network,
    network_faults,
)
from threestudio.models.geometry.shape_init import (
    Distance,
    ShapeConfig,
    StartsFromShape,
    shape_faults,
)
from threestudio.models.isosurface import MarchingTetrahedraHelper
from threestudio.models.mesh import Mesh
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.registry import register
from threestudio.utils.errors import UserError
from threestudio.utils.logging import warn
from threestudio.utils.ops import scale_tensor

FEATURE_PARTS = ("encoding", "feature_network")


@register("tetrahedra-sdf-grid")
class TetrahedraSDFGrid(StartsFromShape, BaseExplicitGeometry):
    """DMTet (Shen et al. 2021): distances and offsets at the vertices of a grid, from which a mesh
    is extracted with gradients; features from an encoding and a network."""

    @dataclass
    class Config(ShapeConfig, BaseExplicitGeometry.Config):
        isosurface_resolution: int = 128
        """Layers of grid vertices along each side of the box."""
        isosurface_deformable_grid: bool = True
        """Whether grid vertices may move, each by less than the distance of two layers."""
        isosurface_remove_outliers: bool = False
        """Drop small components (needs scipy), unless the mesh has gradients."""
        isosurface_outlier_n_faces_threshold: Any = 0.01
        """Triangles that a component needs: an int is a count, a float a share of the largest's."""
        isosurface_tets_path: str = ""
        """An `.npz` with another grid (`vertices` in [0, 1]^3, `indices`), for upstream's
        checkpoints; "" makes one. Not a key of upstream, which reads `load/tets/`."""
        n_input_dims: int = 3
        """Coordinates of a point."""
        n_feature_dims: int = 3
        """Features per point."""
        pos_encoding_config: dict = field(default_factory=default_encoding)
        """Encoding of positions."""
        mlp_network_config: dict = field(default_factory=default_network)
        """Network on top of it."""
        geometry_only: bool = False
        """Have no features, and no networks."""
        fix_geometry: bool = False
        """Do not train distances and offsets; the mesh is extracted once."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = ([] if cfg.geometry_only else network_faults(cfg)) + shape_faults(cfg)
        if cfg.isosurface_resolution < 2:
            faults.append(
                "`system.geometry.isosurface_resolution` is "
                f"{cfg.isosurface_resolution}; it must be 2 or more."
            )
        if cfg.isosurface_tets_path and not Path(cfg.isosurface_tets_path).is_file():
            faults.append(
                f"`system.geometry.isosurface_tets_path` is '{cfg.isosurface_tets_path}', but "
                "there is no such file."
            )
        return faults + outlier_faults(cfg)

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        refuse(self.check(cfg))
        self.register_buffer("isosurface_bbox", self.bbox.clone())
        self.isosurface_helper = MarchingTetrahedraHelper(
            cfg.isosurface_resolution, cfg.isosurface_tets_path
        )
        count = len(self.isosurface_helper.grid_vertices)
        self._add_values("sdf", torch.zeros(count, 1))
        deformable = cfg.isosurface_deformable_grid
        self._add_values("deformation", torch.zeros(count, 3) if deformable else None)
        self.has_features = not cfg.geometry_only and cfg.n_feature_dims > 0
        if self.has_features:
            self.encoding = get_encoding(cfg.n_input_dims, cfg.pos_encoding_config)
            width = self.encoding.n_output_dims
            self.feature_network = get_mlp(width, cfg.n_feature_dims, cfg.mlp_network_config)
        self._fixed_mesh: Optional[Mesh] = None
        self.watch_weights()
        self.register_load_state_dict_pre_hook(_forget_mesh)

    def _add_values(self, name: str, values: Optional[Tensor]) -> None:
        if self.cfg.fix_geometry:
            self.register_buffer(name, values)
        else:
            self.register_parameter(name, None if values is None else nn.Parameter(values))

    def take_shape(self, target: Distance) -> None:
        """Store a target's values."""
        vertices = self.isosurface_helper.grid_vertices
        points = scale_tensor(vertices, self.isosurface_helper.points_range, self.isosurface_bbox)
        self.sdf.data.copy_(target(points))
        self._fixed_mesh = None

    def isosurface(self) -> Mesh:
        """Return the surface in world units; with `fix_geometry` always the same mesh."""
        if self._fixed_mesh is not None and self._fixed_mesh.v_pos.device == self.sdf.device:
            return self._fixed_mesh
        if not self.sdf.min() < 0 < self.sdf.max():
            raise UserError(
                "The tetrahedra-sdf-grid has no surface: its distances lie in "
                f"[{self.sdf.min():.4g}, {self.sdf.max():.4g}]. Set `system.geometry.shape_init`, "
                "or load a shape (`system.geometry_convert_from`, `system.weights`)."
            )
        mesh = self.isosurface_helper(self.sdf, self.deformation)
        points = scale_tensor(mesh.v_pos, self.isosurface_helper.points_range, self.isosurface_bbox)
        mesh = Mesh(points, mesh.t_pos_idx, **mesh.extras, bbox=self.isosurface_bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = without_outliers(mesh, self.cfg)
        if self.cfg.fix_geometry:
            self._fixed_mesh = mesh
        return mesh

    def forward(
        self, points: Float[Tensor, "*N 3"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Return `features [*N F]` at world points in the box, nothing if `geometry_only`."""
        if output_normal:
            raise ValueError(
                "A tetrahedra-sdf-grid has no normals at points: take those of its mesh, "
                "`isosurface().v_nrm`."
            )
        if not self.has_features:
            return {}
        inside = contract_to_unisphere(points, self.bbox)
        return {"features": self.feature_network(self.encoding(inside))}

    def export(self, points: Float[Tensor, "*N 3"], **kwargs: Any) -> dict[str, Any]:
        """Return the features at points."""
        return dict(self(points))

    @staticmethod
    @torch.no_grad()
    def create_from(
        other: BaseGeometry, cfg: Optional[Any] = None, copy_net: bool = True, **kwargs: Any
    ) -> "TetrahedraSDFGrid":
        """Take over the surface of another grid of the same resolution, or of an implicit geometry.

        Features are copied if `copy_net` and the networks have the same shapes; else they start
        fresh.
        """
        if not isinstance(other, (TetrahedraSDFGrid, BaseImplicitGeometry)):
            raise TypeError(
                f"Cannot create a tetrahedra-sdf-grid from a {type(other).__name__}; only from "
                "another one, an implicit-volume, an implicit-sdf or a volume-grid."
            )
        made = TetrahedraSDFGrid(cfg, **kwargs).to(other.bbox.device)
        if isinstance(other, TetrahedraSDFGrid):
            _copy_grid(other, made)
        else:
            _sample_field(other, made)
        if made.has_features and copy_net:
            _copy_features(other, made)
        made.has_weights = True
        return made


def _forget_mesh(module: TetrahedraSDFGrid, *args: Any) -> None:
    module._fixed_mesh = None


def _copy_grid(source: TetrahedraSDFGrid, target: TetrahedraSDFGrid) -> None:
    grids = [geometry.isosurface_helper.grid_vertices for geometry in (source, target)]
    if grids[0].shape != grids[1].shape or not torch.equal(*grids):
        raise UserError(
            "A tetrahedra-sdf-grid can only be converted to one of the same grid: set "
            "`system.geometry.isosurface_resolution` to "
            f"{source.cfg.isosurface_resolution} (and `isosurface_tets_path` to the same file)."
        )
    target.isosurface_bbox.copy_(source.isosurface_bbox)
    target.sdf.data.copy_(source.sdf)
    if target.deformation is not None and source.deformation is not None:
        target.deformation.data.copy_(source.deformation)


def _sample_field(source: BaseImplicitGeometry, target: TetrahedraSDFGrid) -> None:
    """Store the level of a field at the vertices of a grid that fits tightly around its surface."""
    mesh = level_set(source, target.isosurface_helper)
    target.isosurface_bbox.copy_(mesh.bbox)
    # the level of a density grows to hundreds inside, which training could hardly undo
    level = mesh.grid_level if isinstance(source, ImplicitSDF) else mesh.grid_level.clamp(-1, 1)
    target.sdf.data.copy_(level)
    if target.deformation is not None and mesh.grid_deformation is not None:
        target.deformation.data.copy_(mesh.grid_deformation)


def _copy_features(source: nn.Module, target: TetrahedraSDFGrid) -> None:
    shapes = [
        {
            f"{name}.{key}": value.shape
            for name in FEATURE_PARTS
            for key, value in getattr(geometry, name, nn.Module()).state_dict().items()
        }
        for geometry in (source, target)
    ]
    if shapes[0] == shapes[1]:
        copy_parts(source, target, FEATURE_PARTS)
    else:
        warn(
            f"The features start fresh: the networks of the {type(source).__name__} have other "
            "shapes. Copy its encoding, network and feature settings to `system.geometry` to keep "
            "them, or set `system.geometry_convert_inherit_texture` to false."
        )
