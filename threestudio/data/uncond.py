"""Random cameras around the origin, and the classes that other data modules extend.

Every draw of batch k comes from the stateless stream ("camera", k), and the dataset counts its own
batches. A resumed run that calls `set_step(k)` therefore continues with exactly the batches of an
uninterrupted one. Resolution milestones and progressive views follow the same counter; upstream's
follow the system's step, which lags behind by the batches that Lightning fetched ahead."""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from threestudio.data.cameras import (
    Poses,
    camera_batch,
    dreamfusion_light,
    magic3d_light,
    sphere_elevation,
    spherical_to_cartesian,
)
from threestudio.data.checks import camera_faults
from threestudio.data.fixed import FAR, NEAR, RandomCameraDataset
from threestudio.registry import register
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.ops import get_ray_directions
from threestudio.utils.random import stream


@dataclass
class RandomCameraDataModuleConfig:
    height: Any = 64
    """Rows of a training image; a list gives one value per resolution stage."""
    width: Any = 64
    """Columns of a training image; an int or a list like `height`."""
    batch_size: Any = 1
    """Images in a batch; an int or a list like `height`."""
    resolution_milestones: Any = field(default_factory=list)
    """Batches at which the next stage of `height`, `width` and `batch_size` begins; one fewer than
    the stages."""
    eval_height: int = 512
    """Rows of a validation or test image."""
    eval_width: int = 512
    """Columns of a validation or test image."""
    eval_batch_size: int = 1
    """Kept for upstream's YAMLs; evaluation renders one image at a time."""
    n_val_views: int = 1
    """Validation cameras, equally spaced from azimuth 0."""
    n_test_views: int = 120
    """Test cameras of the turntable; the last one is at 360 degrees."""
    elevation_range: Any = (-10.0, 90.0)
    """Degrees."""
    azimuth_range: Any = (-180.0, 180.0)
    """Degrees; 0 is the front."""
    camera_distance_range: Any = (1.0, 1.5)
    """World units."""
    fovy_range: Any = (40.0, 70.0)
    """Vertical field of view, degrees."""
    camera_perturb: float = 0.1
    """Half width of the uniform offset of the camera centre."""
    center_perturb: float = 0.2
    """Standard deviation of the point looked at."""
    up_perturb: float = 0.02
    """Standard deviation of the offset of the up vector."""
    light_position_perturb: float = 1.0
    """Standard deviation of the light's offset from the camera (strategy dreamfusion)."""
    light_distance_range: Any = (0.8, 1.5)
    """World units."""
    eval_elevation_deg: float = 15.0
    """Elevation of the validation and test cameras."""
    eval_camera_distance: float = 1.5
    """Distance of the validation and test cameras."""
    eval_fovy_deg: float = 70.0
    """Vertical field of view of the validation and test cameras."""
    light_sample_strategy: str = "dreamfusion"
    """"dreamfusion" or "magic3d"."""
    batch_uniform_azimuth: bool = True
    """Whether a batch is stratified over the azimuth range."""
    progressive_until: int = 0
    """Batches over which the ranges widen from the evaluation elevation and azimuth 0; 0 uses the
    full ranges."""
    rays_d_normalize: bool = True
    """Whether ray directions have unit length."""

    def __post_init__(self) -> None:
        faults = camera_faults(self)
        if faults:
            raise ValueError("\n".join(faults))


def stages(value: Any) -> list[int]:
    """Read a setting that is one int, or one int per resolution stage."""
    return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]


def uniform(generator: torch.Generator, count: int, bounds: Sequence[Any]) -> Float[Tensor, " R"]:
    """Draw `count` numbers uniformly between two bounds."""
    low, high = bounds
    return torch.rand(count, generator=generator) * (high - low) + low


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """An endless dataset whose `collate` draws the cameras of the next batch."""

    near, far = NEAR, FAR
    views_per_scene = 1

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = cfg
        self.batch_index = 0
        self.heights, self.widths = stages(cfg.height), stages(cfg.width)
        self.batch_sizes = stages(cfg.batch_size)
        count = max(len(self.heights), len(self.widths), len(self.batch_sizes))
        self.milestones = stages(cfg.resolution_milestones) if count > 1 else []
        self._apply(0)

    def set_step(self, step: int) -> None:
        """Continue with the batch that an uninterrupted run draws after `step` batches."""
        self.batch_index = step
        self._apply(step)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Do nothing: resolution and ranges follow the dataset's own batch counter."""

    def _apply(self, step: int) -> None:
        stage = bisect.bisect_right(self.milestones, step)
        self.height = self.heights[min(stage, len(self.heights) - 1)]
        self.width = self.widths[min(stage, len(self.widths) - 1)]
        self.batch_size = self.batch_sizes[min(stage, len(self.batch_sizes) - 1)]
        self.directions_unit_focal = get_ray_directions(self.height, self.width, 1.0)
        self.progressive_view(step)

    def progressive_view(self, step: int) -> None:
        """Widen the elevation and azimuth ranges towards the configured ones.

        Upstream starts even a run without progressive views with one batch of a single azimuth;
        here `progressive_until: 0` means the full ranges from the first batch."""
        cfg = self.cfg
        ratio = min(1.0, step / (cfg.progressive_until + 1)) if cfg.progressive_until > 0 else 1.0
        start = cfg.eval_elevation_deg
        self.elevation_range = [
            (1 - ratio) * start + ratio * bound for bound in cfg.elevation_range
        ]
        self.azimuth_range = [ratio * bound for bound in cfg.azimuth_range]
        self.camera_distance_range = list(cfg.camera_distance_range)
        self.fovy_range = list(cfg.fovy_range)

    def __iter__(self) -> Iterator[dict]:
        while True:
            yield {}

    def collate(self, batch: Any) -> dict[str, Any]:
        """Draw the next batch of cameras; the keys are those of `camera_batch`.

        Args:
            batch: Ignored; cameras are drawn, not loaded.
        """
        self._apply(self.batch_index)
        poses = self.sample_poses(stream("camera", self.batch_index))
        self.batch_index += 1
        return camera_batch(
            poses, self.height, self.width, self.near, self.far, self.cfg.rays_d_normalize
        )

    def sample_poses(self, generator: torch.Generator) -> Poses:
        """Draw `batch_size` poses, scene by scene, azimuth and position alone differ in one."""
        cfg, scenes = self.cfg, self.batch_size // self.views_per_scene

        def per_image(value: Tensor) -> Tensor:
            return value.repeat_interleave(self.views_per_scene, dim=0)

        elevation = per_image(self.sample_elevation(generator, scenes))
        azimuth = self.sample_azimuth(generator, scenes)
        distance, fovy = map(per_image, self.sample_distance_and_fovy(generator, scenes))
        offset = (torch.rand(scenes, 3, generator=generator) * 2 - 1) * cfg.camera_perturb
        position = spherical_to_cartesian(elevation, azimuth, distance) + per_image(offset)
        center = torch.randn(scenes, 3, generator=generator) * cfg.center_perturb
        up = torch.randn(scenes, 3, generator=generator) * cfg.up_perturb + torch.tensor(
            [0.0, 0.0, 1.0]
        )
        light_distance = per_image(uniform(generator, scenes, cfg.light_distance_range))
        if cfg.light_sample_strategy == "dreamfusion":
            noise = torch.randn(scenes, 3, generator=generator) * cfg.light_position_perturb
            light = dreamfusion_light(position, per_image(noise), light_distance)
        else:
            draws = torch.rand(scenes, 2, generator=generator)
            light = magic3d_light(position, per_image(draws), light_distance)
        return Poses(
            elevation, azimuth, distance, fovy, position, per_image(center), per_image(up), light
        )

    def sample_elevation(self, generator: torch.Generator, scenes: int) -> Float[Tensor, " R"]:
        """Draw elevations in degrees: for half of the scenes uniform in angle, for the others
        uniform on the sphere."""
        by_angle = torch.rand(scenes, generator=generator) < 0.5
        draws = torch.rand(scenes, generator=generator)
        low, high = self.elevation_range
        return torch.where(by_angle, low + (high - low) * draws, sphere_elevation(draws, low, high))

    def sample_azimuth(self, generator: torch.Generator, scenes: int) -> Float[Tensor, " B"]:
        """Draw azimuths in degrees; `batch_uniform_azimuth` gives every image its stratum."""
        share = torch.rand(scenes, generator=generator)
        if self.cfg.batch_uniform_azimuth:
            share = (share + torch.arange(scenes)) / scenes
        low, high = self.azimuth_range
        return low + (high - low) * share

    def sample_distance_and_fovy(
        self, generator: torch.Generator, scenes: int
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Draw camera distances in world units and vertical fields of view in radians."""
        distance = uniform(generator, scenes, self.camera_distance_range)
        return distance, torch.deg2rad(uniform(generator, scenes, self.fovy_range))


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    """Random cameras for training, fixed ones for validation and test."""

    Config = RandomCameraDataModuleConfig
    train_dataset_class = RandomCameraIterableDataset

    def __init__(self, cfg: Optional[Any] = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)

    def setup(self, stage: Optional[str] = None) -> None:
        """Build the datasets of a stage: "fit", "validate", "test", "predict" or None for all."""
        if stage in (None, "fit"):
            self.train_dataset = self.train_dataset_class(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def train_dataloader(self) -> DataLoader:
        """Serve endless training batches."""
        return DataLoader(
            self.train_dataset,
            batch_size=None,
            num_workers=0,
            collate_fn=self.train_dataset.collate,
        )

    def val_dataloader(self) -> DataLoader:
        """Serve the validation views one by one."""
        return self._evaluation(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        """Serve the turntable one by one."""
        return self._evaluation(self.test_dataset)

    def predict_dataloader(self) -> DataLoader:
        """Serve the turntable one by one."""
        return self._evaluation(self.test_dataset)

    def _evaluation(self, dataset: RandomCameraDataset) -> DataLoader:
        return DataLoader(dataset, batch_size=1, num_workers=0, collate_fn=dataset.collate)
