"""Loads the extensions through the loader that `launch.py` uses, once for the whole suite."""

from pathlib import Path

import pytest
import torch

from threestudio.extensions import load_extensions
from threestudio.utils.misc import set_cpu_only

ROOT = Path(__file__).resolve().parents[1]

load_extensions(str(ROOT / "custom"))

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(needs_cuda)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compute on the CPU, also where there is a CUDA device, unless a test is marked `gpu`.

    This comes before fixtures of any scope are made.
    """
    set_cpu_only(item.get_closest_marker("gpu") is None)
