"""Geometries: world points to density or signed distance, and features; meshes of them."""

from . import implicit_sdf, implicit_volume, tetrahedra_sdf_grid, volume_grid

__all__ = ["implicit_sdf", "implicit_volume", "tetrahedra_sdf_grid", "volume_grid"]
