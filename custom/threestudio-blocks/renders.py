"""Scenes of the blocks world, rendered once as layers and coloured when they are used.

A scene holds one or two solids. Its render keeps, per view, four channels in [0, 1] as bytes:
coverage of the first solid, its coverage times shading, and the same for the second. Colours and
the plain background are put in by `compose`, so that a few thousand rendered scenes give millions
of different pictures. Cameras are drawn by the multi-view data module with the settings of the
blocks YAMLs (`CAMERA`).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from threestudio.data.multiview import (
    RandomMultiviewCameraDataModuleConfig,
    RandomMultiviewCameraIterableDataset,
)
from threestudio.data.uncond import RandomCameraDataset
from threestudio.utils.config import parse_structured
from threestudio.utils.random import stream

from .captions import COLORS, RELATIONS, SHAPES, SLOT_OF_RELATION, Caption
from .solids import HALF_HEIGHT, intersect, shade

IMAGE_SIZE = 64
NUM_VIEWS = 4
SUPERSAMPLING = 2
SINGLE = -1
"""Stands for "no relation" and "no second solid" in integer arrays."""
SINGLE_SHARE = 0.25
"""Share of scenes with one solid."""

CAMERA = {
    "n_view": NUM_VIEWS,
    "elevation_range": [0, 30],
    "azimuth_range": [-180, 180],
    "camera_distance_range": [2.8, 2.8],
    "fovy_range": [40, 40],
    "relative_radius": False,
    "camera_perturb": 0.0,
    "center_perturb": 0.0,
    "up_perturb": 0.0,
    "eval_camera_distance": 2.8,
    "eval_fovy_deg": 40.0,
    "eval_elevation_deg": 15.0,
}
"""Camera keys of every blocks YAML: a ball of radius 1 just fills the picture."""

CAMERA_KEYS = ("rays_o", "rays_d", "c2w", "azimuth", "elevation")
COLOR_TABLE = torch.tensor(list(COLORS.values()))


@dataclass(frozen=True)
class Scenes:
    """Geometry of N scenes; the second column is unused where `relation` is SINGLE.

    Attributes:
        shapes: Index into SHAPES, SINGLE for a missing second solid.
        relation: Index into RELATIONS of the first solid towards the second, or SINGLE.
        centers: World coordinates.
        sizes: Radius of the ball that a solid fills.
        yaws: Rotation about z in radians.
    """

    shapes: Int[Tensor, "N 2"]
    relation: Int[Tensor, " N"]
    centers: Float[Tensor, "N 2 3"]
    sizes: Float[Tensor, "N 2"]
    yaws: Float[Tensor, "N 2"]


def draw_scenes(num_scenes: int, generator: torch.Generator) -> Scenes:
    """Draw scenes with shapes and the four relations equally frequent.

    Args:
        num_scenes: How many.
        generator: Source of randomness (CPU).
    """
    shapes = torch.stack(
        [torch.randperm(len(SHAPES), generator=generator)[:2] for _ in range(num_scenes)]
    )
    relation = torch.randint(len(RELATIONS), (num_scenes,), generator=generator)
    single = torch.rand(num_scenes, generator=generator) < SINGLE_SHARE
    shapes[single, 1] = SINGLE
    return place_solids(shapes, torch.where(single, SINGLE, relation), generator)


def scenes_of(captions: list[Caption], generator: torch.Generator) -> Scenes:
    """Place the solids of given captions."""
    shapes = torch.full((len(captions), 2), SINGLE)
    relation = torch.full((len(captions),), SINGLE)
    for row, caption in enumerate(captions):
        shapes[row, 0] = SHAPES.index(caption.first.shape)
        if caption.second is not None:
            shapes[row, 1] = SHAPES.index(caption.second.shape)
            relation[row] = RELATIONS.index(caption.relation)
    return place_solids(shapes, relation, generator)


def place_solids(
    shapes: Int[Tensor, "N 2"], relation: Int[Tensor, " N"], generator: torch.Generator
) -> Scenes:
    """Give solids their places, sizes and yaws, each slightly varied.

    Neighbours stand about 0.88 apart; stacked solids touch. See `Scenes` for the arguments.
    """
    num_scenes = len(shapes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    single = relation == SINGLE
    pair_sizes, single_sizes = uniform(0.37, 0.43, num_scenes, 2), uniform(0.50, 0.62, num_scenes)
    half_heights = torch.tensor([HALF_HEIGHT[name] for name in SHAPES])[shapes] * pair_sizes
    half_gap = uniform(0.42, 0.46, num_scenes)
    centers = torch.zeros(num_scenes, 2, 3)
    for index, name in enumerate(RELATIONS):
        for solid, slot in enumerate(SLOT_OF_RELATION[name]):
            chosen = relation == index
            if slot in ("left", "right"):
                centers[chosen, solid, 1] = half_gap[chosen] * (1 if slot == "right" else -1)
            else:
                side = 1 if slot == "top" else -1
                centers[chosen, solid, 2] = half_heights[chosen, solid] * side
    centers = centers + uniform(-0.04, 0.04, num_scenes, 1, 3)
    sizes = torch.where(single[:, None], single_sizes[:, None], pair_sizes)
    return Scenes(shapes, relation, centers, sizes, uniform(-0.25, 0.25, num_scenes, 2))


def render_layers(
    scenes: Scenes, rays_o: Float[Tensor, "N V H W 3"], rays_d: Float[Tensor, "N V H W 3"]
) -> UInt8[Tensor, "N V 4 h w"]:
    """Render N scenes as layers (see the module), averaging SUPERSAMPLING^2 rays a pixel."""
    num_scenes, num_views, height, width, _ = rays_o.shape
    flat_o, flat_d = (rays.reshape(num_scenes, -1, 3) for rays in (rays_o, rays_d))
    hits = [_hit_solid(scenes, solid, flat_o, flat_d) for solid in range(2)]
    first_in_front = hits[0][0] <= hits[1][0]
    layers = []
    for (distance, brightness), in_front in zip(
        hits, (first_in_front, ~first_in_front), strict=True
    ):
        visible = (distance.isfinite() & in_front).float()
        layers += [visible, visible * brightness]
    stack = torch.stack(layers, dim=1).view(num_scenes, 4, num_views, height, width)
    pooled = F.avg_pool2d(stack.flatten(0, 2)[:, None], SUPERSAMPLING)
    pooled = pooled.view(num_scenes, 4, num_views, height // SUPERSAMPLING, width // SUPERSAMPLING)
    return (pooled.transpose(1, 2) * 255).round().to(torch.uint8)


def _hit_solid(scenes: Scenes, solid: int, rays_o: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor]:
    distance = torch.full(rays_o.shape[:2], torch.inf)
    brightness = torch.zeros(rays_o.shape[:2])
    for index, shape in enumerate(SHAPES):
        chosen = scenes.shapes[:, solid] == index
        if not chosen.any():
            continue
        places = (values[chosen, solid] for values in (scenes.centers, scenes.sizes, scenes.yaws))
        hit_distance, normal = intersect(shape, rays_o[chosen], rays_d[chosen], *places)
        distance[chosen], brightness[chosen] = hit_distance, shade(normal)
    return distance, brightness


def compose(
    layers: UInt8[Tensor, "... 4 h w"],
    colors: Float[Tensor, "... 2 3"],
    background: Float[Tensor, "... 3"],
) -> Float[Tensor, "... 3 h w"]:
    """Colour layers and put them on a plain background; RGB in [0, 1]."""
    values = layers.float() / 255
    cover_a, shaded_a, cover_b, shaded_b = values.unbind(dim=-3)
    image = (1 - cover_a - cover_b)[..., None, :, :] * background[..., None, None]
    image = image + shaded_a[..., None, :, :] * colors[..., 0, :, None, None]
    return image + shaded_b[..., None, :, :] * colors[..., 1, :, None, None]


class Renders:
    """A cached set of rendered scenes on disk, memory-mapped.

    Attributes:
        scenes: Geometry of the N scenes.
        layers: `[N, V, 4, h, w]` bytes.
        c2w: Camera-to-world `[N, V, 4, 4]`.
        azimuth_deg, elevation_deg: `[N, V]`.
    """

    def __init__(self, folder: Path) -> None:
        meta = np.load(folder / "scenes.npz")
        self.scenes = Scenes(**{key: torch.from_numpy(meta[key]) for key in Scenes.__annotations__})
        self.c2w, self.azimuth_deg, self.elevation_deg = (
            torch.from_numpy(meta[key]) for key in ("c2w", "azimuth_deg", "elevation_deg")
        )
        self.layers = np.load(folder / "layers.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.layers)

    def layers_of(self, index: Int[Tensor, " N"]) -> UInt8[Tensor, "N V 4 h w"]:
        """Read the layers of some scenes."""
        return torch.from_numpy(self.layers[index.numpy()])


def load_or_render(cache: Path, num_scenes: int, seed: int, canonical: bool = False) -> Renders:
    """Render `num_scenes` scenes into the cache, or open them when they are there already.

    Args:
        cache: Folder that keeps renders between commands.
        num_scenes: How many.
        seed: Other seeds give other scenes and cameras.
        canonical: Show the judge's four canonical views instead of random cameras.
    """
    kind = "canonical" if canonical else "random"
    folder = Path(cache) / f"renders-{kind}-{num_scenes}-seed{seed}"
    if not (folder / "scenes.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes = draw_scenes(num_scenes, stream("scenes", 0, seed=seed))
        render_scenes(folder, scenes, canonical_cameras if canonical else RandomCameras(seed))
    return Renders(folder)


class RandomCameras:
    """Cameras of the multi-view data module, one set of views per scene; `seed` shifts its batch
    counter."""

    def __init__(self, seed: int, chunk: int = 16) -> None:
        size = IMAGE_SIZE * SUPERSAMPLING
        config = {**CAMERA, "height": size, "width": size, "batch_size": NUM_VIEWS * chunk}
        config = parse_structured(RandomMultiviewCameraDataModuleConfig, config)
        self.dataset = RandomMultiviewCameraIterableDataset(config)
        self.seed = seed

    def __call__(self, chunk_index: int, num_scenes: int) -> dict[str, Tensor]:
        """Return the camera batch of one chunk of scenes, `[N V ...]`."""
        self.dataset.set_step(chunk_index + self.seed * 1_000_000)
        batch = self.dataset.collate([])
        return {key: batch[key].unflatten(0, (-1, NUM_VIEWS))[:num_scenes] for key in CAMERA_KEYS}


def canonical_cameras(chunk_index: int, num_scenes: int) -> dict[str, Tensor]:
    """Give every scene the judge's four canonical views."""
    batches = canonical_batches(IMAGE_SIZE * SUPERSAMPLING)
    joined = {key: torch.cat([batch[key] for batch in batches]) for key in CAMERA_KEYS}
    return {key: value[None].expand(num_scenes, *value.shape) for key, value in joined.items()}


def render_scenes(
    folder: Path, scenes: Scenes, cameras: Callable[[int, int], dict], chunk: int = 16
) -> None:
    """Render scenes to `folder`, `chunk` at a time; the small file is written last and marks the
    set as complete."""
    num_scenes = len(scenes.relation)
    shape = (num_scenes, NUM_VIEWS, 4, IMAGE_SIZE, IMAGE_SIZE)
    layers = np.lib.format.open_memmap(
        folder / "layers.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    kept: dict[str, list[Tensor]] = {"c2w": [], "azimuth": [], "elevation": []}
    for start in tqdm(range(0, num_scenes, chunk), desc="rendering scenes", mininterval=5):
        stop = min(start + chunk, num_scenes)
        batch = cameras(start // chunk, stop - start)
        part = Scenes(**{key: getattr(scenes, key)[start:stop] for key in Scenes.__annotations__})
        layers[start:stop] = render_layers(part, batch["rays_o"], batch["rays_d"]).numpy()
        for key, values in kept.items():
            values.append(batch[key])
    layers.flush()
    c2w, azimuth, elevation = (torch.cat(values).numpy() for values in kept.values())
    meta = {key: getattr(scenes, key).numpy() for key in Scenes.__annotations__}
    meta |= {"c2w": c2w, "azimuth_deg": azimuth, "elevation_deg": elevation}
    np.savez(folder / "part.npz", **meta)
    os.replace(folder / "part.npz", folder / "scenes.npz")


def canonical_batches(size: int = IMAGE_SIZE) -> list[dict]:
    """Batches of the data module's validation split that show the judge's four canonical views."""
    config = {
        **CAMERA,
        "batch_size": NUM_VIEWS,
        "eval_height": size,
        "eval_width": size,
        "n_val_views": NUM_VIEWS,
    }
    dataset = RandomCameraDataset(
        parse_structured(RandomMultiviewCameraDataModuleConfig, config), "val"
    )
    return [dataset.collate([dataset[index]]) for index in range(NUM_VIEWS)]
