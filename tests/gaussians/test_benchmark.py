"""The benchmark draws the same picture in both ways, and its ratios are right."""

import importlib.util
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[2] / "custom" / "threestudio-3dgs"
spec = importlib.util.spec_from_file_location("gaussian_benchmark", FOLDER / "benchmark.py")
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_both_ways_draw_the_same_picture_with_the_same_gradient():
    found = []
    for draw in (benchmark.tiled, benchmark.dense):
        gaussians, cameras = benchmark.scene(300, 24)
        image = draw(gaussians, cameras)
        image.square().sum().backward()
        found.append((image, *(value.grad for value in vars(gaussians).values())))
    assert found[0][0][..., 7].max() > 0.5
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4)


def test_ratios_are_dense_over_tiled():
    """0.06 s over 0.01 s is x6, 0.02 over 0.02 x1, together 0.08 over 0.03."""
    found = {
        ("tiled", 10, 4): {"forward": 0.01, "backward": 0.02, "megabytes": 5.0},
        ("dense", 10, 4): {"forward": 0.06, "backward": 0.02, "megabytes": 50.0},
        ("tiled", 2000, 8): {"forward": 0.1, "backward": 0.2, "megabytes": 70.0},
    }
    lines = benchmark.table(found).splitlines()
    assert lines[2] == "| 10 | 4 x 4 | 10 | 20 | x6.0 | x1.0 | x2.7 | 5 | x10.0 |"
    assert lines[3] == "| 2,000 | 8 x 8 | 100 | 200 | - | - | - | 70 | - |"


def test_a_case_is_measured():
    found = benchmark.measure("tiled", 50, 8, 1)
    assert found["forward"] > 0 and found["backward"] > 0 and found["megabytes"] >= 0
