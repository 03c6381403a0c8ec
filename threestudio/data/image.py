"""Data without cameras, for images that are optimised directly: the same scenes in every batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from threestudio.data.checks import is_list
from threestudio.registry import register
from threestudio.utils.config import parse_structured
from threestudio.utils.fields import is_number
from threestudio.utils.random import MAX_SEED


def seed_faults(key: str, seeds: Any) -> list[str]:
    """Check that a setting is a list of one or more seeds."""
    if not is_list(seeds) or not all(isinstance(s, int) and is_number(s) for s in seeds):
        return [f"`{key}` is {seeds!r}; it must be a list of whole numbers, one for each image."]
    if not len(seeds):
        return [f"`{key}` is empty, so no image is made. Give one seed for each: `[0, 1]`."]
    return [
        f"`{key}` contains {seed}, but seeds are from 0 to {MAX_SEED - 1}."
        for seed in seeds
        if not 0 <= seed < MAX_SEED
    ]


@dataclass
class ImageDataModuleConfig:
    seeds: Any = field(default_factory=lambda: [0])
    """Seed of each of the G images that are made at once: of its start and of all its draws."""

    def __post_init__(self) -> None:
        faults = seed_faults("data.seeds", self.seeds)
        if faults:
            raise ValueError("\n".join(faults))


def scene_batch(seeds: Any) -> dict[str, Any]:
    """Return the batch of all images.

    `index` and `scene_seeds` [G], and what guidances ask of a camera: one at the front, so that
    prompts that name the view say "front view".
    """
    count = len(seeds)
    return {
        "index": torch.arange(count),
        "scene_seeds": torch.tensor(list(seeds)),
        "elevation": torch.zeros(count),
        "azimuth": torch.zeros(count),
        "camera_distances": torch.ones(count),
    }


class EndlessScenes(IterableDataset):
    """All images, again and again."""

    def __init__(self, seeds: Any) -> None:
        super().__init__()
        self.seeds = seeds

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield scene_batch(self.seeds)


class ScenesOnce(Dataset):
    """All images as one batch, for validation and test."""

    def __init__(self, seeds: Any) -> None:
        super().__init__()
        self.seeds = seeds

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return scene_batch(self.seeds)


@register("image-datamodule")
class ImageDataModule(pl.LightningDataModule):
    """No cameras: every batch has all images, each with its seed."""

    Config = ImageDataModuleConfig

    def __init__(self, cfg: Optional[Any] = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)

    def train_dataloader(self) -> DataLoader:
        """Serve all images endlessly."""
        return DataLoader(EndlessScenes(self.cfg.seeds), batch_size=None, num_workers=0)

    def val_dataloader(self) -> DataLoader:
        """Serve all images once."""
        return DataLoader(ScenesOnce(self.cfg.seeds), batch_size=None, num_workers=0)

    def test_dataloader(self) -> DataLoader:
        """Serve all images once."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Serve all images once."""
        return self.val_dataloader()
