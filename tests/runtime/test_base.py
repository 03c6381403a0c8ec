"""Components: configuration, weights, and the order of updates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

from threestudio.utils.base import (
    BaseModule,
    BaseObject,
    Updateable,
    update_end_if_possible,
    update_if_possible,
)
from threestudio.utils.checkpoints import write_checkpoint


class Recorder(Updateable):
    """Notes its updates in a shared list."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name, self.log = name, log

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.log.append((self.name, epoch, global_step, on_load_weights))

    def update_step_end(self, epoch: int, global_step: int) -> None:
        self.log.append((self.name, "end", global_step))


def test_children_are_updated_first_and_private_or_failing_attributes_are_skipped():
    class Parent(Recorder):
        @property
        def broken(self) -> Any:
            raise RuntimeError("not ready")

    log: list[Any] = []
    parent = Parent("parent", log)
    parent.child = Recorder("child", log)
    parent._hidden = Recorder("hidden", log)
    update_if_possible(parent, 1, 7)
    update_end_if_possible(parent, 1, 7)
    update_if_possible("not updateable", 1, 7)
    assert log == [
        ("child", 1, 7, False),
        ("parent", 1, 7, False),
        ("child", "end", 7),
        ("parent", "end", 7),
    ]


class Linear(BaseModule):
    """A linear map."""

    @dataclass
    class Config(BaseModule.Config):
        size: int = 2

    def configure(self, bias: bool = True) -> None:
        self.layer = nn.Linear(self.cfg.size, self.cfg.size, bias=bias)
        self.loaded_at = None

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if on_load_weights:
            self.loaded_at = global_step


def test_module_parses_its_config_and_passes_arguments_to_configure():
    module = Linear({"size": 3}, bias=False)
    assert module.layer.weight.shape == (3, 3) and module.layer.bias is None
    assert list(module.state_dict()) == ["layer.weight"]
    assert Linear().cfg.size == 2


def test_object_has_a_device_without_a_gpu():
    assert isinstance(BaseObject({}).device, torch.device)


def test_module_takes_its_part_of_a_checkpoint(tmp_path: Path):
    source = Linear()
    state = {f"geometry.{name}": value for name, value in source.state_dict().items()}
    path = tmp_path / "a.ckpt"
    write_checkpoint({"state_dict": state, "epoch": 0, "global_step": 40}, path)
    module = Linear({"weights": f"{path}:geometry"})
    assert torch.equal(module.layer.weight, source.layer.weight)
    assert module.loaded_at == 40


def test_weights_without_a_module_name_are_explained():
    with pytest.raises(ValueError, match=r"a\.ckpt:geometry"):
        Linear({"weights": "a.ckpt"})
