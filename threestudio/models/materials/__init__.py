"""Materials: features at points to colour."""

from . import no_material

__all__ = ["no_material"]
