"""Faults of a camera configuration, as sentences that contain the fix."""

from collections.abc import Sequence
from typing import Any

from threestudio.utils.fields import is_number

RANGES = (
    "elevation_range",
    "azimuth_range",
    "camera_distance_range",
    "fovy_range",
    "light_distance_range",
)
LIGHT_STRATEGIES = ("dreamfusion", "magic3d")


def is_list(value: Any) -> bool:
    """Tell plain and OmegaConf lists from everything else; a string is not a list."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def range_faults(name: str, value: Any) -> list[str]:
    """Check that a setting is a pair of numbers in ascending order."""
    if not is_list(value) or len(value) != 2 or not all(map(is_number, value)):
        return [f"`data.{name}` is {value!r}; it must be two numbers, for example `[0, 30]`."]
    if value[0] > value[1]:
        return [
            f"`data.{name}` is reversed: {list(value)}. Write the smaller number first: "
            f"`[{value[1]}, {value[0]}]`."
        ]
    return []


def count_faults(name: str, value: Any) -> list[str]:
    """Check that a setting is a positive int or a non-empty list of positive ints."""
    items = list(value) if is_list(value) else [value]
    if items and all(isinstance(v, int) and is_number(v) and v > 0 for v in items):
        return []
    return [f"`data.{name}` is {value!r}; it must be a positive int or a list of positive ints."]


def milestone_faults(cfg: Any) -> list[str]:
    """Check that height, width and batch size have as many stages as the milestones separate."""
    milestones = cfg.resolution_milestones
    if not is_list(milestones) or not all(isinstance(m, int) for m in milestones):
        return [
            f"`data.resolution_milestones` is {milestones!r}; it must be a list of batch counts."
        ]
    if list(milestones) != sorted(set(milestones)):
        return [f"`data.resolution_milestones` must ascend, but is {list(milestones)}."]
    lengths = {
        k: len(v) for k in ("height", "width", "batch_size") if is_list(v := getattr(cfg, k))
    }
    wanted = len(milestones) + 1
    return [
        f"`data.{name}` has {length} values, but {len(milestones)} resolution milestones make "
        f"{wanted} stages. Give {wanted} values, or one number for all stages."
        for name, length in lengths.items()
        if length not in (1, wanted)
    ]


def camera_faults(cfg: Any) -> list[str]:
    """List what is wrong with a `RandomCameraDataModuleConfig`; empty if nothing is."""
    faults = [f for name in RANGES for f in range_faults(name, getattr(cfg, name))]
    names = (
        "height",
        "width",
        "batch_size",
        "eval_height",
        "eval_width",
        "n_val_views",
        "n_test_views",
    )
    faults += [f for name in names for f in count_faults(name, getattr(cfg, name))]
    faults += milestone_faults(cfg)
    if cfg.light_sample_strategy not in LIGHT_STRATEGIES:
        faults.append(
            f"`data.light_sample_strategy` is {cfg.light_sample_strategy!r}; "
            f"it must be one of {', '.join(LIGHT_STRATEGIES)}."
        )
    return faults


def multiview_faults(cfg: Any) -> list[str]:
    """List what is wrong with a `RandomMultiviewCameraDataModuleConfig`; empty if nothing is."""
    faults = camera_faults(cfg) + range_faults("zoom_range", cfg.zoom_range)
    view_faults = count_faults("n_view", cfg.n_view)
    if view_faults or count_faults("batch_size", cfg.batch_size):
        return faults + view_faults
    sizes = list(cfg.batch_size) if is_list(cfg.batch_size) else [cfg.batch_size]
    return faults + [
        f"`data.batch_size` is {size}, which is not a multiple of `data.n_view` {cfg.n_view}: the "
        f"batch size counts images, {cfg.n_view} per scene. Set `data.batch_size` to {cfg.n_view} "
        "or a multiple."
        for size in sizes
        if size % cfg.n_view
    ]
