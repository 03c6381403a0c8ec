"""Loads the extensions through the loader that `launch.py` uses, once for the whole suite."""

from pathlib import Path

import pytest
import torch

from threestudio.extensions import load_extensions

ROOT = Path(__file__).resolve().parents[1]

load_extensions(str(ROOT / "custom"))

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(needs_cuda)
