"""Coarse to fine: a volume first, then a mesh made of it (Magic3D, arXiv 2211.10440)."""

from dataclasses import dataclass

from threestudio.registry import register
from threestudio.systems.text_to_3d import TextTo3DSystem


@register("magic3d-system")
class Magic3DSystem(TextTo3DSystem):
    """Text to 3D in two runs; the second one starts from the first by `geometry_convert_from`."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        refinement: bool = False
        """Whether this is the second run, on a mesh."""

    cfg: Config

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` of `losses.REGULARIZERS` the stage reads."""
        return ("normal_consistency",) if self.cfg.refinement else ("orient", "sparsity", "opaque")
