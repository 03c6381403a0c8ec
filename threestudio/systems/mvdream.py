"""The system of multi-view diffusion priors (MVDream, arXiv 2308.16512)."""

from dataclasses import dataclass
from typing import Any

from threestudio.registry import register
from threestudio.systems.text_to_3d import TextTo3DSystem
from threestudio.utils.errors import ConfigError


@register("mvdream-system")
class MVDreamSystem(TextTo3DSystem):
    """Text to 3D with a guidance that sees several views of a scene at once."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        visualize_samples: bool = False
        """Save what the prior draws for the prompt beside each validation picture."""

    cfg: Config

    def configure(self) -> None:
        """Build everything."""
        super().configure()
        if self.cfg.visualize_samples and not hasattr(self.guidance, "sample"):
            raise ConfigError(
                f"`system.visualize_samples` needs a guidance that can sample, which "
                f"'{self.cfg.guidance_type}' cannot. Set `system.visualize_samples=false`."
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save a picture of one view, and a sample of the prior if asked for."""
        super().validation_step(batch, batch_idx)
        if self.cfg.visualize_samples:
            step, index = self.true_global_step, int(batch["index"][0])
            sample = self.guidance.sample(self.prompt_utils, **batch, seed=step)[0]
            cell = {"type": "rgb", "img": sample, "kwargs": {"data_format": "HWC"}}
            self.save_image_grid(
                f"it{step}-{index}-sample.png", [cell], name="validation_step_samples", step=step
            )
