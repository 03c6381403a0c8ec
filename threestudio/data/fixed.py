"""The cameras of validation and test: fixed, equally spaced around the scene."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from threestudio.data.cameras import Poses, camera_batch, spherical_to_cartesian

NEAR, FAR = 0.01, 100.0


class RandomCameraDataset(Dataset):
    """The fixed cameras of validation ("val") and of the turntable ("test"); nothing is random."""

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg, self.split = cfg, split
        self.n_views = cfg.n_val_views if split == "val" else cfg.n_test_views
        endpoint = split != "val"
        turn = torch.linspace(0.0, 360.0, self.n_views + (not endpoint))[: self.n_views]
        distance = torch.full_like(turn, cfg.eval_camera_distance)
        elevation = torch.full_like(turn, cfg.eval_elevation_deg)
        position = spherical_to_cartesian(elevation, turn, distance)
        self.poses = Poses(
            elevation=elevation,
            azimuth=turn,
            distance=distance,
            fovy=torch.full_like(turn, math.radians(cfg.eval_fovy_deg)),
            position=position,
            center=torch.zeros_like(position),
            up=torch.tensor([0.0, 0.0, 1.0]).expand_as(position),
            light=position,
        )

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Build one camera: its `index` and `camera_batch` without the batch axis."""
        one = Poses(**{name: value[index : index + 1] for name, value in vars(self.poses).items()})
        cfg = self.cfg
        batch = camera_batch(one, cfg.eval_height, cfg.eval_width, NEAR, FAR, cfg.rays_d_normalize)
        tensors = {k: v[0] for k, v in batch.items() if isinstance(v, Tensor)}
        return {"index": index, **tensors}

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack items and add `height` and `width` as ints."""
        return {
            **default_collate(batch),
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }
