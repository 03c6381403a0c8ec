"""Renderers: cameras to images."""

from . import nerf_volume_renderer

__all__ = ["nerf_volume_renderer"]
