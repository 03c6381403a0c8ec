"""Base classes."""

from dataclasses import dataclass
from typing import Any, Optional

import torch.nn as nn

from .config import parse_structured
from .misc import get_device


class Updateable:
    """Told the step."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Update what this object holds, then itself."""
        for name in self.__dir__():
            child = None if name.startswith("_") else getattr(self, name, None)
            if isinstance(child, Updateable):
                child.do_update_step(epoch, global_step, on_load_weights)
        self.update_step(epoch, global_step, on_load_weights)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Do nothing."""


class BaseObject(Updateable):
    """Not a module."""

    @dataclass
    class Config:
        pass

    def __init__(self, cfg: Optional[Any] = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class BaseModule(nn.Module, Updateable):
    """A module."""

    @dataclass
    class Config:
        weights: Optional[str] = None

    def __init__(self, cfg: Optional[Any] = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""
