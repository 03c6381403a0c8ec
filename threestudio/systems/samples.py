"""Pictures of what the guidance's prior draws for the prompt, beside those of the scene."""

from dataclasses import dataclass
from typing import Any

from threestudio.systems.text_to_3d import TextTo3DSystem
from threestudio.utils.errors import ConfigError


class SamplingSystem(TextTo3DSystem):
    """A text-to-3D system that can show samples of the prior at each validation."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        visualize_samples: bool = False
        """Save what the prior draws for the prompt beside each validation picture."""

    cfg: Config

    samplers: tuple[str, ...] = ("sample",)
    """Methods of the guidance that draw, `(prompt_utils, **batch, seed) -> [B, H, W, 3]`."""

    def configure(self) -> None:
        """Build everything."""
        super().configure()
        missing = [name for name in self.samplers if not hasattr(self.guidance, name)]
        if self.cfg.visualize_samples and missing:
            raise ConfigError(
                f"`system.visualize_samples` needs a guidance that can {' and '.join(missing)}, "
                f"which '{self.cfg.guidance_type}' cannot. Set `system.visualize_samples=false`."
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save a picture of one view, and samples of the prior if asked for."""
        super().validation_step(batch, batch_idx)
        if not self.cfg.visualize_samples:
            return
        step, index = self.true_global_step, int(batch["index"][0])
        cells = []
        for name in self.samplers:
            drawn = getattr(self.guidance, name)(self.prompt_utils, **batch, seed=step)[0]
            cells.append({"type": "rgb", "img": drawn, "kwargs": {"data_format": "HWC"}})
        self.save_image_grid(
            f"it{step}-{index}-sample.png", cells, name="validation_step_samples", step=step
        )
