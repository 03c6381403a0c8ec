"""Geometries: world points to density and features."""

from . import implicit_volume, volume_grid

__all__ = ["implicit_volume", "volume_grid"]
