"""Differentiable rasterisation under the name and with the signatures that extensions use.

Conventions are those that nvdiffrast documents: u and v weigh the first and the second vertex of a
triangle, 1 - u - v the third; row 0 of an image is the one next to clip y = -1. The project's
projection matrices turn y over, so that row 0 is the top of the picture."""

import importlib.util
from typing import Any, Optional, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.utils import antialias_torch, rasterize_torch
from threestudio.utils.antialias_torch import EdgeTable, edge_table
from threestudio.utils.errors import UserError

CONTEXT_TYPES = ("gl", "cuda")


class TorchBackend:
    """Our own rasteriser, on any device."""

    def __init__(self) -> None:
        self.tri: Optional[Tensor] = None
        self.table: Optional[EdgeTable] = None

    def rasterize(self, pos: Tensor, tri: Tensor, resolution: tuple[int, int]) -> Any:
        """Find what each pixel shows."""
        return rasterize_torch.rasterize(pos, tri.long(), resolution)

    def interpolate(
        self, attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Any, diff_attrs: Any
    ) -> Any:
        """Interpolate vertex attributes."""
        return rasterize_torch.interpolate(attr, rast, tri.long(), rast_db, diff_attrs)

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        """Blend colours over silhouettes."""
        return antialias_torch.antialias(color, rast, pos, self.edges(tri.long()))

    def edges(self, tri: Int[Tensor, "F 3"]) -> EdgeTable:
        """Return the edges of a mesh, built anew only if the topology is another than last time."""
        known = self.tri is not None and self.tri.device == tri.device
        if not (known and torch.equal(self.tri, tri)):
            self.tri, self.table = tri.clone(), edge_table(tri)
        return self.table


class NvdiffrastBackend:
    """The nvdiffrast library, which takes float32 and int32 on a CUDA device."""

    def __init__(self, context_type: str, device: torch.device) -> None:
        import nvdiffrast.torch as dr

        self.library = dr
        # releases that dropped OpenGL offer the CUDA context alone
        wanted = "RasterizeGLContext" if context_type == "gl" else "RasterizeCudaContext"
        self.context = getattr(dr, wanted, dr.RasterizeCudaContext)(device=device)

    def rasterize(self, pos: Tensor, tri: Tensor, resolution: tuple[int, int]) -> Any:
        """Find what each pixel shows."""
        return self.library.rasterize(self.context, dense(pos), tri.int(), resolution)

    def interpolate(
        self, attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Any, diff_attrs: Any
    ) -> Any:
        """Interpolate vertex attributes."""
        return self.library.interpolate(
            dense(attr), rast, tri.int(), rast_db=rast_db, diff_attrs=diff_attrs
        )

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        """Blend colours over silhouettes."""
        return self.library.antialias(dense(color), rast, dense(pos), tri.int())


def dense(x: Tensor) -> Tensor:
    """Return float32 without gaps in memory, which nvdiffrast demands."""
    return x.float().contiguous()


class NVDiffRasterizerContext:
    """Rasterise meshes differentiably: by nvdiffrast if it is installed and the device is CUDA,
    else by our own rasteriser.

    Gradients of positions flow through (u, v, z / w) inside of a surface, and through `antialias`
    at its silhouettes. What is behind the camera or outside the view volume is not drawn."""

    def __init__(self, context_type: str, device: Union[str, torch.device]) -> None:
        if context_type not in CONTEXT_TYPES:
            raise UserError(
                f"The rasteriser's `context_type` is {context_type!r}; it must be one of "
                f"{', '.join(CONTEXT_TYPES)}."
            )
        self.device = torch.device(device)
        own = self.device.type != "cuda" or importlib.util.find_spec("nvdiffrast") is None
        self.backend = TorchBackend() if own else NvdiffrastBackend(context_type, self.device)

    def vertex_transform(
        self, verts: Float[Tensor, "Nv 3"], mvp_mtx: Float[Tensor, "B 4 4"]
    ) -> Float[Tensor, "B Nv 4"]:
        """Return clip-space positions of world points for B cameras."""
        # not a matrix product: autocast would round it to half precision
        moved = (mvp_mtx[:, None, :, :3] * verts[None, :, None, :]).sum(dim=-1)
        return moved + mvp_mtx[:, None, :, 3]

    def rasterize(
        self,
        pos: Float[Tensor, "B Nv 4"],
        tri: Int[Tensor, "F 3"],
        resolution: tuple[int, int],
    ) -> tuple[Float[Tensor, "B H W 4"], Float[Tensor, "B H W 4"]]:
        """Find the nearest triangle at the centre of each pixel.

        Args:
            pos: Clip-space positions, one set per image.
            tri: Vertices of the triangles; either winding is drawn, one without area is not.
            resolution: (height, width).

        Returns:
            `rast` with (u, v, z / w, index of the triangle + 1), all 0 where there is nothing, and
            `rast_db` with (du/dX, du/dY, dv/dX, dv/dY) per pixel.
        """
        return self.backend.rasterize(pos, tri, resolution)

    def rasterize_one(
        self, pos: Float[Tensor, "Nv 4"], tri: Int[Tensor, "F 3"], resolution: tuple[int, int]
    ) -> tuple[Float[Tensor, "H W 4"], Float[Tensor, "H W 4"]]:
        """Like `rasterize`, for one view."""
        rast, rast_db = self.rasterize(pos[None], tri, resolution)
        return rast[0], rast_db[0]

    def antialias(
        self,
        color: Float[Tensor, "B H W C"],
        rast: Float[Tensor, "B H W 4"],
        pos: Float[Tensor, "B Nv 4"],
        tri: Int[Tensor, "F 3"],
    ) -> Float[Tensor, "B H W C"]:
        """Blend colours over silhouettes in proportion to the covered part of a pixel, which gives
        them a gradient with respect to `pos`.

        Args:
            color: Images of any channels.
            rast: What `rasterize` returned for `pos` and `tri`.
            pos: Clip-space positions.
            tri: Vertices of the triangles.
        """
        return self.backend.antialias(color, rast, pos, tri)

    def interpolate(
        self,
        attr: Float[Tensor, "V Nv C"],
        rast: Float[Tensor, "B H W 4"],
        tri: Int[Tensor, "F 3"],
        rast_db: Optional[Float[Tensor, "B H W 4"]] = None,
        diff_attrs: Optional[Union[str, list[int]]] = None,
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
        """Interpolate vertex attributes at the pixels, perspective-correctly.

        Args:
            attr: Attributes of the vertices, one set per image or one for all (V = 1).
            rast: What `rasterize` returned.
            tri: Vertices of the triangles.
            rast_db: What `rasterize` returned; needed for slopes.
            diff_attrs: Attributes whose slopes are wanted: "all", indices, or None for none.

        Returns:
            The attributes, 0 where there is nothing, and their slopes (dA/dX, dA/dY) per pixel, a
            pair for each attribute of `diff_attrs`.
        """
        return self.backend.interpolate(attr, rast, tri, rast_db, diff_attrs)

    def interpolate_one(
        self,
        attr: Float[Tensor, "Nv C"],
        rast: Float[Tensor, "B H W 4"],
        tri: Int[Tensor, "F 3"],
        rast_db: Optional[Float[Tensor, "B H W 4"]] = None,
        diff_attrs: Optional[Union[str, list[int]]] = None,
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
        """Like `interpolate`, for attributes that all images share."""
        return self.interpolate(attr[None], rast, tri, rast_db, diff_attrs)
