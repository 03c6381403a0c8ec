"""`nerf-volume-renderer`: emission-absorption ray marching in plain torch."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import count_faults
from threestudio.models.proposal import ProposalEstimator, proposal_faults
from threestudio.models.renderers.ray_marching import RayMarchingRenderer
from threestudio.models.renderers.ray_sampling import Light, marching_faults
from threestudio.models.volume import Samples, transmittance_and_alpha
from threestudio.registry import register
from threestudio.utils.random import stream

ESTIMATORS = ("occgrid", "importance", "proposal")
PERTURB_STD = 1e-2


@register("nerf-volume-renderer")
class NeRFVolumeRenderer(RayMarchingRenderer):
    """March rays through the scene's box, with a fixed step of `sqrt(3) * 2 radius /
    num_samples_per_ray` or, with other estimators than occgrid, short steps where matter is.

    With occgrid, samples are pruned by an occupancy grid, then, with `prune_alpha_threshold`, by a
    pass without gradients that drops samples of nearly no opacity and those behind an opaque
    surface. `grid_prune: false` keeps every sample: exact, and several times slower."""

    @dataclass
    class Config(RayMarchingRenderer.Config):
        return_comp_normal: bool = False
        """Whether training also composites normals."""
        return_normal_perturb: bool = False
        """Whether training also returns the normals of slightly moved points."""
        estimator: str = "occgrid"
        """How samples are placed: occgrid (evenly, without those in empty space), importance (where
        an even first pass met density) or proposal (where a small network, which is trained along,
        expects it)."""
        proposal_network_config: Optional[dict] = None
        """Density network of the estimator proposal: `encoding_config` and `network_config`."""
        prop_optimizer_config: Optional[dict] = None
        """Its optimizer: `name` and `args`, as in `system.optimizer`."""
        prop_scheduler_config: Optional[dict] = None
        """Its learning rate schedule, as in `system.scheduler`; counts training steps."""
        num_samples_per_ray_proposal: int = 64
        """Intervals of each ray in which that network is evaluated."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = marching_faults(cfg, ESTIMATORS)
        faults += count_faults("system.renderer", cfg, "num_samples_per_ray_proposal")
        return faults + (proposal_faults(cfg) if cfg.estimator == "proposal" else [])

    def _make_estimator(self) -> Any:
        if self.cfg.estimator != "proposal":
            return super()._make_estimator()
        return ProposalEstimator(
            self.bbox,
            self.cfg.proposal_network_config,
            self.cfg.prop_optimizer_config,
            self.cfg.prop_scheduler_config,
        )

    def _most_samples_per_ray(self) -> int:
        if self.cfg.estimator != "proposal":
            return super()._most_samples_per_ray()
        return max(self.cfg.num_samples_per_ray, self.cfg.num_samples_per_ray_proposal)

    def _intervals(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        near: Float[Tensor, " R"],
        far: Float[Tensor, " R"],
    ) -> Float[Tensor, "R e"]:
        if self.cfg.estimator != "proposal":
            return super()._intervals(rays_o, rays_d, near, far)
        counts = self.cfg.num_samples_per_ray_proposal, self.cfg.num_samples_per_ray
        shift = self._shifts(near)
        return self.estimator.sampling(rays_o, rays_d, near, far, counts, shift)

    def _training_outputs(
        self, samples: Samples, weights: Float[Tensor, "P 1"], geometry: dict[str, Tensor]
    ) -> dict[str, Any]:
        if self.cfg.estimator == "proposal":
            self.estimator.learn(weights)
        out = super()._training_outputs(samples, weights, geometry)
        if self.cfg.return_normal_perturb:
            noise = torch.randn(samples.points.shape, generator=stream("perturb", self.step))
            moved = samples.points + noise.to(samples.points) * PERTURB_STD
            out["normal_perturb"] = self.geometry(moved, output_normal=True)["normal"]
        return out

    def _shows_normal(self) -> bool:
        return super()._shows_normal() or self.cfg.return_comp_normal

    def _light(self, samples: Samples, geometry: dict[str, Tensor], n_rays: int) -> Light:
        return transmittance_and_alpha(geometry["density"][:, 0].float(), samples, n_rays)

    def _quick_light(self, samples: Samples, n_rays: int) -> Light:
        return self._light(samples, {"density": self._density(samples.points)}, n_rays)

    def _occupancy(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        return self._density(points) * self.step_size

    def _density(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        return self.geometry.forward_density(points)
