"""Camera data: what the renderer is asked to look at, one batch per training step."""

from . import image, multiview, uncond

__all__ = ["image", "multiview", "uncond"]
