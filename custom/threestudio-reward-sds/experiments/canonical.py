"""The four canonical cameras, by which every result is looked at and judged."""

import importlib
from typing import Any

from plan import Evaluation

AZIMUTHS_DEG = (0, 90, 180, 270)
VIEWS = ("front", "side", "back", "side")
"""View word of each camera, as the prompt processor says it."""


def cameras(evaluation: Evaluation, size: int) -> list[dict[str, Any]]:
    """Return the batches of the canonical cameras, `size` pixels a side."""
    uncond = importlib.import_module("threestudio.data.uncond")
    parse = importlib.import_module("threestudio.utils.config").parse_structured
    settings = {
        "n_val_views": len(AZIMUTHS_DEG),
        "eval_height": size,
        "eval_width": size,
        "eval_elevation_deg": evaluation.elevation_deg,
        "eval_camera_distance": evaluation.camera_distance,
        "eval_fovy_deg": evaluation.fovy_deg,
    }
    config = parse(uncond.RandomCameraDataModuleConfig, settings)
    dataset = uncond.RandomCameraDataset(config, "val")
    return [dataset.collate([dataset[index]]) for index in range(len(dataset))]
