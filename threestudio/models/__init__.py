"""The differentiable scene: geometry, material, background, renderer; images without a scene; and
the prompt processors."""

from . import (
    background,
    exporters,
    geometry,
    guidance,
    images,
    materials,
    prompt_processors,
    renderers,
)

__all__ = [
    "background",
    "exporters",
    "geometry",
    "guidance",
    "images",
    "materials",
    "prompt_processors",
    "renderers",
]
