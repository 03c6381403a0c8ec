"""The system of single-view diffusion priors (DreamFusion, arXiv 2209.14988)."""

from dataclasses import dataclass

from threestudio.registry import register
from threestudio.systems.text_to_3d import TextTo3DSystem


@register("dreamfusion-system")
class DreamFusionSystem(TextTo3DSystem):
    """Text to 3D with a guidance that looks at one view at a time."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        pass

    cfg: Config
