"""Camera data: what the renderer is asked to look at, one batch per training step."""

from . import multiview, uncond

__all__ = ["multiview", "uncond"]
