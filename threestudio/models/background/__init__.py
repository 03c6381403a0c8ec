"""Backgrounds: ray directions to colour."""

from . import neural_environment_map, solid_color, textured

__all__ = ["neural_environment_map", "solid_color", "textured"]
