"""The interface of exporters, and the one that exports nothing."""

from dataclasses import dataclass
from typing import Any

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import Scene, SceneHolder
from threestudio.registry import register
from threestudio.utils.base import BaseObject


@dataclass
class ExporterOutput:
    """One thing to save: the system calls `save_<save_type>("it<step>-export/<save_name>",
    **params)`."""

    save_name: str
    save_type: str
    params: dict[str, Any]


class Exporter(SceneHolder, BaseObject):
    """Turn a scene into outputs to save."""

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False
        """Whether exporting also renders the test views."""

    cfg: Config

    def configure(
        self,
        geometry: BaseGeometry,
        material: BaseMaterial,
        background: BaseBackground,
    ) -> None:
        self.scene = Scene(geometry, material, background)

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        """Return what to save."""
        raise NotImplementedError


@register("dummy-exporter")
class DummyExporter(Exporter):
    """Export nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        """Return no outputs."""
        return []
