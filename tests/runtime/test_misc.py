"""Schedules, random streams, weights of checkpoints, newest paths."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.utils.checkpoints import write_checkpoint
from threestudio.utils.misc import C, find_last_path, load_module_weights
from threestudio.utils.random import set_run_seed, stream


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [
        (3, 100, 3),
        (0.5, 100, 0.5),
        ([1.0, 0.0, 10], 5, 0.5),  # three numbers start at step 0
        ([10, 1.0, 0.0, 20], 0, 1.0),
        ([10, 1.0, 0.0, 20], 15, 0.5),
        ([10, 1.0, 0.0, 20], 99, 0.0),
        ([5000, 0.98, 0.5, 5001], 5000, 0.98),
        ([5000, 0.98, 0.5, 5001], 5001, 0.5),
        ([0, 0.0, 1.0, 10, 3.0, 20], 5, 0.5),
        ([0, 0.0, 1.0, 10, 3.0, 20], 15, 2.0),
        ([0, 0.0, 1.0, 10, 3.0, 20], 99, 3.0),
    ],
)
def test_schedule(value, step, expected):
    assert C(value, 0, step) == pytest.approx(expected)
    if isinstance(value, list):
        assert C(OmegaConf.create(value), 0, step) == pytest.approx(expected)


def test_schedule_with_a_float_end_counts_epochs():
    assert C([0, 0.0, 1.0, 10.0], epoch=5, global_step=1000) == pytest.approx(0.5)


def test_exponential_schedule():
    """Half way from 1 to 100 geometrically is 10."""
    assert C([0, 1.0, 100.0, 10], 0, 5, interpolation="exp") == pytest.approx(10.0)


@pytest.mark.parametrize("value", ["1", [1, 2], [1, 2, 3, 4, 5], [1, "a", 3], None, True, {"a": 1}])
def test_what_is_no_schedule_is_refused(value):
    with pytest.raises(TypeError, match="Not a schedule"):
        C(value, 0, 0)


def test_streams_depend_on_all_four_coordinates_and_nothing_else():
    def draw(**changes):
        settings = {"name": "noise", "step": 3, "seed": 1, "rank": 0, **changes}
        name, step = settings.pop("name"), settings.pop("step")
        return tuple(torch.randn(4, generator=stream(name, step, **settings)).tolist())

    first = draw()
    torch.randn(10)
    assert draw() == first
    others = {draw(name="camera"), draw(step=4), draw(seed=2), draw(rank=1), first}
    assert len(others) == 5


def test_streams_use_the_seed_of_the_run():
    set_run_seed(5)
    try:
        drawn = torch.rand(1, generator=stream("a", 0))
        assert torch.equal(drawn, torch.rand(1, generator=stream("a", 0, seed=5)))
    finally:
        set_run_seed(0)


def test_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=stream("a", 0))
    assert torch.equal(before, torch.get_rng_state())


def test_weights_of_one_module_or_without_some(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    state = {
        "geometry.w": torch.ones(1),
        "geometry2.w": torch.ones(2),
        "background.w": torch.ones(3),
    }
    write_checkpoint({"state_dict": state, "epoch": 1, "global_step": 9}, path)
    one, epoch, step = load_module_weights(str(path), module_name="geometry")
    assert list(one) == ["w"] and (epoch, step) == (1, 9)
    rest, _, _ = load_module_weights(str(path), ignore_modules=["geometry"])
    assert list(rest) == ["geometry2.w", "background.w"]
    with pytest.raises(ValueError, match="exclude each other"):
        load_module_weights(str(path), module_name="geometry", ignore_modules=["geometry"])


def test_last_is_the_newest_run(tmp_path: Path):
    for name in ("a_cube@20240101-000000", "a_cube@20250101-000000", "a_sphere@20260101-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
    found = find_last_path(f"{tmp_path}/a cube@LAST/last.ckpt")
    assert found == f"{tmp_path}/a_cube@20250101-000000/last.ckpt"
    assert find_last_path(None) is None
    with pytest.raises(FileNotFoundError, match="a_cone@LAST"):
        find_last_path(f"{tmp_path}/a_cone@LAST/last.ckpt")
