"""Three runs: a volume, its shape as a mesh, the mesh's colours (ProlificDreamer, arXiv
2305.16213)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio.registry import register
from threestudio.systems.samples import SamplingSystem

REGULARIZERS = {
    "coarse": ("orient", "sparsity", "opaque", "z_variance", "eikonal"),
    "geometry": ("normal_consistency", "laplacian_smoothness"),
    "texture": (),
}
"""Which `lambda_<x>` of `losses.REGULARIZERS` each stage reads."""


@register("prolificdreamer-system")
class ProlificDreamerSystem(SamplingSystem):
    """Text to 3D in three runs, each started from the one before by `geometry_convert_from`.

    In the stage `geometry` the guidance looks at the normals, coloured by their direction."""

    @dataclass
    class Config(SamplingSystem.Config):
        stage: str = "coarse"
        """coarse, geometry or texture."""

    cfg: Config

    samplers = ("sample", "sample_lora")

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = super().check(cfg)
        if cfg.stage not in REGULARIZERS:
            faults.append(f"system.stage is '{cfg.stage}'; allowed are {', '.join(REGULARIZERS)}.")
        return faults

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` of `losses.REGULARIZERS` the stage reads."""
        return REGULARIZERS[self.cfg.stage]

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras; the geometry stage needs no colours."""
        if self.cfg.stage == "geometry":
            return self.renderer(**batch, render_rgb=False)
        return super().forward(batch)

    def guided_image(self, out: dict[str, Any]) -> Float[Tensor, "B H W C"]:
        """Return normals in the geometry stage, colours in the others."""
        return out["comp_normal"] if self.cfg.stage == "geometry" else super().guided_image(out)
