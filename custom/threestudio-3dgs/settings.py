"""The settings of `gaussian-splatting`, and what can be wrong with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threestudio.models.faults import is_real
from threestudio.models.geometry.base import BaseExplicitGeometry
from threestudio.models.geometry.extraction import isosurface_faults
from threestudio.utils.errors import UserError
from threestudio.utils.misc import find_last_path, schedule_fault
from threestudio.utils.typing import Number

from .initialization import SUFFIXES
from .spherical_harmonics import MAX_DEGREE

OPACITY_RANGE = (0.004, 0.99)
"""Opacities after each training step. Below 1 / 255 a Gaussian is not drawn, has no gradient, and
can never come back; above 0.99 alpha is cut off and has none either."""
SCALE_RANGE = (1e-4, 1.0)
"""Scales after each training step, in units of the geometry's `radius`. Narrower ones are all drawn
one pixel wide and lose their gradient; one wider than the scene hides everything."""
RATES = ("position_lr", "scaling_lr", "feature_lr", "opacity_lr", "rotation_lr")
COUNTS = (
    "max_num",
    "init_num_pts",
    "densification_interval",
    "prune_interval",
    "opacity_reset_interval",
    "sh_degree_interval",
)
STEPS = ("densify_from_iter", "densify_until_iter", "prune_from_iter", "prune_until_iter")
ABOVE_ZERO = ("pc_init_radius", "split_thresh", "radius")
AT_LEAST_ZERO = ("densify_grad_threshold", "min_opac_prune")
FOREIGN = ("shap-e:", "lrm:")
"""Sources of other models, which this runtime does not have."""


@dataclass
class SurfaceSettings(BaseExplicitGeometry.Config):
    """Settings of the surface of a density, by the names that volumes have for them."""

    isosurface_method: str = "mc-cpu"
    """mc-cpu: marching cubes, by scikit-image; mt: marching tetrahedra. Neither has gradients here.
    """
    isosurface_resolution: int = 128
    """Layers of grid vertices along each side of the box."""
    isosurface_threshold: Any = "auto"
    """Density of the surface, the sum of `o exp(-q / 2)` over the Gaussians; "auto" is the mean of
    all above 1e-5. 0.8 is upstream's."""
    isosurface_chunk: int = 0
    """Points evaluated at once, 0 for all."""
    isosurface_coarse_to_fine: bool = True
    """Extract twice: the first surface gives a tighter box, with a margin of 10 %."""
    isosurface_deformable_grid: bool = False
    """Not for Gaussians: there is no network that would move grid vertices."""
    isosurface_remove_outliers: bool = True
    """Drop small components (needs scipy)."""
    isosurface_outlier_n_faces_threshold: Any = 0.01
    """Triangles that a component needs: an int is a count, a float a share of the largest's."""


@dataclass
class GaussianSettings(SurfaceSettings):
    """Settings by upstream's names. A learning rate is a number or a schedule of the step, and goes
    from value to value geometrically."""

    max_num: int = 500000
    """Gaussians beyond which none are added."""
    sh_degree: int = 0
    """Degree of the spherical harmonics of the colours, 0 (the same from everywhere) to 3."""
    sh_degree_interval: int = 1000
    """Steps after which one more band of the harmonics is used; those that a file of Gaussians has
    are used from the beginning. Not in upstream."""
    position_lr: Any = 0.001
    """Learning rate of the centres, world units."""
    scale_lr: Any = 0.003
    """Accepted for upstream's YAMLs, where it is not read either: set `scaling_lr`."""
    scaling_lr: Any = 0.005
    """Learning rate of the logarithms of the scales."""
    feature_lr: Any = 0.01
    """Learning rate of the constant harmonics; the other bands have 1/20 of it."""
    opacity_lr: Any = 0.05
    """Learning rate of the logits of the opacities."""
    rotation_lr: Any = 0.005
    """Learning rate of the quaternions."""
    pred_normal: bool = False
    """Accepted for upstream's YAMLs; a normal is always the shortest axis."""
    normal_lr: Any = 0.001
    """Accepted for upstream's YAMLs, see `pred_normal`."""
    sphere: bool = False
    """Whether Gaussians are round: the scale is the geometric mean of the three parameters."""
    color_clip: Any = 2.0
    """Bound on the constant harmonics, a number or schedule. From 1.773 on, with which every colour
    is allowed, there is none."""
    init_num_pts: int = 100
    """Gaussians of a random start, and points that are sampled of a surface."""
    pc_init_radius: float = 0.8
    """Radius of the ball of a random start, world units."""
    opacity_init: float = 0.1
    """Opacity at the start, unless a file says otherwise."""
    densification_interval: int = 50
    """Steps between densifications."""
    densify_from_iter: int = 100
    """First step at which Gaussians may be added; at step 0 none are."""
    densify_until_iter: int = 2000
    """Step from which on none are added, and opacities not reset."""
    densify_grad_threshold: float = 0.01
    """Gaussians are doubled or split if the mean length of the gradient of their projected centre
    exceeds this; the loss's unit per half picture."""
    split_thresh: float = 0.02
    """Of these, Gaussians whose largest scale exceeds this are split, world units."""
    prune_interval: int = 50
    """Steps between prunings."""
    prune_from_iter: int = 100
    """First step at which Gaussians may be removed; at step 0 none are."""
    prune_until_iter: int = 2000
    """Step from which on none are removed."""
    min_opac_prune: float = 0.005
    """Gaussians with less opacity are removed. Training keeps opacities above 0.004, so a value up
    to that removes none."""
    prune_big_points: bool = False
    """Whether Gaussians are removed too whose radius in a picture exceeds three times the mean."""
    radii2d_thresh: float = 1000.0
    """Accepted for upstream's YAMLs, where it is not read either."""
    opacity_reset_interval: int = 100000
    """Steps after which opacities are lowered to twice `min_opac_prune`."""
    geometry_convert_from: str = ""
    """What the scene starts from instead of a random ball: a PLY file of Gaussians; a mesh or point
    cloud that trimesh reads; or `<run>/ckpts/*.ckpt`, Gaussians or a surface of another run."""
    load_ply_only_vertex: bool = False
    """Whether only the centres of a file of Gaussians are used."""
    shap_e_guidance_config: dict = field(default_factory=dict)
    """Accepted for upstream's YAMLs; there is no Shap-E here."""


def settings_faults(cfg: Any) -> list[str]:
    """List what is wrong with a configuration."""
    faults = _schedule_faults(cfg)
    for names, least, words in (
        (COUNTS, 1, "at least 1"),
        (STEPS, 0, "at least 0"),
        (AT_LEAST_ZERO, 0, "at least 0"),
        (ABOVE_ZERO, None, "above 0"),
    ):
        for name in names:
            value = getattr(cfg, name)
            if not is_real(value) or (value <= 0 if least is None else value < least):
                faults.append(f"`system.geometry.{name}` is {value}; it must be {words}.")
    if cfg.sh_degree not in range(MAX_DEGREE + 1):
        faults.append(
            f"`system.geometry.sh_degree` is {cfg.sh_degree}; it must be 0 to {MAX_DEGREE}."
        )
    low, high = OPACITY_RANGE
    if not is_real(cfg.opacity_init) or not low <= cfg.opacity_init <= high:
        faults.append(
            f"`system.geometry.opacity_init` is {cfg.opacity_init}; it must be from {low} to "
            f"{high}."
        )
    return faults + isosurface_faults(cfg) + source_faults(cfg.geometry_convert_from)


def _schedule_faults(cfg: Any) -> list[str]:
    faults = []
    for name in (*RATES, "color_clip"):
        value = getattr(cfg, name)
        fault = schedule_fault(value)
        if fault is None and min(_values(value)) <= 0:
            fault = "its values must be above 0"
        if fault is not None:
            faults.append(f"`system.geometry.{name}`: {fault}.")
    return faults


def _values(schedule: Any) -> list[Number]:
    """Return the values of a schedule without its steps."""
    if isinstance(schedule, (int, float)):
        return [schedule]
    points = list(schedule)
    points = points if len(points) == 3 else points[1:]
    return [points[0], *points[1::2]]


def source_faults(source: str) -> list[str]:
    """Say what is wrong with `geometry_convert_from`."""
    if not source:
        return []
    key = "`system.geometry.geometry_convert_from`"
    if source.startswith(FOREIGN):
        return [
            f"{key} is '{source}', but this runtime has neither Shap-E nor a reconstruction model. "
            "Give a file instead: a mesh or point cloud, or a checkpoint of another run."
        ]
    try:
        path = find_last_path(source)
    except (FileNotFoundError, UserError) as error:
        return [f"{key}: {error}"]
    if Path(path).suffix.lower() not in SUFFIXES:
        return [f"{key} is '{source}'; known are files that end in {', '.join(SUFFIXES)}."]
    return []
