"""`gaussian-mesh-exporter`: a surface of the Gaussians with their colours."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio.models.exporters.mesh_exporter import CHUNK, MeshExporter
from threestudio.registry import register
from threestudio.utils.ops import chunk_batch


@register("gaussian-mesh-exporter")
class GaussianMeshExporter(MeshExporter):
    """Export the surface where the density of the Gaussians passes `isosurface_threshold`, as
    `mesh-exporter` does; colours are theirs, seen from nowhere in particular."""

    @dataclass
    class Config(MeshExporter.Config):
        fmt: str = "obj"
        """obj with vertex colours, obj-mtl or glb."""
        save_video: bool = True
        """Whether exporting also renders the test views."""

    cfg: Config

    def maps(self, points: Float[Tensor, "N 3"]) -> dict[str, Float[Tensor, "N C"]]:
        """Return the albedo at points, in [0, 1]."""
        return chunk_batch(lambda part: self.geometry.export(points=part), CHUNK, points)
