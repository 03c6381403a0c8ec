"""What the volume renderers share: compositing samples, and evaluating in chunks."""

from abc import abstractmethod
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.renderers.ray_sampling import Light, RaySamplingRenderer
from threestudio.models.volume import Samples, composite, sum_over_rays


class RayMarchingRenderer(RaySamplingRenderer):
    """A renderer that composites what the scene is at the samples of its rays. How much light a
    sample keeps is up to the subclass."""

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
        size = max(1, self.cfg.eval_chunk_size // self._most_samples_per_ray())
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
        geometry = self.geometry(samples.points, output_normal=self._needs_normal())
        color = self.material(
            viewdirs=samples.directions,
            positions=samples.points,
            light_positions=lights.index_select(0, rays // (shape[1] * shape[2])),
            **geometry,
            **batch,
        )
        passed, alpha = self._light(samples, geometry, n_rays)
        weights, t = (passed * alpha)[:, None], samples.t[:, None]
        rows = [weights, weights * t, weights * t * t, weights * color]
        with_normal = "normal" in geometry and self._shows_normal()
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
        return {
            "weights": weights,
            "t_points": samples.t[:, None],
            "t_intervals": samples.lengths(),
            "t_dirs": samples.directions,
            "ray_indices": samples.ray_indices,
            "points": samples.points,
            **geometry,
        }

    def _needs_normal(self) -> bool:
        """Whether the geometry shall compute normals."""
        return self.material.requires_normal

    def _shows_normal(self) -> bool:
        """Whether normals are composited."""
        return not self.training

    @abstractmethod
    def _light(self, samples: Samples, geometry: dict[str, Tensor], n_rays: int) -> Light:
        """Compute light of what the geometry returned."""
