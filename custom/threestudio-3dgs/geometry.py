"""`gaussian-splatting`: a scene of 3D Gaussians with its optimizer and its density control."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from threestudio.models.faults import refuse
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.registry import register
from threestudio.utils.config import config_to_primitive
from threestudio.utils.misc import C, find_last_path
from threestudio.utils.random import stream

from . import density
from .initialization import (
    PointCloud,
    gaussian_values,
    of_surface,
    random_ball,
    surface_colors,
    values_of_cloud,
    values_of_source,
    with_degree,
)
from .model import STATISTICS, GaussianModel
from .parameters import (
    PARAMETERS,
    Values,
    add_groups,
    copy_rows,
    make_optimizer,
    replace_parameter,
)
from .settings import OPACITY_RANGE, SCALE_RANGE, GaussianSettings, settings_faults
from .spherical_harmonics import BLACK, COLORED, colored

RATES = {
    "xyz": "position_lr",
    "f_dc": "feature_lr",
    "f_rest": "feature_lr",
    "opacity": "opacity_lr",
    "scaling": "scaling_lr",
    "rotation": "rotation_lr",
}
"""Group of the optimizer: setting of its learning rate."""
REST_RATE = 1.0 / 20.0
"""Rate of the other bands in units of that of the constant one (Kerbl et al. 2023, section 5.1)."""


@register("gaussian-splatting")
class GaussianBaseModel(GaussianModel):
    """3D Gaussians that are optimised, added and removed (Kerbl et al. 2023).

    After a training step `update_states` does density control and `bound` keeps opacities, scales
    and colours where they have a gradient."""

    @dataclass
    class Config(GaussianSettings):
        pass

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        return settings_faults(cfg)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        super().configure()
        cfg, self.spatial_lr_scale = self.cfg, 1.0
        self._dropped: tuple[Optional[Tensor], list[tuple[Tensor, Tensor]]] = None, []
        if cfg.geometry_convert_from:
            source = find_last_path(cfg.geometry_convert_from)
            values = values_of_source(source, cfg, self.scale_range, cfg.load_ply_only_vertex)
        else:
            values = self._values_of(random_ball(cfg.init_num_pts, cfg.pc_init_radius))
        self.set_values(values)
        self.update_step(0, 0)

    @property
    def scale_range(self) -> tuple[float, float]:
        """Bounds of scales, world units."""
        return tuple(float(bound) * float(self.cfg.radius) for bound in SCALE_RANGE)

    def _values_of(self, cloud: PointCloud) -> Values:
        return values_of_cloud(cloud, self.cfg.sh_degree, self.cfg.opacity_init, self.scale_range)

    def create_from_pcd(self, pcd: Any, spatial_lr_scale: float = 1.0) -> None:
        """Start anew from a cloud with `points` and `colors` [P 3], RGB in [0, 1].

        Args:
            pcd: The cloud: arrays or tensors.
            spatial_lr_scale: Multiplies the learning rate of the centres.
        """
        points, colors = (torch.as_tensor(value).float() for value in (pcd.points, pcd.colors))
        self.spatial_lr_scale = spatial_lr_scale
        self.set_values(self._values_of(PointCloud(points, colors)))

    @staticmethod
    def create_from(
        other: Any, cfg: Optional[Any] = None, copy_net: bool = False, **kwargs: Any
    ) -> "GaussianBaseModel":
        """Make Gaussians of other ones, or of the surface of a volume or a signed distance.

        Args:
            other: The other geometry.
            cfg: Settings of the new one.
            copy_net: Whether colours are taken over: the logistic function of three features, what
                `no-material` makes of them. `geometry_convert_from` asks the run's own material.
            **kwargs: Ignored.
        """
        new = GaussianBaseModel({**config_to_primitive(cfg or {}), "geometry_convert_from": ""})
        if not isinstance(other, BaseImplicitGeometry):
            values = gaussian_values(other, "The other run")
            new.set_values(with_degree(values, new.cfg.sh_degree))
            return new
        with torch.no_grad():
            cloud = of_surface(other, new.cfg.init_num_pts)
            new.set_values(new._values_of(surface_colors(other, cloud) if copy_net else cloud))
        return new

    def training_setup(self) -> torch.optim.Adam:
        """Build the optimizer of the parameters as they are now."""
        self.optimizer = make_optimizer(self)
        self.update_learning_rate(0)
        return self.optimizer

    def merge_optimizer(self, net_optim: torch.optim.Optimizer) -> torch.optim.Adam:
        """Let the optimizer train the parameters of another one too, each with its settings.

        Args:
            net_optim: An Adam or AdamW.
        """
        return add_groups(self.optimizer, net_optim)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Set what depends on the step."""
        self.update_learning_rate(global_step)

    def update_learning_rate(self, iteration: int) -> None:
        """Set learning rates, the bound on colours, and the degree of the harmonics of a step."""
        cfg = self.cfg
        self.color_clip = float(C(cfg.color_clip, 0, iteration))
        self.scheduled_sh_degree = min(cfg.sh_degree, iteration // cfg.sh_degree_interval)
        for group in self.optimizer.param_groups if self.optimizer is not None else ():
            if group["name"] in RATES:
                setting = cfg[RATES[group["name"]]]
                group["lr"] = float(C(setting, 0, iteration, interpolation="exp"))
                group["lr"] *= {"xyz": self.spatial_lr_scale, "f_rest": REST_RATE}.get(
                    group["name"], 1.0
                )

    @torch.no_grad()
    def update_states(
        self,
        iteration: int,
        visibility_filter: Sequence[Tensor],
        radii: Sequence[Tensor],
        viewspace_points: Sequence[Any],
    ) -> int:
        """Do density control after a training step; return how many Gaussians `bound` held.

        Args:
            iteration: The step.
            visibility_filter: Which Gaussians each picture showed, bool [P].
            radii: Their radii in it, pixels, [P].
            viewspace_points: What has the gradient of the projected centres [P 2] as `grad`.
        """
        cfg = self.cfg
        sums = [getattr(self, name) for name in STATISTICS]
        for visible, radius, points in zip(visibility_filter, radii, viewspace_points, strict=True):
            density.accumulate(*sums, visible, radius, points.grad)
        densification = cfg.densify_from_iter, cfg.densify_until_iter, cfg.densification_interval
        # first: what was just added has not been seen yet
        if density.is_due(iteration, cfg.prune_from_iter, cfg.prune_until_iter, cfg.prune_interval):
            self.prune()
        if density.is_due(iteration, *densification):
            self.densify(iteration)
        if density.is_due(iteration, 1, cfg.densify_until_iter, cfg.opacity_reset_interval):
            self.reset_opacity()
        return self.bound()

    @torch.no_grad()
    def densify(self, iteration: int) -> None:
        """Double and split the Gaussians with a large gradient, and begin new statistics.

        Args:
            iteration: The step, which numbers the random stream.
        """
        values = {name: getattr(self, name).detach() for name in PARAMETERS.values()}
        if self.cfg.sphere:
            values["_scaling"] = self.get_scaling.log()
        change = density.densify(
            values,
            self.slope_sum / self.slope_count.clamp_min(1.0),
            self.cfg.densify_grad_threshold,
            self.cfg.split_thresh,
            self.cfg.max_num - len(self._xyz),
            stream("gaussian-split", iteration),
        )
        self._make_change(change)
        self._forget()

    @torch.no_grad()
    def prune(self) -> None:
        """Remove transparent Gaussians, with `prune_big_points` also large ones."""
        radii = self.largest_radius if self.cfg.prune_big_points else None
        rows = density.surviving(self.get_opacity[:, 0], self.cfg.min_opac_prune, radii)
        values = {name: getattr(self, name)[:0].detach() for name in PARAMETERS.values()}
        for name in STATISTICS:
            setattr(self, name, getattr(self, name)[rows])
        self.largest_radius.zero_()
        self._make_change(density.Change(rows, values))

    def _make_change(self, change: density.Change) -> None:
        for name in PARAMETERS.values():
            replace_parameter(self, name, change.kept, change.added[name])

    @torch.no_grad()
    def reset_opacity(self) -> None:
        """Lower opacities to twice `min_opac_prune`, and forget their moments: what the scene
        needs grows again, the rest is pruned (Kerbl et al. 2023, section 5.2)."""
        highest = torch.tensor(2.0 * self.cfg.min_opac_prune).clamp(*OPACITY_RANGE).logit()
        self._opacity.clamp_(max=highest.to(self._opacity))
        state = self.optimizer.state.get(self._opacity, {}) if self.optimizer else {}
        for value in state.values():
            if torch.is_tensor(value) and value.shape == self._opacity.shape:
                value.zero_()

    @torch.no_grad()
    def bound(self) -> int:
        """Keep parameters where the picture has a gradient in them, see `settings`; return how many
        Gaussians had to be brought back."""
        if self.color_clip < BLACK:
            clip = min(self.color_clip, COLORED)
            colors = self._features_dc.clamp(-clip, clip)
        else:
            colors = colored(self._features_dc, self.active_features_rest)
        bounded = {
            "_opacity": self._opacity.clamp(*torch.tensor(OPACITY_RANGE).logit().tolist()),
            "_scaling": self._scaling.clamp(*torch.tensor(self.scale_range).log().tolist()),
            "_features_dc": colors,
        }
        held = torch.zeros_like(self._opacity[:, 0], dtype=torch.bool)
        for name, value in bounded.items():
            parameter = getattr(self, name)
            held |= (value != parameter).flatten(1).any(dim=1)
            parameter.copy_(value)
        return int(held.sum())

    @torch.no_grad()
    def drop_broken_gradients(self) -> int:
        """Prepare to leave Gaussians out of a step whose gradients have NaN or infinity in them;
        return their number. `restore_dropped` must follow the step.

        If all are broken their gradients stay, as then nothing is left to train."""
        grads = [getattr(self, name).grad for name in PARAMETERS.values()]
        grads = [grad for grad in grads if grad is not None]
        if not grads:
            return 0
        fine = torch.stack([grad.isfinite().flatten(1).all(dim=1) for grad in grads]).all(dim=0)
        rows = (~fine).nonzero()[:, 0]
        if 0 < len(rows) < len(fine):
            for grad in grads:
                grad[rows] = 0.0
            self._dropped = rows, copy_rows(self, rows)
        return len(rows)

    @torch.no_grad()
    def restore_dropped(self) -> None:
        """Put Gaussians back that were left out of the step: without a gradient Adam still moves
        them by their moments, and lets these decay."""
        rows, copies = self._dropped
        for tensor, copy in copies:
            tensor[rows] = copy
        self._dropped = None, []
