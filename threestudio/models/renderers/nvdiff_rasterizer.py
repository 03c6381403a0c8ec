"""`nvdiff-rasterizer`: a mesh of the geometry's surface, rasterised and shaded per pixel."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.models.faults import refuse
from threestudio.models.renderers.base import Renderer
from threestudio.registry import register
from threestudio.utils.rasterize import CONTEXT_TYPES, NVDiffRasterizerContext


def pixel_directions(
    mvp_mtx: Float[Tensor, "B 4 4"], height: int, width: int
) -> Float[Tensor, "B H W 3"]:
    """Return unit world directions through the centres of pixels.

    The clip-space x, y and w of a camera's own position are 0, so a direction d from there is seen
    at (x, y, w) = A d, where A are the rows 0, 1 and 3 of the matrix without their last column."""
    x = (2 * torch.arange(width, device=mvp_mtx.device) + 1).to(mvp_mtx) / width - 1
    y = (2 * torch.arange(height, device=mvp_mtx.device) + 1).to(mvp_mtx) / height - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    seen_at = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    to_world = torch.linalg.inv(mvp_mtx[:, [0, 1, 3], :3])[:, None, None]
    return F.normalize((to_world * seen_at[..., None, :]).sum(dim=-1), dim=-1)


@dataclass(frozen=True)
class Shown:
    """The points of a mesh that images show, one row per pixel."""

    ctx: NVDiffRasterizerContext
    """What rasterised the mesh."""
    mesh: Any
    """The mesh, a `threestudio.models.mesh.Mesh`."""
    rast: Float[Tensor, "B H W 4"]
    """What the context returned."""
    pixels: Int[Tensor, " P"]
    """Flat index of each pixel. If nothing is shown, one pixel stands in for the point (0, 0, 0):
    networks and losses need something to work on."""
    images: Int[Tensor, " P"]
    """Image that each pixel belongs to."""
    count: int
    """Pixels that do show something."""

    @classmethod
    def of(cls, ctx: NVDiffRasterizerContext, mesh: Any, rast: Float[Tensor, "B H W 4"]) -> "Shown":
        """Collect the pixels that show something."""
        pixels = (rast[..., 3].reshape(-1) > 0).nonzero()[:, 0]
        count = len(pixels)
        pixels = pixels if count > 0 else pixels.new_zeros(1)
        return cls(ctx, mesh, rast, pixels, pixels // rast[0, ..., 0].numel(), count)

    def gather(self, attr: Float[Tensor, "Nv C"]) -> Float[Tensor, "P C"]:
        """Interpolate an attribute of the vertices."""
        image, _ = self.ctx.interpolate_one(attr, self.rast, self.mesh.t_pos_idx)
        return image.flatten(0, 2).index_select(0, self.pixels)

    def put(
        self, rows: Float[Tensor, "P C"], image: Float[Tensor, "B H W C"]
    ) -> Float[Tensor, "B H W C"]:
        """Return `image` with other values at these pixels."""
        flat, n = image.flatten(0, 2), self.count
        return flat.index_copy(0, self.pixels[:n], rows[:n].to(flat)).view(image.shape)


@register("nvdiff-rasterizer")
class NVDiffRasterizer(Renderer):
    """Rasterise `geometry.isosurface()`, colour what is visible, and antialias silhouettes.

    Gradients reach the mesh through its silhouettes and through the points at which geometry and
    material are evaluated; only pixels that show the mesh are evaluated."""

    @dataclass
    class Config(Renderer.Config):
        context_type: str = "gl"
        """Context of nvdiffrast, gl or cuda. Without nvdiffrast and a CUDA device, both mean our
        own rasteriser."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        if cfg.context_type in CONTEXT_TYPES:
            return []
        return [
            f"`system.renderer.context_type` is {cfg.context_type!r}; it must be one of "
            f"{', '.join(CONTEXT_TYPES)}."
        ]

    def configure(self, *args: Any, **kwargs: Any) -> None:
        refuse(self.check(self.cfg))
        super().configure(*args, **kwargs)
        geometry = self.geometry
        if not (hasattr(geometry, "isosurface") and getattr(geometry.cfg, "isosurface", True)):
            refuse(
                [
                    f"This {type(geometry).__name__} gives no surface to rasterise. Set "
                    "`system.geometry.isosurface: true`, use a geometry that has a surface, or set "
                    "`system.renderer_type: nerf-volume-renderer`."
                ]
            )
        self.ctx = NVDiffRasterizerContext(self.cfg.context_type, self.device)

    def forward(
        self,
        mvp_mtx: Float[Tensor, "B 4 4"],
        camera_positions: Float[Tensor, "B 3"],
        light_positions: Float[Tensor, "B 3"],
        height: int,
        width: int,
        render_rgb: bool = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Render images of height x width pixels.

        Args:
            mvp_mtx: World to clip space.
            camera_positions: Camera centres.
            light_positions: One point light per image.
            height: Rows.
            width: Columns.
            render_rgb: Whether colours are computed.
            **kwargs: The rest of the batch; reaches the material.

        Returns:
            `opacity [B H W 1]`, `comp_normal [B H W 3]` (world normals mapped to [0, 1], 0 where
            there is nothing), `mesh`; with `render_rgb` also `comp_rgb, comp_rgb_bg [B H W C]`.
        """
        mesh = self.geometry.isosurface()
        pos = self.ctx.vertex_transform(mesh.v_pos, mvp_mtx)
        rast, _ = self.ctx.rasterize(pos, mesh.t_pos_idx, (height, width))
        shown = Shown.of(self.ctx, mesh, rast)
        normal = F.normalize(shown.gather(mesh.v_nrm), dim=-1)
        void = torch.zeros_like(rast[..., :3])
        layers = {
            "opacity": shown.put(torch.ones_like(normal[:, :1]), void[..., :1]),
            "comp_normal": shown.put((normal + 1.0) / 2.0, void),
        }
        out = {"mesh": mesh}
        if render_rgb:
            behind = self.background(dirs=pixel_directions(mvp_mtx, height, width))
            color = self._shade(shown, normal, camera_positions, light_positions, kwargs)
            layers["comp_rgb"], out["comp_rgb_bg"] = shown.put(color, behind), behind
        image = torch.cat(list(layers.values()), dim=-1)
        image = self.ctx.antialias(image, rast, pos, mesh.t_pos_idx)
        sizes = [layer.shape[-1] for layer in layers.values()]
        return {**out, **dict(zip(layers, image.split(sizes, dim=-1), strict=True))}

    def _shade(
        self,
        shown: Shown,
        normal: Float[Tensor, "P 3"],
        cameras: Float[Tensor, "B 3"],
        lights: Float[Tensor, "B 3"],
        batch: dict[str, Any],
    ) -> Float[Tensor, "P C"]:
        """Return the colour of what is shown."""
        positions = shown.gather(shown.mesh.v_pos)
        surface = {}
        if self.material.requires_normal:
            surface["shading_normal"] = normal
        if self.material.requires_tangent:
            surface["tangent"] = F.normalize(shown.gather(shown.mesh.v_tng), dim=-1)
        return self.material(
            viewdirs=F.normalize(positions - cameras[shown.images], dim=-1),
            positions=positions,
            light_positions=lights[shown.images],
            **surface,
            **self.geometry(positions, output_normal=False),
            **batch,
        )
