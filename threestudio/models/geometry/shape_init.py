"""`shape_init`: the shape that a signed distance starts from, and how it is brought there."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from threestudio.models.geometry.mesh_distance import AXES, MeshDistance, read_mesh
from threestudio.utils.config import config_to_primitive
from threestudio.utils.fields import is_number
from threestudio.utils.misc import broadcast, get_rank
from threestudio.utils.random import stream
from threestudio.utils.typing import Number

Distance = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N 1"]]
"""A signed distance, or a level with the same zero set; negative inside."""

NUM_STEPS = 1000
NUM_POINTS = 10_000
LEARNING_RATE = 1e-3
MESH = "mesh:"


@dataclass
class ShapeConfig:
    """The keys of a geometry that can start from a shape."""

    shape_init: Optional[str] = None
    """null, "ellipsoid", "sphere" or "mesh:<path>"."""
    shape_init_params: Any = None
    """ellipsoid: its three half axes; sphere: its radius; mesh: half of the longest edge of its
    bounding box; world units."""
    shape_init_mesh_up: str = "+z"
    """Axis of the mesh file that points up."""
    shape_init_mesh_front: str = "+x"
    """Axis of the mesh file that points to the front."""
    force_shape_init: bool = False
    """Start from the shape even if weights were loaded, also when a run is resumed."""


def ellipsoid_level(
    points: Float[Tensor, "*N 3"], half_axes: list[Number]
) -> Float[Tensor, "*N 1"]:
    """Return `|x / half_axes| - 1`: zero on the ellipsoid, but not a distance."""
    return (points / points.new_tensor(half_axes)).norm(dim=-1, keepdim=True) - 1.0


def sphere_distance(points: Float[Tensor, "*N 3"], radius: Number) -> Float[Tensor, "*N 1"]:
    """Return the signed distance to a sphere around the origin."""
    return points.norm(dim=-1, keepdim=True) - radius


def primitive(kind: str, params: Any) -> Distance:
    """Return the level of an ellipsoid or a sphere."""
    function = {"ellipsoid": ellipsoid_level, "sphere": sphere_distance}[kind]
    return partial(function, **{_SIZES[kind]: config_to_primitive(params)})


_SIZES = {"ellipsoid": "half_axes", "sphere": "radius"}


def shape_target(cfg: Any) -> Distance:
    """Return the level of the shape that `shape_init` names."""
    if not cfg.shape_init.startswith(MESH):
        return primitive(cfg.shape_init, cfg.shape_init_params)
    path = cfg.shape_init.removeprefix(MESH)
    size, up, front = cfg.shape_init_params, cfg.shape_init_mesh_up, cfg.shape_init_mesh_front
    return MeshDistance(read_mesh(path, size, up, front))


def primitive_faults(key: str, kind: str, params: Any) -> list[str]:
    """Say so if `<key>_params` is not what an ellipsoid or a sphere needs."""
    values = config_to_primitive(params)
    if kind == "ellipsoid":
        if isinstance(values, list) and len(values) == 3 and all(map(is_size, values)):
            return []
        needs = "three positive half axes, for example [0.5, 0.5, 0.8]"
    else:
        if is_size(values):
            return []
        needs = "one positive number, for example 0.8"
    name = "mesh" if kind.startswith(MESH) else kind
    return [f"`{key}_params` is {values!r}, but `{key}` {name} needs {needs}."]


def is_size(value: Any) -> bool:
    """Tell positive numbers from everything else."""
    return is_number(value) and value > 0


def shape_faults(cfg: Any) -> list[str]:
    """List what is wrong with the `shape_init...` settings."""
    key, kind = "system.geometry.shape_init", cfg.shape_init
    if kind is None:
        return []
    if kind not in _SIZES and not kind.startswith(MESH):
        return [f"`{key}` is {kind!r}; available: null, ellipsoid, sphere, mesh:<path>."]
    faults = primitive_faults(key, kind, cfg.shape_init_params)
    path = kind.removeprefix(MESH)
    if kind.startswith(MESH) and not Path(path).is_file():
        faults.append(f"`{key}` names the mesh '{path}', but there is no such file.")
    up, front = cfg.shape_init_mesh_up, cfg.shape_init_mesh_front
    for name, axis in (("up", up), ("front", front)):
        if axis not in AXES:
            faults.append(f"`{key}_mesh_{name}` is {axis!r}; available: {', '.join(AXES)}.")
    if up in AXES and front in AXES and up[1] == front[1]:
        faults.append(
            f"`{key}_mesh_up` {up} and `{key}_mesh_front` {front} are the same axis; set "
            f"`{key}_mesh_front` to another one."
        )
    return faults


class StartsFromShape(nn.Module, ABC):
    """A geometry whose signed distance starts from `shape_init`: mixed into `BaseGeometry`s."""

    cfg: Any
    has_weights: bool = False
    """Whether weights were loaded or copied: they are the shape to start from."""
    has_shape: bool = False
    """Whether `initialize_shape` did its work."""

    def watch_weights(self) -> None:
        """Notice when weights are loaded; called by `configure`."""
        self.register_load_state_dict_pre_hook(_note_weights)

    def initialize_shape(self) -> None:
        """Bring the signed distance to `shape_init`, once; a system calls it before training.

        Does nothing where weights were loaded, unless `force_shape_init`.
        """
        if self.cfg.shape_init is None or self.has_shape:
            return
        if self.has_weights and not self.cfg.force_shape_init:
            return
        with torch.enable_grad():
            self.take_shape(shape_target(self.cfg))
        self.has_shape = True

    @abstractmethod
    def take_shape(self, target: Distance) -> None:
        """Make the zero set of a level the surface."""


def _note_weights(
    module: StartsFromShape, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    if any(key.startswith(prefix) for key in state_dict):
        module.has_weights = True


def fit_distance(module: nn.Module, field: Distance, target: Distance, radius: Number) -> None:
    """Train the parameters of a module so that its field equals a target in the scene's box.

    1000 steps of Adam on 10,000 random points each, as upstream, which draws them from
    [-1, 1]^3 whatever the box is. All processes draw the same points.
    """
    parameters = list(module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    steps = tqdm(range(NUM_STEPS), desc="Shape initialisation", disable=get_rank() != 0)
    for step in steps:
        generator = stream("shape-init", step, rank=0)
        points = (torch.rand(NUM_POINTS, 3, generator=generator) * 2.0 - 1.0) * radius
        points = points.to(parameters[0].device)
        loss = F.mse_loss(field(points), target(points))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    for parameter in parameters:
        broadcast(parameter.data)
