"""The step that text-to-3D systems share: render, ask the guidance, weigh the losses, save
pictures."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.registry import find
from threestudio.systems.lift3d import BaseLift3DSystem
from threestudio.systems.losses import REGULARIZERS, regularizer
from threestudio.utils.config import C_max
from threestudio.utils.errors import ConfigError, NonFiniteError
from threestudio.utils.logging import warn
from threestudio.utils.overrides import did_you_mean
from threestudio.utils.typing import Number


class TextTo3DSystem(BaseLift3DSystem):
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

    known_losses: tuple[str, ...] = (*REGULARIZERS, "sds", "vsd", "lora")
    """Losses whose weights are not misspelt, whether or not this system reads them."""

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` of `losses.REGULARIZERS` the system reads."""
        return ("orient", "sparsity", "opaque", "z_variance", "eikonal")

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List missing parts, wrong schedules, and weights that look misspelt."""
        faults = super().check(cfg)
        known = [f"lambda_{name}" for name in cls.known_losses]
        for name in cfg.loss:
            if name not in known and did_you_mean(name, known) and not name.endswith("_img"):
                faults.append(f"system.loss has no key `{name}`.{did_you_mean(name, known)}")
        return faults

    def configure(self) -> None:
        """Build the scene, then the guidance and the prompt: before optimizer and checkpoint."""
        super().configure()
        self.guidance = find(self.cfg.guidance_type)(self.cfg.guidance)
        self.prompt_processor = find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras."""
        return self.renderer(**batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Render, ask the guidance, and return the weighted sum of all losses."""
        out = self(batch)
        self._check_finite("The render", self.guided_image(out))
        guidance_out = self.guidance(self.guided_image(out), self.prompt_utils, **batch)
        loss = self.guidance_loss(guidance_out) + self.regularization(out)
        if batch_idx == 0:
            self._report_unread_weights(guidance_out)
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", float(self.C(value)))
        self._check_finite("The loss", loss)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self._save_candidates()
        return {"loss": loss}

    def guided_image(self, out: dict[str, Any]) -> Float[Tensor, "B H W C"]:
        """Return what the guidance is asked about, of what the renderer returned."""
        return out["comp_rgb"]

    def guidance_loss(self, guidance_out: dict[str, Any]) -> Tensor:
        """Log the guidance's scalars and sum its losses with their weights."""
        total = 0.0
        for name, value in guidance_out.items():
            if isinstance(value, Tensor) and value.numel() == 1 or isinstance(value, (int, float)):
                scalar = value.detach().float() if isinstance(value, Tensor) else float(value)
                self.log(f"train/{name}", scalar, prog_bar=name == "reward")
            if name.startswith("loss_"):
                self._check_finite(f"The guidance's {name}", value)
                total = total + value * self._weight(name)
        return total

    def _weight(self, loss_name: str) -> Number:
        key = loss_name.replace("loss_", "lambda_", 1)
        if key not in self.cfg.loss:
            raise ConfigError(
                f"The guidance returns {loss_name}, but `system.loss` has no `{key}`. Add "
                f"`system.loss.{key}=1.0` (or 0 to switch it off)."
            )
        return self.C(self.cfg.loss[key])

    def _report_unread_weights(self, guidance_out: dict[str, Any]) -> None:
        """Warn of weights above 0 that neither the guidance nor a regulariser of this system has
        a loss for; upstream's YAMLs list some.
        """
        read = {n.replace("loss_", "lambda_", 1) for n in guidance_out if n.startswith("loss_")}
        read |= {f"lambda_{name}" for name in self.regularizers}
        unread = [n for n, value in self.cfg.loss.items() if n not in read and C_max(value) > 0]
        if unread:
            warn(
                f"system.loss: nothing here has a loss for {', '.join(unread)}, so the weight is "
                "not used. Set it to 0 to silence this."
            )

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

    def _check_finite(self, what: str, value: Any) -> None:
        value = torch.as_tensor(value)
        finite = value.isfinite()
        if finite.all():
            return
        share = 100 * (1 - finite.float().mean().item())
        raise NonFiniteError(
            f"{what} is NaN or infinite at step {self.true_global_step} ({share:.1f} % of its "
            "values). "
            "Lower the learning rate (`system.optimizer`) or the weights in `system.loss`; under "
            "16-bit precision try `trainer.precision=32-true`."
        )

    def _save_candidates(self) -> None:
        """Save the sheet that a guidance with candidates may offer after a step."""
        pop_sheet = getattr(self.guidance, "pop_sheet", None)
        rows = pop_sheet() if callable(pop_sheet) and self._save_dir is not None else None
        if rows:
            step = self.true_global_step
            self.save_image_grid(f"it{step}-candidates.png", rows, name="candidates", step=step)

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
