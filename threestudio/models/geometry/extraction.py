"""A mesh of a field: evaluate it on a grid over the scene's box, find the level, extract, clean."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.isosurface import (
    IsosurfaceHelper,
    MarchingCubeCPUHelper,
    MarchingTetrahedraHelper,
)
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.fields import is_number
from threestudio.utils.logging import warn
from threestudio.utils.ops import chunk_batch, scale_tensor

METHODS = {"mt": MarchingTetrahedraHelper, "mc-cpu": MarchingCubeCPUHelper}
MARGIN = 0.1
AUTO_FLOOR = 1e-5


def isosurface_faults(cfg: Any) -> list[str]:
    """List what is wrong with the `isosurface...` settings of an implicit geometry."""
    key = "`system.geometry.isosurface"
    faults = []
    if cfg.isosurface_method not in METHODS:
        faults.append(
            f"{key}_method` is {cfg.isosurface_method!r}; available: {', '.join(METHODS)}."
        )
    if cfg.isosurface_resolution < 2:
        faults.append(f"{key}_resolution` is {cfg.isosurface_resolution}; it must be 2 or more.")
    if not is_number(cfg.isosurface_threshold) and cfg.isosurface_threshold != "auto":
        faults.append(
            f"{key}_threshold` is {cfg.isosurface_threshold!r}; it must be a number or auto."
        )
    if cfg.isosurface_deformable_grid and cfg.isosurface_method == "mc-cpu":
        faults.append(
            f"{key}_deformable_grid` is true, but mc-cpu cannot move the grid's vertices. Set "
            f"{key}_method` to mt, or {key}_deformable_grid` to false."
        )
    return faults + outlier_faults(cfg)


def outlier_faults(cfg: Any) -> list[str]:
    """List what is wrong with the setting that says how small an outlier is."""
    least = cfg.isosurface_outlier_n_faces_threshold
    if is_number(least) and (least >= 0 if isinstance(least, int) else 0 <= least <= 1):
        return []
    return [
        f"`system.geometry.isosurface_outlier_n_faces_threshold` is {least!r}; it must be an int, "
        "a count of triangles, or a float in [0, 1], a share of the largest component's."
    ]


def build_helper(cfg: Any) -> IsosurfaceHelper:
    """Make the grid that the settings of an implicit geometry ask for."""
    return METHODS[cfg.isosurface_method](cfg.isosurface_resolution)


def extract(geometry: Any, helper: IsosurfaceHelper) -> Mesh:
    """Return the surface of a `BaseImplicitGeometry` in world units, without outliers.

    It is open where matter reaches the box, and keeps gradients if they are on and the helper has
    any; then outliers stay, too.
    """
    mesh = level_set(geometry, helper)
    return without_outliers(mesh, geometry.cfg) if geometry.cfg.isosurface_remove_outliers else mesh


def without_outliers(mesh: Mesh, cfg: Any) -> Mesh:
    """Drop components that the settings call small."""
    least = cfg.isosurface_outlier_n_faces_threshold
    kept = mesh.remove_outlier(least)
    if len(kept.t_pos_idx) == 0:
        raise UserError(
            f"Every component of the surface has fewer than {least} triangles and counts as an "
            "outlier. Lower `system.geometry.isosurface_outlier_n_faces_threshold`, or set "
            "`system.geometry.isosurface_remove_outliers` to false."
        )
    return kept


def level_set(geometry: Any, helper: IsosurfaceHelper) -> Mesh:
    """Return the surface of a `BaseImplicitGeometry` in world units.

    With `isosurface_coarse_to_fine` a first pass over the scene's box finds a tighter one for the
    second pass. The box that was used is the mesh's extra `bbox`; the extras of the grid stay in
    the helper's own units.
    """
    box = geometry.bbox
    if geometry.cfg.isosurface_coarse_to_fine:
        with torch.no_grad():
            coarse = _surface_in(geometry, helper, box)
        box = _tight_box(coarse.v_pos, box, helper.resolution)
    return _surface_in(geometry, helper, box)


def _tight_box(
    points: Float[Tensor, "N 3"], box: Float[Tensor, "2 3"], resolution: int
) -> Float[Tensor, "2 3"]:
    """Return the bounds of points, 10 % wider on each side, inside a box."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    cell = (box[1] - box[0]) / resolution  # at least that: a flat surface has no width
    margin = torch.maximum(MARGIN * (high - low), cell)
    return torch.stack([(low - margin).maximum(box[0]), (high + margin).minimum(box[1])])


def _surface_in(geometry: Any, helper: IsosurfaceHelper, box: Float[Tensor, "2 3"]) -> Mesh:
    cfg = geometry.cfg

    def evaluate(vertices: Tensor) -> Any:
        return geometry.forward_field(scale_tensor(vertices, helper.points_range, box))

    vertices = helper.grid_vertices
    field, deformation = chunk_batch(evaluate, cfg.isosurface_chunk, vertices)
    if cfg.isosurface_deformable_grid and deformation is None:
        warn(
            f"{type(geometry).__name__} cannot deform the grid: "
            "`system.geometry.isosurface_deformable_grid` is not used. Set it to false."
        )
    threshold = _threshold(field, cfg.isosurface_threshold)
    level = geometry.forward_level(field, threshold)
    _refuse_empty(type(geometry).__name__, field, level, threshold)
    mesh = helper(level, deformation)
    points = scale_tensor(mesh.v_pos, helper.points_range, box)
    return Mesh(points, mesh.t_pos_idx, **mesh.extras, bbox=box)


def _threshold(field: Float[Tensor, "N 1"], setting: Any) -> float:
    """Return the surface's level; "auto" is the mean of what exceeds 1e-5 in this pass."""
    if setting != "auto":
        return float(setting)
    matter = field[field > AUTO_FLOOR]
    return matter.mean().item() if len(matter) else AUTO_FLOOR


def _refuse_empty(
    name: str, field: Float[Tensor, "N 1"], level: Float[Tensor, "N 1"], threshold: float
) -> None:
    """Raise an error that says which level would have a surface, if this one has none."""
    if not level.isfinite().all():
        raise UserError(f"{name} has no surface: its field is NaN or infinite at some points.")
    if level.min() < 0 < level.max():
        return
    low, high = field.min().item(), field.max().item()
    if low == high:
        raise UserError(
            f"{name} has no surface: its field is {low:.4g} everywhere. It needs training, or "
            "weights (`system.weights`, `system.geometry.weights`)."
        )
    raise UserError(
        f"{name} has no surface at the level {threshold:.4g}: its field lies in [{low:.4g}, "
        f"{high:.4g}]. Set `system.geometry.isosurface_threshold` to a value in between, for "
        f"example {(low + high) / 2:.4g}."
    )
