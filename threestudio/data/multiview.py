"""Scenes seen from several equally spaced views, for priors that denoise them jointly."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.data.checks import multiview_faults
from threestudio.data.uncond import (
    RandomCameraDataModule,
    RandomCameraDataModuleConfig,
    RandomCameraIterableDataset,
    uniform,
)
from threestudio.registry import register


@dataclass
class RandomMultiviewCameraDataModuleConfig(RandomCameraDataModuleConfig):
    relative_radius: bool = True
    """Whether the drawn distance is divided by tan(fovy / 2), so that the object's size in the
    image does not depend on the field of view."""
    n_view: int = 1
    """Views per scene; `batch_size` counts images and must be a multiple."""
    zoom_range: Any = (1.0, 1.0)
    """Factor on the field of view that is applied after the distance was chosen."""

    def __post_init__(self) -> None:
        faults = multiview_faults(self)
        if faults:
            raise ValueError("\n".join(faults))


class RandomMultiviewCameraIterableDataset(RandomCameraIterableDataset):
    """Draw `batch_size / n_view` scenes; images are ordered scene by scene.

    Elevation, distance, field of view, zoom and all perturbations are shared by the views of a
    scene; their azimuths are `360 / n_view` degrees apart (for the full range) after a random
    offset. Elevations cover `elevation_range` exactly; upstream's extension maps its sphere branch
    to a smaller interval ([0, 30] degrees became [0, 19.5]), and its magic3d lights to one side.
    Both are mended here."""

    near, far = 0.1, 1000.0

    def __init__(self, cfg: Any) -> None:
        self.views_per_scene = cfg.n_view
        super().__init__(cfg)
        self.zoom_range = list(cfg.zoom_range)

    def sample_azimuth(self, generator: torch.Generator, scenes: int) -> Float[Tensor, " B"]:
        """Draw one offset per scene and spread its views over the range, degrees."""
        views = torch.arange(self.views_per_scene)
        share = (torch.rand(scenes, 1, generator=generator) + views) / self.views_per_scene
        low, high = self.azimuth_range
        return (low + (high - low) * share).flatten()

    def sample_distance_and_fovy(
        self, generator: torch.Generator, scenes: int
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Draw distances in world units and zoomed fields of view in radians."""
        distance, fovy = super().sample_distance_and_fovy(generator, scenes)
        if self.cfg.relative_radius:
            distance = distance / torch.tan(0.5 * fovy)
        return distance, fovy * uniform(generator, scenes, self.zoom_range)


@register("mvdream-random-multiview-camera-datamodule")
class RandomMultiviewCameraDataModule(RandomCameraDataModule):
    """Random scenes of `n_view` cameras for training, the base's cameras for evaluation."""

    Config = RandomMultiviewCameraDataModuleConfig
    train_dataset_class = RandomMultiviewCameraIterableDataset
