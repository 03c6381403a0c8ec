"""`mesh-exporter`: the surface of a scene with its colours, as OBJ or glTF."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.faults import count_faults, refuse
from threestudio.models.mesh import Mesh
from threestudio.registry import register
from threestudio.utils.errors import UserError
from threestudio.utils.images import rgb_image
from threestudio.utils.logging import info, warn
from threestudio.utils.ops import chunk_batch
from threestudio.utils.rasterize import NVDiffRasterizerContext

FORMATS = ("obj-mtl", "obj", "glb")
MAPS = {"albedo": "map_Kd", "metallic": "map_Pm", "roughness": "map_Pr", "bump": "map_Bump"}
"""What a material exports, and its key in an MTL file."""
PADDING = 2
"""Pixels between charts: programs that read a texture blend across a chart's border."""
CHUNK = 2**17
"""Points that are evaluated at once."""


@register("mesh-exporter")
class MeshExporter(Exporter):
    """Export a mesh: `obj-mtl` with a texture, `obj` with vertex colours, `glb` with a texture, or
    with vertex colours if `save_texture` is false. Colours are the material's without light."""

    @dataclass
    class Config(Exporter.Config):
        fmt: str = "obj-mtl"
        """obj-mtl, obj or glb."""
        save_name: str = "model"
        """File name without suffix."""
        save_normal: bool = False
        """Whether an OBJ has vertex normals."""
        save_uv: bool = True
        """Whether the mesh has texture coordinates; a texture needs them."""
        save_texture: bool = True
        """Whether colours are in a texture."""
        texture_size: int = 1024
        """Width and height of the texture, pixels."""
        texture_format: str = "jpg"
        """Picture format of an OBJ's textures, jpg or png."""
        xatlas_chart_options: dict = field(default_factory=dict)
        """Attributes of `xatlas.ChartOptions`: how the surface is cut into charts."""
        xatlas_pack_options: dict = field(default_factory=dict)
        """Attributes of `xatlas.PackOptions`: how charts are packed into the texture; `resolution`
        is `texture_size` and `padding` 2 unless given."""
        context_type: str = "gl"
        """Kept for upstream's YAMLs: gl or cuda, see the rasteriser."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = [
            f"`system.exporter.{name}` is '{getattr(cfg, name)}'; allowed are {', '.join(known)}."
            for name, known in (("fmt", FORMATS), ("texture_format", ("jpg", "png")))
            if getattr(cfg, name) not in known
        ]
        if cfg.save_texture and not cfg.save_uv and cfg.fmt != "obj":
            faults.append(
                "`system.exporter.save_texture` needs texture coordinates. Set "
                "`system.exporter.save_uv` to true, or `save_texture` to false."
            )
        return faults + count_faults("system.exporter", cfg, "texture_size")

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        refuse(self.check(self.cfg))
        if not hasattr(self.geometry, "isosurface"):
            raise UserError(
                f"A {type(self.geometry).__name__} has no surface to export. Set "
                "`system.exporter_type=dummy-exporter`, or use an exporter made for it."
            )

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """Return the mesh and what is to be saved with it."""
        cfg, mesh = self.cfg, self.geometry.isosurface()
        self._report(mesh)
        if cfg.fmt == "obj" or not cfg.save_texture:
            albedo = self.maps(mesh.v_pos).get("albedo")
            if albedo is not None:
                mesh.set_vertex_color(albedo)
            if cfg.fmt == "glb":
                return [self._output("glb", mesh=mesh)]
            return [self._obj(mesh, save_vertex_color=albedo is not None, save_uv=cfg.save_uv)]
        packing = {"resolution": cfg.texture_size, "padding": PADDING, **cfg.xatlas_pack_options}
        mesh.unwrap_uv(cfg.xatlas_chart_options, packing)
        pictures = self.textures(mesh)
        if cfg.fmt == "glb":
            return [self._output("glb", mesh=mesh, map_Kd=pictures.get("map_Kd"))]
        return [self._obj(mesh, save_mat=True, save_uv=True, **pictures)]

    def _obj(self, mesh: Mesh, **params: Any) -> ExporterOutput:
        settings = {"save_normal": self.cfg.save_normal, "map_format": self.cfg.texture_format}
        return self._output("obj", mesh=mesh, **settings, **params)

    def _output(self, kind: str, **params: Any) -> ExporterOutput:
        return ExporterOutput(f"{self.cfg.save_name}.{kind}", kind, params)

    def maps(self, points: Float[Tensor, "N 3"]) -> dict[str, Float[Tensor, "N C"]]:
        """Return what geometry and material say about points, e.g. the albedo, in [0, 1].

        Nothing, if the geometry has no features."""

        def evaluate(part: Tensor) -> dict[str, Tensor]:
            features = self.geometry.export(points=part)
            return self.material.export(points=part, **features) if features else {}

        return chunk_batch(evaluate, CHUNK, points)

    def textures(self, mesh: Mesh) -> dict[str, np.ndarray]:
        """Paint the material onto the texture of an unwrapped mesh.

        Returns:
            Pictures, uint8 [H, W, 3], by their keys in an MTL file.
        """
        size = self.cfg.texture_size
        context = NVDiffRasterizerContext(self.cfg.context_type, mesh.v_pos.device)
        places = torch.cat([mesh.v_tex * 2.0 - 1.0, torch.zeros_like(mesh.v_tex)], dim=-1)
        places[:, 3] = 1.0
        rast, _ = context.rasterize_one(places, mesh.t_tex_idx, (size, size))
        covered = rast[..., 3] > 0
        points, _ = context.interpolate_one(mesh.v_pos, rast[None], mesh.t_pos_idx)
        pictures = {}
        for name, values in self.maps(points[0][covered]).items():
            image = values.new_zeros(size, size, values.shape[-1])
            image[covered] = values
            pictures[MAPS[name]] = rgb_image(fill_holes(image, covered))
        return pictures

    @staticmethod
    def _report(mesh: Mesh) -> None:
        """Say how large the mesh is and, if it is open, where."""
        info(f"The mesh has {len(mesh.v_pos)} vertices and {len(mesh.t_pos_idx)} triangles.")
        ends = torch.cat([mesh.t_pos_idx[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
        edges, counts = torch.unique(ends.sort(dim=-1).values, dim=0, return_counts=True)
        borders = mesh.v_pos[edges[counts == 1].flatten()]
        if len(borders):
            corners = borders.amin(dim=0), borders.amax(dim=0)
            low, high = ([round(x, 2) for x in corner.tolist()] for corner in corners)
            warn(
                f"The mesh is not closed: {len(borders) // 2} edges have one triangle, between "
                f"{low} and {high}. If that is the border of the box, the scene goes on beyond it: "
                "`system.geometry.radius`."
            )


def fill_holes(
    image: Float[Tensor, "H W C"], covered: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W C"]:
    """Give pixels that no triangle covers the colour of the nearest one that is covered."""
    from scipy.ndimage import distance_transform_edt

    if not covered.any():
        return image
    nearest = distance_transform_edt(
        ~covered.cpu().numpy(), return_distances=False, return_indices=True
    )
    rows, columns = torch.from_numpy(nearest.astype("int64")).to(image.device)
    return image[rows, columns]
