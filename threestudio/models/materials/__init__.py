"""Materials: features at points to colour."""

from . import diffuse_with_point_light, no_material

__all__ = ["diffuse_with_point_light", "no_material"]
