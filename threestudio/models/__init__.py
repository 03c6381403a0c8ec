"""The differentiable scene: geometry, material, background, renderer; and the prompt processors."""

from . import background, exporters, geometry, guidance, materials, prompt_processors, renderers

__all__ = [
    "background",
    "exporters",
    "geometry",
    "guidance",
    "materials",
    "prompt_processors",
    "renderers",
]
