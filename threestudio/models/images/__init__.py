"""2D representations: images that are themselves what is optimised."""

from . import parameters

__all__ = ["parameters"]
