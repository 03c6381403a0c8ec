"""What Gaussians start as: a random ball, a file, or the surface of another run's scene."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.mesh import Mesh
from threestudio.models.packages import optional_package
from threestudio.systems.conversion import load_part, previous_system
from threestudio.utils.errors import UserError
from threestudio.utils.random import stream

from .parameters import Values
from .ply import is_gaussian_file, read_gaussians
from .spherical_harmonics import rgb_to_harmonics

STREAM = "gaussian-start"
SUFFIXES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off", ".ckpt")
"""Files that a scene can start from."""
NEIGHBOURS = 3
"""Nearest points whose mean distance is the first scale (Kerbl et al. 2023, section 5)."""
LONE_SCALE = 0.1
"""Scale of a point that has no neighbour, world units."""
GREY = 0.5


@dataclass(frozen=True)
class PointCloud:
    """Points with colours."""

    points: Float[Tensor, "P 3"]
    """World units."""
    colors: Float[Tensor, "P 3"]
    """RGB in [0, 1]."""

    def __len__(self) -> int:
        return len(self.points)


def random_ball(count: int, radius: float) -> PointCloud:
    """Draw points uniformly in a ball around the origin, grey."""
    generator = stream(STREAM, 0)
    direction = torch.randn(count, 3, generator=generator)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
    distance = radius * torch.rand(count, 1, generator=generator) ** (1.0 / 3.0)
    return PointCloud(direction * distance, torch.full((count, 3), GREY))


def values_of_cloud(
    cloud: PointCloud, sh_degree: int, opacity: float, scale_range: tuple[float, float]
) -> Values:
    """Turn points into round Gaussians, as wide as the mean distance to their neighbours.

    Args:
        cloud: The points.
        sh_degree: Degree of the harmonics; only the constant one is not 0.
        opacity: Opacity of all.
        scale_range: Lowest and highest scale, world units.
    """
    count = len(cloud)
    scale = neighbour_distances(cloud.points).clamp(*scale_range)
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return {
        "_xyz": cloud.points.float(),
        "_features_dc": rgb_to_harmonics(cloud.colors.float())[:, None],
        "_features_rest": torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3),
        "_opacity": torch.full((count, 1), opacity).logit(),
        "_scaling": scale.log()[:, None].repeat(1, 3),
        "_rotation": identity.repeat(count, 1),
    }


def neighbour_distances(points: Float[Tensor, "P 3"]) -> Float[Tensor, " P"]:
    """Return the mean distance of points to their nearest `NEIGHBOURS`."""
    count = min(NEIGHBOURS, len(points) - 1)
    if count < 1:
        return torch.full((len(points),), LONE_SCALE)
    spatial = optional_package("scipy.spatial", "scipy", "The first scales of Gaussians")
    places = points.detach().double().cpu().numpy()
    distances, _ = spatial.cKDTree(places).query(places, k=count + 1)
    # the nearest of all is the point itself, or one at the same place
    return torch.from_numpy(distances[:, 1:].mean(axis=1)).float()


def values_of_source(
    source: str, cfg: Any, scale_range: tuple[float, float], only_points: bool
) -> Values:
    """Read what `geometry_convert_from` names.

    Args:
        source: A PLY file of Gaussians, another mesh or point cloud that trimesh reads, or a
            checkpoint of a run of this runtime.
        cfg: Configuration of the geometry.
        scale_range: Lowest and highest scale of Gaussians made of points.
        only_points: Take only the centres of a file of Gaussians, and new Gaussians at them.
    """
    if source.lower().endswith(".ckpt"):
        found = of_run(source, cfg.init_num_pts)
    elif source.lower().endswith(".ply") and is_gaussian_file(source):
        found = read_gaussians(source)
    else:
        found = read_cloud(source, cfg.init_num_pts)
    if isinstance(found, dict) and only_points:
        grey = torch.full_like(found["_xyz"], GREY)
        found = PointCloud(found["_xyz"], grey)
    if isinstance(found, PointCloud):
        return values_of_cloud(found, cfg.sh_degree, cfg.opacity_init, scale_range)
    return with_degree(found, cfg.sh_degree)


def with_degree(values: Values, sh_degree: int) -> Values:
    """Cut harmonics off above a degree, or add zeros."""
    rest, wanted = values["_features_rest"], (sh_degree + 1) ** 2 - 1
    padding = rest.new_zeros(len(rest), max(0, wanted - rest.shape[1]), 3)
    return {**values, "_features_rest": torch.cat([rest[:, :wanted], padding], dim=1)}


def read_cloud(path: str, count: int) -> PointCloud:
    """Read a point cloud, or sample `count` points of a mesh's surface, with their colours.

    The y axis of glTF points up and becomes z, as our exporter has it the other way round."""
    trimesh = optional_package("trimesh", "trimesh", "Reading meshes")
    try:
        scene = trimesh.load_scene(path)
        loaded = scene.to_mesh() if _is_mesh(scene) else next(iter(scene.geometry.values()))
    except Exception as error:
        raise UserError(f"'{path}' cannot be read as a mesh or point cloud: {error}") from error
    if hasattr(loaded, "faces"):
        cloud = sample_surface(loaded, count)
    else:
        colors = np.asarray(loaded.colors)
        shown = colors[:, :3] / 255.0 if len(colors) else np.full((len(loaded.vertices), 3), GREY)
        cloud = _cloud(np.asarray(loaded.vertices), shown)
    if path.lower().endswith((".glb", ".gltf")):
        return PointCloud(cloud.points[:, [2, 0, 1]], cloud.colors)
    return cloud


def _is_mesh(scene: Any) -> bool:
    return any(hasattr(part, "faces") for part in scene.geometry.values())


def _cloud(points: np.ndarray, colors: np.ndarray) -> PointCloud:
    return PointCloud(torch.from_numpy(points).float(), torch.from_numpy(colors).float())


def sample_surface(mesh: Any, count: int) -> PointCloud:
    """Draw points uniformly of the surface of a `trimesh.Trimesh`; grey if it has no colours."""
    sample = optional_package("trimesh.sample", "trimesh", "Sampling a surface")
    seed = int(torch.randint(2**31, (), generator=stream(STREAM, 1)))
    colored = mesh.visual.defined
    found = sample.sample_surface(mesh, count, sample_color=colored, seed=seed)
    colors = np.asarray(found[2])[:, :3] / 255.0 if colored else np.full((count, 3), GREY)
    return _cloud(np.asarray(found[0]), colors)


@torch.no_grad()
def of_run(path: str, count: int) -> Any:
    """Return the Gaussians of a checkpoint, or points of the surface of the scene in it.

    Colours are what the run's material makes of the features there, without light. The level of the
    surface is the `isosurface_threshold` of that run's `configs/parsed.yaml`."""
    system = previous_system(path)
    # Gaussians of the other run need not be made of a third one again
    has_source = "geometry_convert_from" in (system.get("geometry") or {})
    override = {"geometry_convert_from": ""} if has_source else None
    geometry = load_part(path, system, "geometry", override)
    if not isinstance(geometry, BaseImplicitGeometry):
        return gaussian_values(geometry, path)
    cloud = of_surface(geometry, count)
    material = load_part(path, system, "material")
    points = cloud.points.to(geometry.bbox)
    exported = geometry.export(points=points)
    albedo = material.export(points=points, **exported).get("albedo") if exported else None
    return cloud if albedo is None else PointCloud(cloud.points, albedo.cpu())


def gaussian_values(geometry: Any, where: str) -> Values:
    """Copy the parameters of a Gaussian geometry."""
    if not hasattr(geometry, "_features_dc"):
        raise UserError(
            f"{where} holds a {type(geometry).__name__}: Gaussians can be made of other Gaussians, "
            "and of volumes and distances that have an isosurface."
        )
    return {name: p.detach().cpu().clone() for name, p in geometry.named_parameters()}


def of_surface(geometry: BaseImplicitGeometry, count: int) -> PointCloud:
    """Sample the surface of a volume or of a signed distance, grey."""
    trimesh = optional_package("trimesh", "trimesh", "Sampling a surface")
    mesh: Mesh = geometry.isosurface()
    vertices, faces = (value.detach().cpu().numpy() for value in (mesh.v_pos, mesh.t_pos_idx))
    return sample_surface(trimesh.Trimesh(vertices, faces, process=False), count)


def surface_colors(geometry: BaseImplicitGeometry, cloud: PointCloud) -> PointCloud:
    """Colour points by the logistic function of three features; grey stays if there are others."""
    features = geometry.export(points=cloud.points.to(geometry.bbox)).get("features")
    if features is None or features.shape[-1] != 3:
        return cloud
    return PointCloud(cloud.points, features.sigmoid().cpu())
