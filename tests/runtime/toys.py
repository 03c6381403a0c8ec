"""A complete toy experiment: parts with a few numbers each, a run takes milliseconds a step."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytorch_lightning as pl
import torch
import torch.nn as nn
import yaml
from torch.utils.data import DataLoader, Dataset, IterableDataset

from threestudio.models.exporters.base import ExporterOutput
from threestudio.registry import register
from threestudio.utils.base import BaseModule, BaseObject, Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.random import stream


class ToyCameras(IterableDataset, Updateable):
    """Endless batches, each drawn from the stream of its index."""

    def __init__(self) -> None:
        self.index = 0
        self.collated: list[int] = []

    def set_step(self, step: int) -> None:
        self.index = step

    def __iter__(self) -> Any:
        while True:
            yield {}

    def collate(self, batch: Any) -> dict[str, Any]:
        self.collated.append(self.index)
        rays = torch.rand(2, 4, 4, 3, generator=stream("camera", self.index))
        self.index += 1
        return {"rays": rays, "elevation": torch.zeros(2)}


class ToyViews(Dataset):
    """Two fixed views."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "rays": torch.full((4, 4, 3), 0.5)}


@register("toy-data")
class ToyData(pl.LightningDataModule):
    """Toy cameras."""

    @dataclass
    class Config:
        size: int = 4

    def __init__(self, cfg: Optional[Any] = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)

    def setup(self, stage: Optional[str] = None) -> None:
        self.train_dataset = ToyCameras()

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset, batch_size=None, collate_fn=self.train_dataset.collate
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(ToyViews())

    test_dataloader = predict_dataloader = val_dataloader


@register("toy-geometry")
class ToyGeometry(BaseModule):
    """One linear map."""

    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0
        size: int = 3
        """From 1 to 8."""

        def __post_init__(self) -> None:
            if not 1 <= self.size <= 8:
                raise ValueError(f"`size` is {self.size}, allowed are 1 to 8.")

    def configure(self) -> None:
        self.color = nn.Linear(3, 3)
        self.steps: list[int] = []

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.steps.append(global_step)


@register("toy-empty")
class ToyEmpty(BaseModule):
    """A part without parameters."""


@register("toy-renderer")
class ToyRenderer(BaseModule):
    """Colours are the geometry's answer to the ray."""

    @dataclass
    class Config(BaseModule.Config):
        nan_at: int = -1
        """Step whose render is NaN."""
        nan_gradient_at: int = -1
        """Step whose gradient is NaN."""

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        self._geometry = [geometry]
        self.step = 0

    @property
    def geometry(self) -> Any:
        return self._geometry[0]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.step = global_step

    def forward(self, rays: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        rgb = self.geometry.color(rays).sigmoid()
        if self.training and self.step == self.cfg.nan_at:
            rgb = rgb * float("nan")
        if self.training and self.step == self.cfg.nan_gradient_at and rgb.requires_grad:
            rgb.register_hook(lambda grad: grad * float("nan"))
        return {"comp_rgb": rgb, "opacity": rgb[..., :1]}


@register("toy-prompt-processor")
class ToyPromptProcessor(BaseObject):
    """Passes the prompt on."""

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a cube"

    def __call__(self) -> str:
        return self.cfg.prompt


@register("toy-guidance")
class ToyGuidance(BaseModule):
    """Wants every render to be a random colour that changes with the step."""

    @dataclass
    class Config(BaseModule.Config):
        n_view: int = 2
        fail_at: int = -1
        """Step at which the guidance raises."""
        interrupt_at: int = -1
        """Step at which a signal arrives."""
        interrupts: int = 1
        """How often it arrives."""
        signal: str = "SIGINT"
        """Its name."""
        trainer_max_steps: int = 0

    def configure(self) -> None:
        self.step = 0

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.step = global_step

    def forward(self, rgb: torch.Tensor, prompt_utils: str, **batch: Any) -> dict[str, Any]:
        if self.step == self.cfg.fail_at:
            raise ValueError(f"The reward of candidate 2 is NaN at step {self.step}.")
        if self.step == self.cfg.interrupt_at:
            for _ in range(self.cfg.interrupts):
                signal.raise_signal(signal.Signals[self.cfg.signal])
        target = torch.rand(3, generator=stream("noise", self.step)).to(rgb)
        return {"loss_sds": ((rgb - target) ** 2).mean(), "reward": -1.5, "unet_calls": 8}

    def pop_sheet(self) -> Optional[list[Any]]:
        if self.step % 2:
            return None
        return [[{"type": "rgb", "img": torch.rand(4, 4, 3), "kwargs": {}}]]


@register("toy-exporter")
class ToyExporter(BaseObject):
    """Exports what the geometry is coloured with."""

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False
        save_type: str = "json"

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        self.geometry = geometry

    def __call__(self) -> list[ExporterOutput]:
        payload = self.geometry.color.bias.tolist()
        return [ExporterOutput("colour.json", self.cfg.save_type, {"payload": payload})]


def config(root: Path, **system: Any) -> dict[str, Any]:
    """Return a complete configuration with outputs under `root`; `system` changes its block."""
    parts = {
        "geometry_type": "toy-geometry",
        "geometry": {"radius": 1.0},
        "material_type": "toy-empty",
        "background_type": "toy-empty",
        "renderer_type": "toy-renderer",
        "renderer": {},
        "prompt_processor_type": "toy-prompt-processor",
        "prompt_processor": {"prompt": "a cube"},
        "guidance_type": "toy-guidance",
        "guidance": {},
        "loss": {"lambda_sds": [0, 1.0, 0.5, 10], "lambda_sparsity": 0.0},
        "optimizer": {
            "name": "Adam",
            "args": {"lr": 0.01, "betas": [0.9, 0.99]},
            "params": {"geometry": {"lr": 0.05}, "background": {"lr": 0.01}},
        },
    }
    return {
        "name": "toy",
        "tag": "${rmspace:${system.prompt_processor.prompt},_}",
        "exp_root_dir": str(root),
        "use_timestamp": False,
        "data_type": "toy-data",
        "data": {},
        "system_type": "mvdream-system",
        "system": {**parts, **system},
        "trainer": {
            "max_steps": 6,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            "enable_progress_bar": False,
            "accelerator": "cpu",
            "devices": 1,
        },
        "checkpoint": {
            "save_last": True,
            "save_top_k": -1,
            "every_n_train_steps": "${trainer.max_steps}",
            "rolling_every_n_steps": 2,
        },
    }


def write(root: Path, **system: Any) -> str:
    """Write `config` as a YAML and return its path."""
    path = root / "toy.yaml"
    path.write_text(yaml.safe_dump(config(root / "out", **system)))
    return str(path)
