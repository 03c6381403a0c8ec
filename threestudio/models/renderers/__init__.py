"""Renderers: cameras to images."""

from . import nerf_volume_renderer, neus_volume_renderer, nvdiff_rasterizer

__all__ = ["nerf_volume_renderer", "neus_volume_renderer", "nvdiff_rasterizer"]
