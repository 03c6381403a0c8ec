"""The system of multi-view diffusion priors (MVDream, arXiv 2308.16512)."""

from dataclasses import dataclass

from threestudio.registry import register
from threestudio.systems.samples import SamplingSystem


@register("mvdream-system")
class MVDreamSystem(SamplingSystem):
    """Text to 3D with a guidance that sees several views of a scene at once."""

    @dataclass
    class Config(SamplingSystem.Config):
        pass

    cfg: Config
