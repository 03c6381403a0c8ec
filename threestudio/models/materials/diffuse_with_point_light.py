"""`diffuse-with-point-light-material`: matte colour under a point light and ambient light."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import (
    activation_faults,
    color_faults,
    probability_faults,
    refuse,
)
from threestudio.models.materials.base import BaseMaterial
from threestudio.registry import register
from threestudio.utils.ops import dot, get_activation
from threestudio.utils.random import stream
from threestudio.utils.typing import Number

SHADINGS = ("albedo", "textureless", "diffuse")


@register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    """`albedo * (ambient + diffuse * max(0, n . l))` (DreamFusion, section 3.1).

    Each training batch is shown in one of three ways: as bare `albedo`, as the light alone
    (`textureless`, which makes flat shapes with painted-on detail visible to the guidance), or as
    their product (`diffuse`)."""

    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: Any = (0.1, 0.1, 0.1)
        """RGB of the light from everywhere, in [0, 1]."""
        diffuse_light_color: Any = (0.9, 0.9, 0.9)
        """RGB of the point light, in [0, 1]."""
        ambient_only_steps: int = 1000
        """Steps at the start that show the bare albedo."""
        diffuse_prob: float = 0.75
        """Chance of a batch with light, afterwards."""
        textureless_prob: float = 0.5
        """Chance that a batch with light is without albedo."""
        albedo_activation: Optional[str] = "sigmoid"
        """Name known to `threestudio.utils.ops.get_activation`."""
        soft_shading: bool = False
        """Whether training divides the light at random: a share u from the point, 1 - u ambient."""
        ambient_only_on_test: bool = False
        """Whether evaluation always shows the bare albedo."""

    cfg: Config
    requires_normal: bool = True
    ambient_light_color: Float[Tensor, "3"]
    diffuse_light_color: Float[Tensor, "3"]

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        key = "system.material"
        faults = probability_faults(key, cfg, "diffuse_prob", "textureless_prob")
        for name in ("ambient_light_color", "diffuse_light_color"):
            faults += color_faults(f"{key}.{name}", getattr(cfg, name), 3)
        return faults + activation_faults(f"{key}.albedo_activation", cfg.albedo_activation)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        for name in ("ambient_light_color", "diffuse_light_color"):
            color = [float(value) for value in getattr(self.cfg, name)]
            self.register_buffer(name, torch.tensor(color))
        self.activation = get_activation(self.cfg.albedo_activation)
        self.step = 0

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Remember the step: it ends the ambient phase and numbers the random stream."""
        self.step = global_step

    def forward(
        self,
        features: Float[Tensor, "*N F"],
        positions: Float[Tensor, "*N 3"],
        shading_normal: Float[Tensor, "*N 3"],
        light_positions: Float[Tensor, "*N 3"],
        ambient_ratio: Optional[Number] = None,
        shading: Optional[str] = None,
        **kwargs: Any,
    ) -> Float[Tensor, "*N 3"]:
        """Return RGB in [0, 1].

        Args:
            features: The first three are the albedo before its activation.
            positions: World points.
            shading_normal: Unit normals there.
            light_positions: The light of each point.
            ambient_ratio: Share of the ambient light; replaces both light colours.
            shading: One of `SHADINGS`; None follows the schedule.
            **kwargs: Not used.
        """
        albedo = self.activation(features[..., :3])
        ambient, diffuse = self._lights(ambient_ratio)
        to_light = F.normalize(light_positions - positions, dim=-1)
        light = dot(shading_normal, to_light).clamp_min(0.0) * diffuse + ambient
        shading = shading or self._scheduled_shading()
        # times 0: every parameter stays in the graph, as DDP wants it
        if shading == "albedo":
            return albedo + light * 0.0
        if shading == "textureless":
            return albedo * 0.0 + light
        if shading == "diffuse":
            return albedo.clamp(0.0, 1.0) * light
        raise ValueError(f"shading is '{shading}', allowed are {', '.join(SHADINGS)}.")

    def _lights(self, ambient_ratio: Optional[Number]) -> tuple[Tensor, Tensor]:
        ones = torch.ones_like(self.ambient_light_color)
        if ambient_ratio is not None:
            return ones * ambient_ratio, ones * (1.0 - ambient_ratio)
        if self.training and self.cfg.soft_shading:
            share = torch.rand((), generator=stream("light", self.step)).to(ones)
            return ones * (1.0 - share), ones * share
        return self.ambient_light_color, self.diffuse_light_color

    def _scheduled_shading(self) -> str:
        cfg = self.cfg
        ambient_only = self.step < cfg.ambient_only_steps
        if not self.training:
            return "albedo" if ambient_only or cfg.ambient_only_on_test else "diffuse"
        with_light, without_texture = torch.rand(2, generator=stream("shading", self.step)).tolist()
        if ambient_only or with_light > cfg.diffuse_prob:
            return "albedo"
        return "textureless" if without_texture < cfg.textureless_prob else "diffuse"

    def export(self, features: Float[Tensor, "*N F"], **kwargs: Any) -> dict[str, Any]:
        """Return the albedo, clamped to [0, 1]: without light."""
        return {"albedo": self.activation(features[..., :3]).clamp(0.0, 1.0)}
