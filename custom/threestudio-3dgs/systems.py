"""`gaussian-splatting-system` and its multi-view variant: text to 3D with Gaussians."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.registry import register
from threestudio.systems.samples import SamplingSystem
from threestudio.systems.text_to_3d import TextTo3DSystem
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.errors import ConfigError, NonFiniteError
from threestudio.utils.logging import warn
from threestudio.utils.loss import tv_loss

LISTS = ("visibility_filter", "radii", "viewspace_points")
"""What density control reads of a picture."""
POINT_CLOUD = "point_cloud.ply"
MOST_SKIPPED = 10
"""A run ends with the error of the next step, if so many in a row were skipped."""
SKIPPED = "skipped_steps"
"""Key of a checkpoint."""
OPTIMIZERS = ("Adam", "AdamW")
"""Optimizers whose groups an Adam can take over."""


def position_loss(geometry: Any, out: dict[str, Any]) -> Float[Tensor, ""]:
    """Penalise distance from the origin, on average."""
    return geometry.get_xyz.norm(dim=-1).mean()


def opacity_loss(geometry: Any, out: dict[str, Any]) -> Float[Tensor, ""]:
    """Penalise opacity, of each Gaussian in proportion to its length; a sum."""
    return (geometry.get_scaling.norm(dim=-1, keepdim=True).detach() * geometry.get_opacity).sum()


def scales_loss(geometry: Any, out: dict[str, Any]) -> Float[Tensor, ""]:
    """Penalise scales; a sum."""
    return geometry.get_scaling.sum()


def image_tv_loss(geometry: Any, out: dict[str, Any]) -> Float[Tensor, ""]:
    """Penalise differences between neighbouring pixels, see `tv_loss`."""
    return tv_loss(out["comp_rgb"].permute(0, 3, 1, 2))


def depth_tv_loss(geometry: Any, out: dict[str, Any]) -> Float[Tensor, ""]:
    """Penalise differences of depth between neighbouring pixels."""
    return tv_loss(out["comp_depth"].permute(0, 3, 1, 2))


LOSSES: dict[str, Callable[[Any, dict[str, Any]], Tensor]] = {
    "position": position_loss,
    "opacity": opacity_loss,
    "scales": scales_loss,
    "tv_loss": image_tv_loss,
    "depth_tv_loss": depth_tv_loss,
}
"""Name in `lambda_<name>`: a regulariser of Gaussians."""


@register("gaussian-splatting-system")
class GaussianSplattingSystem(SamplingSystem):
    """Text to 3D with Gaussians: the optimizer is the geometry's, and density control follows each
    of its steps.

    Regularisers: position, opacity, scales, tv_loss, depth_tv_loss. A weight may be a schedule, and
    one that is missing is 0; the gradient of the projected centres, by which Gaussians are added,
    is that of all losses together. Logged are counters: `gaussians`, `gaussians_held` (brought back
    inside of their bounds in a step), `gaussians_dropped` (left out of it, their gradient was NaN
    or infinite), `empty_pictures` (that showed none) and `skipped_steps` (since the beginning:
    their render, loss or all gradients were not finite)."""

    @dataclass
    class Config(SamplingSystem.Config):
        exporter_type: str = "gaussian-mesh-exporter"

    cfg: Config

    known_losses = (*TextTo3DSystem.known_losses, *LOSSES)

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` the system reads."""
        return tuple(LOSSES)

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults, params = super().check(cfg), cfg.optimizer.get("params")
        parts = list(params) if hasattr(params, "keys") else []
        if cfg.optimizer and (not parts or any(part.split(".")[0] == "geometry" for part in parts)):
            faults.append(
                "system.optimizer.params must list the parts that are trained beside the geometry, "
                "e.g. {background: {lr: 0.001}}; the Gaussians' own rates are the keys that end in "
                "_lr of system.geometry. To train nothing else, leave system.optimizer out."
            )
        if cfg.optimizer and cfg.optimizer.get("name") not in OPTIMIZERS:
            faults.append(
                f"system.optimizer.name is {cfg.optimizer.get('name')}, but parts are trained by "
                "the Adam of the Gaussians, in groups of their own: set it to Adam or AdamW."
            )
        return faults

    def configure(self) -> None:
        """Build everything; a resumed run takes its Gaussians from the checkpoint alone."""
        if self.resumed and self.cfg.geometry.get("geometry_convert_from"):
            self.cfg.geometry["geometry_convert_from"] = ""
        super().configure()
        if not hasattr(self.geometry, "update_states") or not hasattr(
            self.renderer, "batch_forward"
        ):
            raise ConfigError(
                "This system trains Gaussians. Set `system.geometry_type: gaussian-splatting` and "
                "`system.renderer_type` to a `diff-gaussian-rasterizer`."
            )
        self._pictures: dict[str, list[Any]] = {name: [] for name in LISTS}
        self._skipped = {"in all": 0, "in a row": 0}

    def regularizer(self, name: str, out: dict[str, Any]) -> Float[Tensor, ""]:
        """Evaluate the regulariser of `lambda_<name>`."""
        if name in LOSSES:
            return LOSSES[name](self.geometry, out)
        return super().regularizer(name, out)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras; in training, remember what density control reads."""
        out = self.renderer.batch_forward(batch)
        if self.training:
            self._pictures = {name: out[name] for name in LISTS}
        return out

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the geometry's optimizer, with the parts of `system.optimizer` in it."""
        optimizer = self.geometry.training_setup()
        if self.cfg.optimizer:
            self.geometry.merge_optimizer(parse_optimizer(self.cfg.optimizer, self))
        out: dict[str, Any] = {"optimizer": optimizer}
        if self.cfg.scheduler is not None:
            out["lr_scheduler"] = parse_scheduler(self.cfg.scheduler, optimizer)
        return out

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Take a step as `TextTo3DSystem` does, or none if its render or loss is not finite."""
        try:
            return super().training_step(batch, batch_idx)
        except NonFiniteError as error:
            self._skip(error)
            return None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave Gaussians out of the step whose gradient is broken; skip it if all are."""
        dropped = self.geometry.drop_broken_gradients()
        self.log("train/gaussians_dropped", float(dropped))
        try:
            super().on_before_optimizer_step(optimizer)
        except NonFiniteError as error:
            self._skip(error)
            optimizer.zero_grad()

    def _skip(self, error: NonFiniteError) -> None:
        """Count a step that changes nothing but the number of the step, or end the run."""
        if self._skipped["in a row"] == MOST_SKIPPED:
            error.add_note(f"The {MOST_SKIPPED} steps before were skipped for such a reason.")
            raise error
        warn(f"Step {self.true_global_step} is skipped. {error}")
        self._skipped = {name: count + 1 for name, count in self._skipped.items()}
        self._pictures = {name: [] for name in LISTS}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Optional[Callable[[], Any]] = None,
    ) -> None:
        """Take a step, then do density control.

        Here, and not in a hook after the batch, because checkpoints are written before those."""
        before = self._skipped["in all"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.geometry.restore_dropped()
        if self._skipped["in all"] == before:
            self._skipped = {**self._skipped, "in a row": 0}
        empty = sum(not bool(visible.any()) for visible in self._pictures["visibility_filter"])
        held = self.geometry.update_states(self.true_global_step, **self._pictures)
        self._pictures = {name: [] for name in LISTS}
        self.log("train/gaussians", float(len(self.geometry.get_xyz)))
        self.log("train/gaussians_held", float(held))
        self.log("train/empty_pictures", float(empty))
        self.log("train/skipped_steps", float(self._skipped["in all"]))

    def on_fit_start(self) -> None:
        """Refuse what density control cannot work with."""
        super().on_fit_start()
        if self.trainer.world_size > 1:
            raise ConfigError(
                "Gaussians are trained on one device: several would add different ones. Set "
                "`trainer.devices=1`."
            )
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ConfigError(
                "Float16 scales gradients, and the gradients of projected centres decide where "
                "Gaussians are added. Set `trainer.precision=32-true`."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how many steps were skipped."""
        checkpoint[SKIPPED] = self._skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the Gaussians of a checkpoint before its shapes are compared."""
        self._skipped = checkpoint.get(SKIPPED, self._skipped)
        saved = checkpoint["state_dict"].get("geometry._xyz")
        if torch.is_tensor(saved):
            self.geometry.resize(len(saved))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save one frame of the turntable, with the first one the Gaussians too."""
        super().test_step(batch, batch_idx)
        if int(batch["index"][0]) == 0:
            self.geometry.save_ply(self.get_save_path(POINT_CLOUD))


@register("gaussian-splatting-mvdream-system")
class GaussianSplattingMVDreamSystem(GaussianSplattingSystem):
    """`gaussian-splatting-system` with a guidance that sees several views of a scene at once;
    sparsity and opaque are further regularisers."""

    @dataclass
    class Config(GaussianSplattingSystem.Config):
        pass

    cfg: Config

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Which `lambda_<x>` the system reads."""
        return (*LOSSES, "sparsity", "opaque")
