"""The interface of renderers."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseModule


@dataclass
class Scene:
    """The parts that are rendered. Not a module, so that the system's state holds each part
    once."""

    geometry: Any
    material: Any
    background: Any


class SceneHolder:
    """Gives the parts of `self.scene` by name, as upstream's renderers and exporters do."""

    scene: Scene

    @property
    def geometry(self) -> BaseGeometry:
        """The geometry of the scene."""
        return self.scene.geometry

    @property
    def material(self) -> BaseMaterial:
        """The material on it."""
        return self.scene.material

    @property
    def background(self) -> BaseBackground:
        """What is behind it."""
        return self.scene.background


class Renderer(SceneHolder, BaseModule):
    """Turn cameras into images of a geometry, a material and a background, which the system
    owns."""

    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0
        """Half edge of the rendered box, world units."""

    cfg: Config
    bbox: Float[Tensor, "2 3"]

    def configure(
        self,
        geometry: BaseGeometry,
        material: BaseMaterial,
        background: BaseBackground,
    ) -> None:
        self.scene = Scene(geometry, material, background)
        self.step = 0
        radius = float(self.cfg.radius)
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3]))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Render; the keys are those that systems read."""
        raise NotImplementedError

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Remember the step, which numbers the random streams."""
        self.step = global_step

    def set_geometry(self, geometry: BaseGeometry) -> None:
        """Render another geometry."""
        self.scene.geometry = geometry

    def set_material(self, material: BaseMaterial) -> None:
        """Use another material."""
        self.scene.material = material

    def set_background(self, background: BaseBackground) -> None:
        """Use another background."""
        self.scene.background = background


class VolumeRenderer(Renderer):
    """A renderer of a density field."""
