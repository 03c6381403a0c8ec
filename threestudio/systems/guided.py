"""What systems do with a guidance: build it, log what it returns, weigh its losses."""

from typing import Any

import torch
from torch import Tensor

from threestudio.registry import find
from threestudio.utils.config import C_max
from threestudio.utils.errors import ConfigError, NonFiniteError
from threestudio.utils.logging import warn
from threestudio.utils.overrides import did_you_mean
from threestudio.utils.typing import Number


class GuidedMixin:
    """The part of a `BaseSystem` that has a guidance and a prompt.

    Every `loss_<x>` of the guidance needs `loss.lambda_<x>`.
    """

    known_losses: tuple[str, ...] = ("sds", "vsd", "dds", "bridge", "lora")
    """Losses whose weights are not misspelt, whether or not this system reads them."""
    regularizers: tuple[str, ...] = ()
    """Losses `lambda_<x>` that the system computes itself."""

    @classmethod
    def loss_faults(cls, cfg: Any) -> list[str]:
        """List loss weights that look misspelt."""
        known = [f"lambda_{name}" for name in cls.known_losses]
        return [
            f"system.loss has no key `{name}`.{did_you_mean(name, known)}"
            for name in cfg.loss
            if name not in known and did_you_mean(name, known) and not name.endswith("_img")
        ]

    def build_guidance(self) -> None:
        """Build the guidance and the prompt: before optimizer and checkpoint."""
        self.guidance = find(self.cfg.guidance_type)(self.cfg.guidance)
        self.prompt_processor = find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()

    def finish_step(
        self, guidance_out: dict[str, Any], loss: Tensor, batch_idx: int
    ) -> dict[str, Tensor]:
        """Log the loss and its weights, save a candidate sheet, and return the step's result."""
        if batch_idx == 0:
            self._report_unread_weights(guidance_out)
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", float(self.C(value)))
        self._check_finite("The loss", loss)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self._save_candidates()
        return {"loss": loss}

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

    def _check_finite(self, what: str, value: Any) -> None:
        value = torch.as_tensor(value)
        finite = value.isfinite()
        if finite.all():
            return
        share = 100 * (1 - finite.float().mean().item())
        raise NonFiniteError(
            f"{what} is NaN or infinite at step {self.true_global_step} ({share:.1f} % of its "
            "values). Lower the learning rate (`system.optimizer`) or the weights in "
            "`system.loss`; under 16-bit precision try `trainer.precision=32-true`."
        )

    def _save_candidates(self) -> None:
        """Save the sheet that a guidance with candidates may offer after a step."""
        pop_sheet = getattr(self.guidance, "pop_sheet", None)
        rows = pop_sheet() if callable(pop_sheet) and self._save_dir is not None else None
        if rows:
            step = self.true_global_step
            self.save_image_grid(f"it{step}-candidates.png", rows, name="candidates", step=step)
