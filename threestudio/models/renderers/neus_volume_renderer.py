"""`neus-volume-renderer`: volume rendering of a signed distance.

The signed distance f is positive outside; a ray enters where its slope along the ray, `direction .
grad f`, is negative."""

from dataclasses import dataclass
from typing import Any, Union

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.renderers.ray_marching import RayMarchingRenderer
from threestudio.models.renderers.ray_sampling import Light, marching_faults
from threestudio.models.volume import Samples, attenuate, transmittance_and_alpha
from threestudio.registry import register
from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import dot
from threestudio.utils.typing import Number

ESTIMATORS = ("occgrid", "importance")
INV_STD_RANGE = (1e-6, 1e6)


class LearnedVariance(nn.Module):
    """The sharpness of a surface: `inv_std = exp(10 x)` with the parameter x (NeuS, section 3)."""

    def __init__(self, init: Number) -> None:
        super().__init__()
        self._inv_std = nn.Parameter(torch.tensor(float(init)))

    @property
    def inv_std(self) -> Float[Tensor, ""]:
        """Inverse standard deviation of the density around the surface, per world unit."""
        return torch.exp(self._inv_std * 10.0).clamp(*INV_STD_RANGE)


def annealed_slope(slope: Float[Tensor, " P"], ratio: Number) -> Float[Tensor, " P"]:
    """Return the slope along the ray with which sections are crossed, never positive.

    Strictly (`ratio` 1) it is `min(slope, 0)`: a ray that leaves the surface meets nothing. A ratio
    of 0 takes `(slope - 1) / 2`, which lets all samples learn while normals are still arbitrary; in
    between, both are mixed (the cosine annealing of NeuS's released training).
    """
    return -(F.relu(0.5 - 0.5 * slope) * (1.0 - ratio) + F.relu(-slope) * ratio)


def section_depth(
    sdf: Float[Tensor, " P"],
    slope: Float[Tensor, " P"],
    length: Union[Number, Float[Tensor, " P"]],
    inv_std: Float[Tensor, ""],
) -> Float[Tensor, " P"]:
    """Return the optical depth of sections of rays.

    NeuS, equation 13, keeps `alpha = max((Phi(f_start) - Phi(f_end)) / Phi(f_start), 0)` of the
    light, with the sigmoid `Phi(f) = 1 / (1 + exp(-inv_std f))`. So `1 - alpha` is the quotient of
    two sigmoids, and the optical depth `-log(1 - alpha)` a difference of their logarithms, which is
    exact where both vanish.

    Args:
        sdf: Signed distance in the middle of each section.
        slope: Its derivative along the ray, not positive.
        length: Length of the sections.
        inv_std: Sharpness of the surface.
    """
    half = 0.5 * slope * length
    return F.logsigmoid(inv_std * (sdf - half)) - F.logsigmoid(inv_std * (sdf + half))


def laplace_density(sdf: Float[Tensor, "*N"], inv_std: Float[Tensor, ""]) -> Float[Tensor, "*N"]:
    """Return the density `inv_std * Psi(-sdf)`, where Psi is the distribution function of the
    Laplace distribution of scale `1 / inv_std` (VolSDF, equations 2 and 3)."""
    return inv_std * (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() * inv_std))


@register("neus-volume-renderer")
class NeuSVolumeRenderer(RayMarchingRenderer):
    """Volume rendering of a signed distance whose surface is as sharp as it has learnt to be (NeuS;
    with `use_volsdf` VolSDF).

    Needs a geometry with a signed distance. With occgrid, pruning works as in
    `nerf-volume-renderer`, on the opacity that the signed distance gives."""

    @dataclass
    class Config(RayMarchingRenderer.Config):
        learned_variance_init: float = 0.3
        """Initial x of the learnt `inv_std = exp(10 x)`, which starts at 20 per world unit."""
        cos_anneal_end_steps: int = 0
        """Step until which surfaces that face away from the ray fade out; 0: they never count."""
        use_volsdf: bool = False
        """Whether the signed distance becomes a density (VolSDF) in place of an opacity (NeuS)."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = marching_faults(cfg, ESTIMATORS)
        if cfg.estimator == "importance" and not cfg.use_volsdf:
            faults.append(
                "`system.renderer.estimator` importance needs a density, which NeuS has not. Set "
                "`system.renderer.use_volsdf: true`, or `system.renderer.estimator: occgrid`."
            )
        return faults

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        if not hasattr(self.geometry, "forward_sdf"):
            raise ConfigError(
                "neus-volume-renderer needs a geometry with a signed distance, which "
                f"{type(self.geometry).__name__} has not. Set `system.geometry_type: "
                "implicit-sdf`, or `system.renderer_type: nerf-volume-renderer`."
            )
        if not self.cfg.use_volsdf and self.geometry.cfg.get("normal_type", "") is None:
            raise ConfigError(
                "neus-volume-renderer needs the gradient of the signed distance, but "
                "`system.geometry.normal_type` is null. Set it to finite_difference, or "
                "`system.renderer.use_volsdf: true`."
            )
        self.variance = LearnedVariance(self.cfg.learned_variance_init)

    @property
    def cos_anneal_ratio(self) -> float:
        """How strictly sections that lead out of the surface are ignored, in [0, 1]."""
        end = self.cfg.cos_anneal_end_steps
        return 1.0 if end == 0 else min(1.0, self.step / end)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Render images, as `RayMarchingRenderer.forward` does.

        Without `z_variance`, and with `inv_std`, the sharpness of the surface. What training gets
        of the geometry has `sdf_grad`.
        """
        out = super().forward(*args, **kwargs)
        del out["z_variance"]
        return {**out, "inv_std": self.variance.inv_std}

    def _needs_normal(self) -> bool:
        return True

    def _light(self, samples: Samples, geometry: dict[str, Tensor], n_rays: int) -> Light:
        sdf = geometry["sdf"][:, 0].float()
        if self.cfg.use_volsdf:
            density = laplace_density(sdf, self.variance.inv_std)
            return transmittance_and_alpha(density, samples, n_rays)
        slope = dot(geometry["sdf_grad"], samples.directions)[:, 0].float()
        return self._cross(sdf, slope, samples, n_rays)

    def _cross(
        self, sdf: Float[Tensor, " P"], slope: Float[Tensor, " P"], samples: Samples, n_rays: int
    ) -> Light:
        slope = annealed_slope(slope, self.cos_anneal_ratio)
        optical = section_depth(sdf, slope, samples.step, self.variance.inv_std)
        return attenuate(optical, samples.ray_indices, n_rays)

    def _quick_light(self, samples: Samples, n_rays: int) -> Light:
        """Take the slope from the two ends of each section: cheaper than a gradient."""
        if self.cfg.use_volsdf:
            density = self._density(samples.points)[:, 0]
            return transmittance_and_alpha(density, samples, n_rays)
        half = samples.directions * (0.5 * samples.lengths())
        start = self.geometry.forward_sdf(samples.points - half)[:, 0].float()
        end = self.geometry.forward_sdf(samples.points + half)[:, 0].float()
        return self._cross((start + end) / 2.0, (end - start) / samples.step, samples, n_rays)

    def _occupancy(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        if self.cfg.use_volsdf:
            return self._density(points) * self.step_size
        sdf = self.geometry.forward_sdf(points)[:, 0].float()
        # the opacity of a section that goes straight in: no other direction has more
        optical = section_depth(
            sdf, torch.full_like(sdf, -1.0), self.step_size, self.variance.inv_std
        )
        return -torch.expm1(-optical)[:, None]

    def _density(self, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 1"]:
        return laplace_density(self.geometry.forward_sdf(points).float(), self.variance.inv_std)
