"""Base classes of every component: a parsed `Config`, a device, and updates at the start and end of
each step.
"""

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn as nn

from .config import parse_structured
from .misc import get_device, load_module_weights


class Configurable:
    """Something with a `Config` dataclass that is parsed from plain data."""

    @dataclass
    class Config:
        pass

    def __init__(self, cfg: Optional[Any] = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)


class Updateable:
    """Something that changes with the step, and passes the update on to what it holds.

    Children are updated first. A child reachable by two attributes is updated twice, so
    `update_step` must give the same result when it is called again.
    """

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Update every `Updateable` among the public attributes, then this object."""
        for child in self._updateable_children():
            child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        """Like `do_update_step`, after the step."""
        for child in self._updateable_children():
            child.do_update_step_end(epoch, global_step)
        self.update_step_end(epoch, global_step)

    def _updateable_children(self) -> list["Updateable"]:
        children = []
        for name in self.__dir__():
            if name.startswith("_"):
                continue
            try:
                child = getattr(self, name)
            except Exception:  # a property that is not ready yet (Lightning has several)
                continue
            if isinstance(child, Updateable):
                children.append(child)
        return children

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Prepare for step `global_step`.

        `on_load_weights` says that weights of that step were just loaded.
        """

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """React to the end of step `global_step`."""


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """Call `do_update_step` on what has it."""
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


def update_end_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """Call `do_update_step_end` on what has it."""
    if isinstance(module, Updateable):
        module.do_update_step_end(epoch, global_step)


class BaseObject(Updateable):
    """A configured component without parameters of its own: not in state dicts, not optimised."""

    @dataclass
    class Config:
        pass

    cfg: Config

    def __init__(self, cfg: Optional[Any] = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Build the component; `self.cfg` and `self.device` are set."""


class BaseModule(nn.Module, Updateable):
    """A configured component with parameters."""

    @dataclass
    class Config:
        weights: Optional[str] = None
        """`path:module_name`: initial weights, the part of a checkpoint under `module_name`."""

    cfg: Config

    def __init__(self, cfg: Optional[Any] = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)
        if self.cfg.weights is not None:
            self._load_own_weights(self.cfg.weights)
        # Follows the module through .to(), so that its device can be asked for.
        self.register_buffer("_dummy", torch.zeros(0), persistent=False)

    def _load_own_weights(self, source: str) -> None:
        path, _, module_name = source.rpartition(":")
        if not path:
            raise ValueError(
                f"`weights: {source}` names no module. Write `path/to/file.ckpt:module_name`, for "
                f"instance `{source}:geometry`."
            )
        weights, epoch, step = load_module_weights(
            path, module_name=module_name, map_location="cpu"
        )
        self.load_state_dict(weights)
        self.do_update_step(epoch, step, on_load_weights=True)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Build the component; `self.cfg` and `self.device` are set."""
