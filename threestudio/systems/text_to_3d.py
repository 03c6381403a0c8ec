"""The step that text-to-3D systems share: render, ask the guidance, weigh the losses, save
pictures."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio.systems.guided import GuidedMixin
from threestudio.systems.lift3d import BaseLift3DSystem
from threestudio.systems.losses import REGULARIZERS, regularizer


class TextTo3DSystem(GuidedMixin, BaseLift3DSystem):
    """A scene optimised by a guidance that looks at its renders.

    Loss weights: every `loss_<x>` of the guidance needs `loss.lambda_<x>`; a regulariser without
    its key is off, and one whose weight is 0 at a step is not computed (upstream asks for all
    keys).
    """

    @dataclass
    class Config(BaseLift3DSystem.Config):
        pass

    cfg: Config

    required_parts = (*BaseLift3DSystem.required_parts, "guidance", "prompt_processor")

    known_losses = (*REGULARIZERS, *GuidedMixin.known_losses)

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` of `losses.REGULARIZERS` the system reads."""
        return ("orient", "sparsity", "opaque", "z_variance", "eikonal")

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List missing parts, wrong schedules, and weights that look misspelt."""
        return super().check(cfg) + cls.loss_faults(cfg)

    def configure(self) -> None:
        """Build the scene, then the guidance and the prompt: before optimizer and checkpoint."""
        super().configure()
        self.build_guidance()

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras."""
        return self.renderer(**batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Render, ask the guidance, and return the weighted sum of all losses."""
        out = self(batch)
        self._check_finite("The render", self.guided_image(out))
        guidance_out = self.guidance(self.guided_image(out), self.prompt_utils, **batch)
        loss = self.guidance_loss(guidance_out) + self.regularization(out)
        return self.finish_step(guidance_out, loss, batch_idx)

    def guided_image(self, out: dict[str, Any]) -> Float[Tensor, "B H W C"]:
        """Return what the guidance is asked about, of what the renderer returned."""
        return out["comp_rgb"]

    def regularizer(self, name: str, out: dict[str, Any]) -> Float[Tensor, ""]:
        """Evaluate the regulariser of `lambda_<name>`."""
        return regularizer(name, out)

    def regularization(self, out: dict[str, Any]) -> Any:
        """Sum the regularisers whose weight is above 0 at this step."""
        if "inv_std" in out:
            self.log("train/inv_std", out["inv_std"].detach().mean())
        total = 0.0
        for name in self.regularizers:
            weight = self.C(self.cfg.loss.get(f"lambda_{name}", 0.0))
            if weight > 0:
                value = self.regularizer(name, out)
                self.log(f"train/loss_{name}", value.detach())
                total = total + weight * value
        return total

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save a picture of one view: colour, normal if there is one, opacity."""
        step, index = self.true_global_step, int(batch["index"][0])
        filename = f"it{step}-{index}.png"
        self.save_image_grid(filename, self._view(self(batch)), name="validation_step", step=step)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save one frame of the turntable."""
        step, index = self.true_global_step, int(batch["index"][0])
        filename = f"it{step}-test/{index}.png"
        self.save_image_grid(filename, self._view(self(batch)), name="test_step", step=step)

    def on_test_epoch_end(self) -> None:
        """Make the turntable's video."""
        step = self.true_global_step
        self.save_img_sequence(
            f"it{step}-test", f"it{step}-test", r"(\d+)\.png", "mp4", 30, name="test", step=step
        )

    def _view(self, out: dict[str, Any]) -> list[dict[str, Any]]:
        rgb = {"data_format": "HWC", "data_range": (0, 1)}
        cells = [
            {"type": "rgb", "img": out[name][0], "kwargs": rgb}
            for name in ("comp_rgb", "comp_normal")
            if out.get(name) is not None
        ]
        grey = {"cmap": None, "data_range": (0, 1)}
        return [*cells, {"type": "grayscale", "img": out["opacity"][0, :, :, 0], "kwargs": grey}]
