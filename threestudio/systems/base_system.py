"""The base of every system, on Lightning: configuration, step updates, optimizers."""

import importlib.util
from dataclasses import dataclass, field
from typing import Any, List, Optional

import pytorch_lightning as pl
import torch

from threestudio.systems.utils import optimizer_faults, parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import NonFiniteError
from threestudio.utils.logging import warn
from threestudio.utils.misc import C, cleanup, find_last_path, load_module_weights, schedule_fault
from threestudio.utils.saving import SaverMixin
from threestudio.utils.typing import Number


class BaseSystem(pl.LightningModule, Updateable, SaverMixin):
    """What every system shares.

    Before each batch the data set and then the system, with everything `Updateable` in it, are told
    the step; after it, the same in `update_step_end`.
    """

    @dataclass
    class Config:
        loggers: dict = field(default_factory=dict)
        """`wandb: {enable, project, name}`."""
        loss: dict = field(default_factory=dict)
        """`lambda_<x>`: weight of the loss `<x>`, a number or schedule."""
        optimizer: dict = field(default_factory=dict)
        """`name`, `args`, and `params` with a learning rate for each part that is optimised."""
        scheduler: Optional[dict] = None
        """`name`, `interval` (epoch or step), `args`."""
        weights: Optional[str] = None
        """Checkpoint to take the initial weights from; `LAST` stands for the newest run."""
        weights_ignore_modules: Optional[List[str]] = None
        """Parts that are not taken from `weights`."""
        cleanup_after_validation_step: bool = False
        """Free cached memory after each validation step."""
        cleanup_after_test_step: bool = False
        """Free cached memory after each test step."""

    cfg: Config

    def __init__(self, cfg: Optional[Any] = None, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._resumed = resumed
        self._resumed_eval_status: Optional[tuple[int, int]] = None
        self.create_loggers(self.cfg.loggers)
        self.configure()
        if self.cfg.weights is not None:
            self.load_weights(find_last_path(self.cfg.weights), self.cfg.weights_ignore_modules)
        self.post_configure()

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List faults of a parsed config that types do not show."""
        faults = optimizer_faults(cfg.optimizer)
        if not cfg.optimizer and cls.configure_optimizers is BaseSystem.configure_optimizers:
            faults.append(
                "system.optimizer is not set, so nothing would be trained. It needs e.g. "
                "{name: Adam, args: {lr: 0.01}}."
            )
        wandb = cfg.loggers.get("wandb") or {}
        if not hasattr(wandb, "get"):
            faults.append("system.loggers.wandb needs a mapping such as {enable: false}.")
        elif wandb.get("enable") and importlib.util.find_spec("wandb") is None:
            faults.append(
                "system.loggers.wandb.enable is true, but wandb is not installed. Set it to false "
                "or run `pip install wandb`."
            )
        for name, value in cfg.loss.items():
            fault = schedule_fault(value)
            if fault is not None:
                faults.append(f"system.loss.{name}: {fault}.")
        return faults

    def configure(self) -> None:
        """Build the parts."""

    def post_configure(self) -> None:
        """Run after weights were loaded."""

    @property
    def resumed(self) -> bool:
        """Whether this run continues a checkpoint."""
        return self._resumed

    def load_weights(self, path: str, ignore_modules: Optional[List[str]] = None) -> None:
        """Take weights from a checkpoint; what does not match is left alone."""
        ignore = list(ignore_modules) if ignore_modules else None
        state, epoch, step = load_module_weights(path, ignore_modules=ignore, map_location="cpu")
        result = self.load_state_dict(state, strict=False)
        if result.missing_keys or result.unexpected_keys:
            warn(
                f"Weights of '{path}' do not match everywhere: missing {result.missing_keys}, "
                f"not used {result.unexpected_keys}."
            )
        self.do_update_step(epoch, step, on_load_weights=True)

    def set_resume_status(self, epoch: int, step: int) -> None:
        """Tell which step the weights are of, for validation and test without training."""
        self._resumed_eval_status = (epoch, step)

    @property
    def true_global_step(self) -> int:
        """Step of the weights: the checkpoint's when only evaluating."""
        return self._resumed_eval_status[1] if self._resumed_eval_status else self.global_step

    @property
    def true_current_epoch(self) -> int:
        """Epoch of the weights: the checkpoint's when only evaluating."""
        return self._resumed_eval_status[0] if self._resumed_eval_status else self.current_epoch

    def C(self, value: Any) -> Number:
        """Evaluate a schedule at the current step."""
        return C(value, self.true_current_epoch, self.true_global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        """Build what the `optimizer` and `scheduler` blocks describe."""
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        out: dict[str, Any] = {"optimizer": optimizer}
        if self.cfg.scheduler is not None:
            out["lr_scheduler"] = parse_scheduler(self.cfg.scheduler, optimizer)
        return out

    def preprocess_data(self, batch: Any, stage: str) -> None:
        """Change a batch in place; `stage` is train, validation, test or predict."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before NaN or infinite gradients reach the parameters.

        Not under float16 scaling, where they are ordinary and the scaler skips the step.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        named = {id(p): name for name, p in self.named_parameters()}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        sums = [p.grad.sum() for p in parameters if p.grad is not None]
        if not sums or torch.isfinite(
            torch.stack([s.float().to(sums[0].device) for s in sums]).sum()
        ):
            return
        bad = [
            named.get(id(p), "?")
            for p in parameters
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        raise NonFiniteError(
            f"The gradient of {', '.join(bad) or 'the sum of all parameters'} is NaN or infinite "
            f"at step {self.true_global_step}. The parameters were not changed. Lower the learning "
            "rate (`system.optimizer`) or the guidance's scale, or bound its gradient with "
            "`system.guidance.grad_clip`."
        )

    def _start_batch(self, batch: Any, stage: str, loader: Any) -> None:
        self.preprocess_data(batch, stage)
        self.dataset = (loader[0] if isinstance(loader, list) else loader).dataset
        update_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _end_batch(self, clean: bool = False) -> None:
        update_end_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)
        if clean:
            cleanup()

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        self._start_batch(batch, "train", self.trainer.train_dataloader)

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._start_batch(batch, "validation", self.trainer.val_dataloaders)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "test", self.trainer.test_dataloaders)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_batch(batch, "predict", self.trainer.predict_dataloaders)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end_batch()

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_batch(clean=self.cfg.cleanup_after_validation_step)

    def on_test_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_batch(clean=self.cfg.cleanup_after_test_step)

    def on_predict_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_batch()
