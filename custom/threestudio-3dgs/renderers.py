"""`diff-gaussian-rasterizer` and its variants: pictures of Gaussians over a background."""

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import color_faults, probability_faults, refuse
from threestudio.models.renderers.base import Renderer
from threestudio.registry import register
from threestudio.utils.errors import ConfigError
from threestudio.utils.random import stream

from . import rasterize_gsplat, rasterize_torch
from .projection import Cameras


class GaussianRenderer(Renderer, ABC):
    """Draw the Gaussians of a `gaussian-splatting` geometry: by gsplat if it is installed and they
    are on a CUDA device, else by plain torch. The material is not asked."""

    @dataclass
    class Config(Renderer.Config):
        debug: bool = False
        """Accepted for upstream's YAMLs."""
        back_ground_color: Any = (1.0, 1.0, 1.0)
        """Colour behind the scene, 3 numbers in [0, 1]."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        return color_faults("system.renderer.back_ground_color", cfg.back_ground_color, 3)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        refuse(self.check(self.cfg))
        super().configure(*args, **kwargs)
        if not hasattr(self.geometry, "gaussians"):
            raise ConfigError(
                f"A {type(self.geometry).__name__} has no Gaussians to draw. Set "
                "`system.geometry_type: gaussian-splatting`."
            )

    def batch_forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras, see `forward`."""
        return self(**batch)

    def forward(
        self,
        c2w: Float[Tensor, "B 4 4"],
        fovy: Float[Tensor, " B"],
        width: int,
        height: int,
        rays_d: Optional[Float[Tensor, "B H W 3"]] = None,
        bg_color: Optional[Float[Tensor, "..."]] = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Render images.

        Args:
            c2w: Cameras, OpenGL axes.
            fovy: Vertical fields of view, radians; pixels are square.
            width: Columns.
            height: Rows.
            rays_d: Directions of the pixels, for backgrounds that depend on them.
            bg_color: Replaces what is behind the scene: [B 3] or [1 3], or [B H W 3].
            **kwargs: Ignored.

        Returns:
            Images: `comp_rgb` [B H W 3] in [0, 1] and its parts `comp_rgb_fg`, `comp_rgb_bg`;
            `opacity` and `comp_mask`, the same [B H W 1]; `depth` and `comp_depth`, the same, not
            divided by the opacity; `comp_normal`, world normals mapped to [0, 1] and multiplied by
            the opacity. Lists with an item for each image: `viewspace_points`, with the gradient of
            the projected centres [P 2] as `grad` after a backward pass; `visibility_filter`, bool
            [P]; `radii` [P], pixels.
        """
        found, points = self._draw(Cameras.of(c2w, fovy, height, width))
        if bg_color is None:
            behind = self.behind(len(c2w), height, width, rays_d).to(found.color)
        else:
            behind = bg_color if bg_color.dim() == 4 else bg_color[:, None, None]
            behind = behind.to(found.color).expand_as(found.color)
        return {
            "comp_rgb": (found.color + (1.0 - found.opacity) * behind).clamp(0.0, 1.0),
            "comp_rgb_fg": found.color,
            "comp_rgb_bg": behind,
            "opacity": found.opacity,
            "comp_mask": found.opacity,
            "depth": found.depth,
            "comp_depth": found.depth,
            "comp_normal": (F.normalize(found.normal, dim=-1) + 1.0) / 2.0 * found.opacity,
            "viewspace_points": points,
            "visibility_filter": list(found.visible),
            "radii": list(found.radii),
        }

    def _draw(self, cameras: Cameras) -> tuple[rasterize_torch.Rendering, list[Any]]:
        gaussians = self.geometry.gaussians()
        means = gaussians.means
        if means.is_cuda and importlib.util.find_spec("gsplat") is not None:
            return rasterize_gsplat.rasterize(gaussians, cameras)
        wanted = torch.is_grad_enabled() and means.requires_grad
        points = [means.new_zeros(len(means), 2, requires_grad=wanted) for _ in cameras.center]
        found = rasterize_torch.rasterize(gaussians, cameras, offsets=torch.stack(points))
        return found, points

    @abstractmethod
    def behind(
        self, count: int, height: int, width: int, rays_d: Optional[Tensor]
    ) -> Float[Tensor, "B H W 3"]:
        """Return what is behind the scene."""


@register("diff-gaussian-rasterizer")
class DiffGaussianRasterizer(GaussianRenderer):
    """Gaussians over one colour; `system.background` is not asked.

    The colour is `back_ground_color` or its complement: in training by chance, one draw for a whole
    batch, and always the complement in evaluation."""

    @dataclass
    class Config(GaussianRenderer.Config):
        invert_bg_prob: float = 1.0
        """Chance that a training batch has `back_ground_color` behind it, not the complement."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = GaussianRenderer.check(cfg)
        return faults + probability_faults("system.renderer", cfg, "invert_bg_prob")

    def behind(
        self, count: int, height: int, width: int, rays_d: Optional[Tensor]
    ) -> Float[Tensor, "B H W 3"]:
        """Return the colour everywhere."""
        color = self.bbox.new_tensor([float(c) for c in self.cfg.back_ground_color])
        drawn = torch.rand((), generator=stream("gaussian-background", self.step))
        if not self.training or drawn > self.cfg.invert_bg_prob:
            color = 1.0 - color
        return color.expand(count, height, width, 3)


@register("diff-gaussian-rasterizer-advanced")
class DiffGaussianRasterizerAdvanced(DiffGaussianRasterizer):
    """The same as `diff-gaussian-rasterizer`, which here returns depth and mask too."""

    @dataclass
    class Config(DiffGaussianRasterizer.Config):
        pass

    cfg: Config


@register("diff-gaussian-rasterizer-background")
class DiffGaussianRasterizerBackground(GaussianRenderer):
    """Gaussians over `system.background`."""

    @dataclass
    class Config(GaussianRenderer.Config):
        back_ground_color: Any = (1.0, 1.0, 1.0)
        """Accepted for upstream's YAMLs, not read: `system.background` is what is behind."""

    cfg: Config

    def behind(
        self, count: int, height: int, width: int, rays_d: Optional[Tensor]
    ) -> Float[Tensor, "B H W 3"]:
        """Return the background in the directions of the pixels."""
        if rays_d is None:
            raise ConfigError(
                "`diff-gaussian-rasterizer-background` needs the directions `rays_d` of pixels, "
                "which the batch does not have. Use `diff-gaussian-rasterizer`."
            )
        return self.background(dirs=F.normalize(rays_d, dim=-1))
