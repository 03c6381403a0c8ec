"""Choosing the samples of rays: evenly and without empty space, or where density was met."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.estimators import UPDATE_EVERY, ImportanceEstimator, OccupancyGrid
from threestudio.models.faults import count_faults, probability_faults, refuse
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.models.volume import Samples, between, box_interval, march
from threestudio.utils.random import stream

EARLY_STOP = 1e-4

Light = tuple[Float[Tensor, " P"], Float[Tensor, " P"]]
"""Of each sample, the light that reaches it and the share that it keeps."""


def marching_faults(cfg: Any, estimators: tuple[str, ...]) -> list[str]:
    """List what is wrong with the settings that ray marching renderers share.

    Args:
        cfg: Configuration of a renderer.
        estimators: The estimators that it has.
    """
    names = ("num_samples_per_ray", "num_samples_per_ray_importance", "eval_chunk_size")
    faults = count_faults("system.renderer", cfg, *names)
    faults += probability_faults("system.renderer", cfg, "occupancy_threshold")
    if cfg.occupancy_margin < 0:
        faults.append(
            f"`system.renderer.occupancy_margin` is {cfg.occupancy_margin}; it is 0 or more cells."
        )
    if cfg.estimator not in estimators:
        faults.append(
            f"`system.renderer.estimator` is {cfg.estimator!r}; available: "
            f"{', '.join(estimators)}. Set `system.renderer.estimator: occgrid`."
        )
    return faults


class RaySamplingRenderer(VolumeRenderer, ABC):
    """A renderer that places samples on rays by an estimator."""

    @dataclass
    class Config(VolumeRenderer.Config):
        num_samples_per_ray: int = 512
        """Samples along the diagonal of the box; a shorter way through it has fewer. The other
        estimators take this number on every ray."""
        eval_chunk_size: int = 160000
        """Samples (before pruning) that are evaluated at once outside training; bounds memory
        only."""
        randomized: bool = True
        """Whether training shifts the samples of each ray by a random part of a step."""
        near_plane: float = 0.0
        """Nothing closer to the camera is rendered, world units."""
        far_plane: float = 1e10
        """Nothing farther from the camera is rendered, world units."""
        estimator: str = "occgrid"
        """How samples are placed: occgrid (evenly, without those in empty space) or importance
        (where an even first pass met density)."""
        grid_prune: bool = True
        """Whether the occupancy grid skips empty space."""
        prune_alpha_threshold: bool = True
        """Whether samples of low opacity and hidden samples are dropped too."""
        occupancy_threshold: float = 0.01
        """Share of the light that a step must keep to count as matter, for both prunings. What
        keeps less is not rendered and stays as it is; lower values are more exact and slower."""
        occupancy_margin: int = 0
        """Cells (1/32 of the box) around occupied ones that are sampled too. Cells are looked at in
        random points, so one with matter in a corner only may pass for empty."""
        num_samples_per_ray_importance: int = 64
        """Samples of the first pass of the estimator importance; they count in the second too."""

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        refuse(self.check(self.cfg))
        self.step_size = math.sqrt(3.0) * 2.0 * self.cfg.radius / self.cfg.num_samples_per_ray
        self.updated_at = -1
        self.estimator = self._make_estimator()

    def _make_estimator(self) -> Any:
        if self.cfg.estimator == "importance":
            return ImportanceEstimator()
        return OccupancyGrid(self.bbox, self.cfg.occupancy_threshold, self.cfg.occupancy_margin)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Refresh the occupancy grid when it is due, once per step however often this is called."""
        super().update_step(epoch, global_step, on_load_weights)
        due = global_step % UPDATE_EVERY == 0 and global_step != self.updated_at
        pruned = self.cfg.estimator == "occgrid" and self.cfg.grid_prune
        if due and pruned and self.training and not on_load_weights:
            self.estimator.update(self._occupancy, global_step)
            self.updated_at = global_step

    def _most_samples_per_ray(self) -> int:
        first = self.cfg.num_samples_per_ray_importance
        return self.cfg.num_samples_per_ray + (first if self.cfg.estimator == "importance" else 0)

    @torch.no_grad()
    def _sample(self, rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Choose the samples that are worth evaluating; at least one, so that losses keep their
        graph."""
        enter, leave = box_interval(rays_o, rays_d, self.bbox)
        near, far = enter.clamp_min(self.cfg.near_plane), leave.clamp_max(self.cfg.far_plane)
        if self.cfg.estimator == "occgrid":
            samples = self._march(rays_o, rays_d, near, far)
            return samples if len(samples) > 0 else self._placeholder(rays_o, rays_d)
        rays = (far > near).nonzero()[:, 0]
        if len(rays) == 0:
            return self._placeholder(rays_o, rays_d)
        origins, directions, near, far = (x[rays] for x in (rays_o, rays_d, near, far))
        return between(rays, origins, directions, self._intervals(origins, directions, near, far))

    def _march(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        near: Float[Tensor, " R"],
        far: Float[Tensor, " R"],
    ) -> Samples:
        """Lay out samples a step apart, and prune."""
        wanted = near, far
        if self.cfg.grid_prune:
            first, last = box_interval(rays_o, rays_d, self.estimator.occupied_box())
            wanted = torch.maximum(near, first), torch.minimum(far, last)
        samples = march(rays_o, rays_d, near, wanted, self._shifts(near), self.step_size)
        if self.cfg.grid_prune and len(samples) > 0:
            samples = samples.keep(self.estimator.occupied(samples.points).nonzero()[:, 0])
        if self.cfg.grid_prune and self.cfg.prune_alpha_threshold and len(samples) > 0:
            samples = self._drop_invisible(samples, len(rays_o))
        return samples

    def _drop_invisible(self, samples: Samples, n_rays: int) -> Samples:
        passed, alpha = self._quick_light(samples, n_rays)
        visible = (alpha >= self.estimator.threshold()) & (passed >= EARLY_STOP)
        return samples.keep(visible.nonzero()[:, 0])

    def _intervals(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        near: Float[Tensor, " R"],
        far: Float[Tensor, " R"],
    ) -> Float[Tensor, "R e"]:
        """Return the borders of the intervals of the estimator importance, or of a subclass."""

        def density(starts: Tensor, ends: Tensor) -> Tensor:
            middle = ((starts + ends) / 2.0)[..., None]
            points = rays_o[:, None] + middle * rays_d[:, None]
            return self._density(points.reshape(-1, 3)).reshape(starts.shape).to(starts)

        starts, ends = self.estimator.sampling(
            [density],
            [self.cfg.num_samples_per_ray_importance],
            self.cfg.num_samples_per_ray,
            len(rays_o),
            near,
            far,
            stratified=self.training and self.cfg.randomized,
            generator=stream("renderer", self.step),
        )
        return torch.cat([starts, ends[:, -1:]], dim=-1)

    def _shifts(self, like: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
        if not (self.training and self.cfg.randomized):
            return torch.full_like(like, 0.5)
        return torch.rand(len(like), generator=stream("renderer", self.step)).to(like)

    @staticmethod
    def _placeholder(rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Return one sample without length: it adds nothing to the image and keeps the graph
        connected."""
        zero = rays_o.new_zeros(1)
        return Samples(zero.long(), zero, zero.expand(1, 3), rays_d[:1], step=0.0)

    @abstractmethod
    def _quick_light(self, samples: Samples, n_rays: int) -> Light:
        """Compute light as cheaply as possible."""

    @abstractmethod
    def _occupancy(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        """Return what a step can keep at points: its optical depth or its share of the light."""

    @abstractmethod
    def _density(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        """Return the density at points."""
