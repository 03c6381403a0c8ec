"""`nerf-volume-renderer`: emission-absorption ray marching that skips empty space, in plain
torch."""

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.estimators import UPDATE_EVERY, OccupancyGrid
from threestudio.models.faults import refuse
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.models.volume import (
    Samples,
    box_interval,
    composite,
    march,
    sum_over_rays,
    transmittance_and_alpha,
)
from threestudio.registry import register
from threestudio.utils.random import stream

ESTIMATORS = ("occgrid",)
ALPHA_THRESHOLD = 0.01
EARLY_STOP = 1e-4
PERTURB_STD = 1e-2


@register("nerf-volume-renderer")
class NeRFVolumeRenderer(VolumeRenderer):
    """March rays through the scene's box with a fixed step of `sqrt(3) * 2 radius /
    num_samples_per_ray`.

    Samples are pruned by an occupancy grid, then, with `prune_alpha_threshold`, by a pass without
    gradients that drops samples of nearly no opacity and those behind an opaque surface.
    `grid_prune: false` keeps every sample: exact, and several times slower."""

    @dataclass
    class Config(VolumeRenderer.Config):
        num_samples_per_ray: int = 512
        """Samples along the diagonal of the box; a shorter way through it has fewer."""
        eval_chunk_size: int = 160000
        """Samples (before pruning) that are evaluated at once outside training; bounds memory
        only."""
        randomized: bool = True
        """Whether training shifts the samples of each ray by a random part of a step."""
        near_plane: float = 0.0
        """Nothing closer to the camera is rendered, world units."""
        far_plane: float = 1e10
        """Nothing farther from the camera is rendered, world units."""
        return_comp_normal: bool = False
        """Whether training also composites normals."""
        return_normal_perturb: bool = False
        """Whether training also returns the normals of slightly moved points."""
        estimator: str = "occgrid"
        """How empty space is skipped: occgrid."""
        grid_prune: bool = True
        """Whether empty space is skipped at all."""
        prune_alpha_threshold: bool = True
        """Whether samples of low opacity and hidden samples are dropped."""
        proposal_network_config: Optional[dict] = None
        """Kept for upstream's YAMLs; belongs to the estimator proposal."""
        prop_optimizer_config: Optional[dict] = None
        """Kept for upstream's YAMLs; belongs to the estimator proposal."""
        prop_scheduler_config: Optional[dict] = None
        """Kept for upstream's YAMLs; belongs to the estimator proposal."""
        num_samples_per_ray_proposal: int = 64
        """Kept for upstream's YAMLs; belongs to the estimator proposal."""
        num_samples_per_ray_importance: int = 64
        """Kept for upstream's YAMLs; belongs to the estimator importance."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = [
            f"`system.renderer.{name}` is {getattr(cfg, name)}; it must be at least 1."
            for name in ("num_samples_per_ray", "eval_chunk_size")
            if getattr(cfg, name) < 1
        ]
        if cfg.estimator not in ESTIMATORS:
            faults.append(
                f"`system.renderer.estimator` is {cfg.estimator!r}; available: "
                f"{', '.join(ESTIMATORS)}. Set `system.renderer.estimator: occgrid`."
            )
        return faults

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        refuse(self.check(self.cfg))
        self.estimator = OccupancyGrid(self.bbox)
        self.step_size = math.sqrt(3.0) * 2.0 * self.cfg.radius / self.cfg.num_samples_per_ray
        self.updated_at = -1

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Refresh the occupancy grid when it is due, once per step however often this is called."""
        super().update_step(epoch, global_step, on_load_weights)
        due = global_step % UPDATE_EVERY == 0 and global_step != self.updated_at
        if due and self.cfg.grid_prune and self.training and not on_load_weights:
            self.estimator.update(
                lambda x: self.geometry.forward_density(x) * self.step_size, global_step
            )
            self.updated_at = global_step

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
        bg_color: Optional[Float[Tensor, "..."]] = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Render images.

        Args:
            rays_o: Ray origins.
            rays_d: Ray directions, of unit length for backgrounds.
            light_positions: One point light per image.
            bg_color: Replaces the background: [B C], [B H W C] or [B*H*W C].
            **kwargs: The rest of the batch; reaches the material in training.

        Returns:
            `comp_rgb, comp_rgb_fg, comp_rgb_bg [B H W C]`, `opacity, depth, z_variance [B H W 1]`
            and `comp_normal`; in training also the packed samples (`weights, t_points, t_intervals,
            t_dirs, points, ray_indices`) and everything the geometry returned for them.
        """
        shape = rays_o.shape[:3]
        background = self._background(rays_d, bg_color)
        flat = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
        if self.training:
            per_ray, extra = self._render(*flat, light_positions, shape, kwargs)
        else:
            per_ray, extra = self._render_in_chunks(*flat, light_positions, shape), {}
        images = {name: value.reshape(*shape, -1) for name, value in per_ray.items()}
        images["comp_rgb_bg"] = background
        images["comp_rgb"] = images["comp_rgb_fg"] + background * (1.0 - images["opacity"])
        return {**images, **extra}

    def _background(self, rays_d: Float[Tensor, "B H W 3"], color: Optional[Tensor]) -> Tensor:
        if color is None:
            return self.background(dirs=rays_d)
        batch, height, width = rays_d.shape[:3]
        if color.shape[:-1] == (batch,):
            return color[:, None, None, :].expand(batch, height, width, -1)
        return color.reshape(batch, height, width, -1)

    def _render_in_chunks(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        lights: Float[Tensor, "B 3"],
        shape: torch.Size,
    ) -> dict[str, Float[Tensor, "R C"]]:
        size = max(1, self.cfg.eval_chunk_size // self.cfg.num_samples_per_ray)
        lights = lights.repeat_interleave(shape[1] * shape[2], dim=0)
        parts = [
            self._render(o, d, light, torch.Size([len(o), 1, 1]), {})[0]
            for o, d, light in zip(*(x.split(size) for x in (rays_o, rays_d, lights)), strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _render(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        lights: Float[Tensor, "B 3"],
        shape: torch.Size,
        batch: dict[str, Any],
    ) -> tuple[dict[str, Float[Tensor, "R C"]], dict[str, Any]]:
        """Render rays; return images as one row per ray, and what training reads of the samples."""
        samples = self._sample(rays_o, rays_d)
        rays, n_rays = samples.ray_indices, len(rays_o)
        geometry = self.geometry(samples.points, output_normal=self.material.requires_normal)
        color = self.material(
            viewdirs=samples.directions,
            positions=samples.points,
            light_positions=lights.index_select(0, rays // (shape[1] * shape[2])),
            **geometry,
            **batch,
        )
        passed, alpha = transmittance_and_alpha(geometry["density"][:, 0].float(), samples, n_rays)
        weights, t = (passed * alpha)[:, None], samples.t[:, None]
        rows = [weights, weights * t, weights * t * t, weights * color]
        with_normal = "normal" in geometry and (not self.training or self.cfg.return_comp_normal)
        if with_normal:
            rows.append(weights * geometry["normal"])
        sums = sum_over_rays(torch.cat(rows, dim=-1), rays, n_rays)
        images = composite(sums, color.shape[-1], with_normal)
        if not self.training:
            return images, {}
        return images, self._training_outputs(samples, weights, geometry)

    def _training_outputs(
        self, samples: Samples, weights: Float[Tensor, "P 1"], geometry: dict[str, Tensor]
    ) -> dict[str, Any]:
        t = samples.t[:, None]
        out = {
            "weights": weights,
            "t_points": t,
            "t_intervals": torch.full_like(t, samples.step),
            "t_dirs": samples.directions,
            "ray_indices": samples.ray_indices,
            "points": samples.points,
            **geometry,
        }
        if self.cfg.return_normal_perturb:
            noise = torch.randn(samples.points.shape, generator=stream("perturb", self.step))
            moved = samples.points + noise.to(samples.points) * PERTURB_STD
            out["normal_perturb"] = self.geometry(moved, output_normal=True)["normal"]
        return out

    @torch.no_grad()
    def _sample(self, rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Choose the samples that are worth evaluating; at least one, so that losses keep their
        graph."""
        enter, leave = box_interval(rays_o, rays_d, self.bbox)
        near = enter.clamp_min(self.cfg.near_plane)
        wanted = near, leave.clamp_max(self.cfg.far_plane)
        if self.cfg.grid_prune:
            first, last = box_interval(rays_o, rays_d, self.estimator.occupied_box())
            wanted = torch.maximum(near, first), torch.minimum(wanted[1], last)
        samples = march(rays_o, rays_d, near, wanted, self._offsets(near), self.step_size)
        if self.cfg.grid_prune and len(samples) > 0:
            samples = samples.keep(self.estimator.occupied(samples.points).nonzero()[:, 0])
        if self.cfg.grid_prune and self.cfg.prune_alpha_threshold and len(samples) > 0:
            samples = self._drop_invisible(samples, len(rays_o))
        return samples if len(samples) > 0 else self._placeholder(rays_o, rays_d)

    def _offsets(self, like: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
        if not (self.training and self.cfg.randomized):
            return torch.full_like(like, 0.5)
        return torch.rand(len(like), generator=stream("renderer", self.step)).to(like)

    def _drop_invisible(self, samples: Samples, n_rays: int) -> Samples:
        density = self.geometry.forward_density(samples.points)[:, 0].float()
        passed, alpha = transmittance_and_alpha(density, samples, n_rays)
        threshold = self.estimator.occs.mean().clamp(max=ALPHA_THRESHOLD)
        return samples.keep(((alpha >= threshold) & (passed >= EARLY_STOP)).nonzero()[:, 0])

    @staticmethod
    def _placeholder(rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"]) -> Samples:
        """Return one sample without length: it adds nothing to the image and keeps the graph
        connected."""
        zero = rays_o.new_zeros(1)
        return Samples(zero.long(), zero, zero.expand(1, 3), rays_d[:1], step=0.0)
