"""Faults in the blocks that go to Lightning: `trainer` and `checkpoint`."""

import inspect
from typing import Any

from .overrides import did_you_mean

CHECKPOINT_KEYS = ("rolling_every_n_steps",)
"""Our own keys in the `checkpoint` block."""

PRECISIONS = (
    *("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
    *("32", "16", "bf16", "64", "transformer-engine", "transformer-engine-float16"),
)
"""Values of `trainer.precision`, the usual ones first."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0.0 <= value <= 1.0


NUMBERS = {
    "log_every_n_steps": (lambda v: _is_whole(v) and v >= 0, "a whole number, 0 or more"),
    "num_sanity_val_steps": (lambda v: _is_whole(v) and v >= -1, "a whole number, -1 for all"),
    "val_check_interval": (
        lambda v: _is_whole(v) and v >= 1 or _is_share(v),
        "a number of steps, 1 or more",
    ),
    "enable_progress_bar": (lambda v: isinstance(v, bool), "true or false"),
    "max_epochs": (_is_whole, "a whole number"),
}
"""Keys of `trainer` whose values Lightning does not check, or only in the middle of a run."""


def lightning_faults(cfg: dict[str, Any]) -> list[str]:
    """List what Lightning's `Trainer` and `ModelCheckpoint` would refuse.

    Blocks that are no mappings are left to the check of types.
    """
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import ModelCheckpoint

    blocks = {name: cfg.get(name) or {} for name in ("trainer", "checkpoint")}
    trainer, checkpoint = ({} if not isinstance(b, dict) else b for b in blocks.values())
    faults = _unknown_keys("trainer", trainer, Trainer)
    if isinstance(blocks["trainer"], dict):
        faults += _trainer_faults(trainer)
    if _length_faults(trainer):  # what is `${trainer.max_steps}` here is the same fault
        checkpoint = {k: v for k, v in checkpoint.items() if v != trainer.get("max_steps")}
    faults += _unknown_keys("checkpoint", checkpoint, ModelCheckpoint, CHECKPOINT_KEYS)
    return faults + _checkpoint_faults(checkpoint, ModelCheckpoint)


def _unknown_keys(
    block: str, values: dict[str, Any], cls: type, more: tuple[str, ...] = ()
) -> list[str]:
    known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    return [
        f"{block}.{key} is not a known key.{did_you_mean(str(key), [*known, *more])}"
        for key in values
        if key not in known and key not in more
    ]


def _trainer_faults(trainer: dict[str, Any]) -> list[str]:
    faults = [
        f"trainer.{key} is {trainer[key]!r}, but needs {need}."
        for key, (right, need) in NUMBERS.items()
        if trainer.get(key) is not None and not right(trainer[key])
    ]
    faults += _length_faults(trainer)
    precision = trainer.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        faults.append(f"trainer.precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")
    accumulated = trainer.get("accumulate_grad_batches")
    if accumulated not in (None, 1):
        faults.append(
            f"trainer.accumulate_grad_batches is {accumulated!r}, which is not supported: the "
            "batches of one step would all draw the same noise. Remove it; for larger batches "
            "raise `data.batch_size`."
        )
    return faults


def _length_faults(trainer: dict[str, Any]) -> list[str]:
    steps = trainer.get("max_steps", -1)
    if not _is_whole(steps) or steps < -1:
        return [f"trainer.max_steps is {steps!r}, but needs a whole number, 0 or more."]
    if steps >= 0 or trainer.get("max_time") is not None or trainer.get("max_epochs") is not None:
        return []
    return [
        "trainer.max_steps is not set, and the camera data never ends. Set the number of "
        "training steps, e.g. `trainer.max_steps=10000`."
    ]


def _rolling_faults(checkpoint: dict[str, Any]) -> list[str]:
    rolling = checkpoint.get("rolling_every_n_steps", 1)
    if _is_whole(rolling) and rolling >= 1:
        return []
    return [
        f"checkpoint.rolling_every_n_steps is {rolling!r}, but needs a whole number of at least 1."
    ]


def _checkpoint_faults(checkpoint: dict[str, Any], model_checkpoint: type) -> list[str]:
    """Build the callback, which makes no files, to hear what it has against its settings."""
    faults = _rolling_faults(checkpoint)
    known = inspect.signature(model_checkpoint.__init__).parameters
    settings = {key: value for key, value in checkpoint.items() if key in known}
    for key in ("every_n_train_steps", "every_n_epochs", "save_top_k"):
        if settings.get(key) is not None and not _is_whole(settings[key]):
            faults.append(f"checkpoint.{key} is {settings[key]!r}, but needs a whole number.")
    if faults:
        return faults
    try:
        model_checkpoint(**settings)
    except Exception as error:  # Lightning's MisconfigurationException derives from Exception
        return [f"checkpoint: {' '.join(str(error).split())}"]
    return []
