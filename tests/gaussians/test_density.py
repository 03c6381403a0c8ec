"""Density control by hand: who is doubled, split, removed, and what the optimizer remembers."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.gaussians.scenes import cloud, projection, rasterizer, views
from threestudio.utils.random import stream

density = importlib.import_module("threestudio-3dgs.density")
parameters = importlib.import_module("threestudio-3dgs.parameters")


def values(count=4, opacity=0.5, scale=0.1):
    """Gaussians in float64, told apart by their x and their colour."""
    number = torch.arange(count).double()[:, None]
    return {
        "_xyz": number * torch.tensor([1.0, 0.0, 0.0]).double(),
        "_features_dc": number[:, None].repeat(1, 1, 3),
        "_features_rest": torch.zeros(count, 0, 3).double(),
        "_opacity": torch.full((count, 1), opacity, dtype=torch.float64).logit(),
        "_scaling": torch.full((count, 3), math.log(scale), dtype=torch.float64),
        "_rotation": torch.tensor([1.0, 0.0, 0.0, 0.0]).double().repeat(count, 1),
    }


def densified(slopes, split_above=1.0, room=100, **kwargs):
    given = values(len(slopes), **kwargs)
    generator = stream("test", 0)
    change = density.densify(given, torch.tensor(slopes), 0.5, split_above, room, generator)
    return given, change


def test_small_gaussians_with_a_large_gradient_are_doubled():
    """Of 4, numbers 1 and 3 exceed 0.5; both of a pair get 1 - sqrt(1 - 0.75) = 0.5."""
    given, change = densified([0.1, 0.7, 0.5, 0.9], opacity=0.75)
    assert change.kept.tolist() == [0, 1, 2, 3]
    assert change.added["_xyz"][:, 0].tolist() == [1.0, 3.0]
    assert change.added["_features_dc"][:, 0, 0].tolist() == [1.0, 3.0]
    torch.testing.assert_close(change.added["_opacity"].sigmoid(), torch.full((2, 1), 0.5).double())
    expected = torch.tensor([[0.75], [0.5], [0.75], [0.5]]).double()
    torch.testing.assert_close(given["_opacity"].sigmoid(), expected)


@pytest.mark.parametrize("opacity", [1e-6, 0.3, 0.99])
def test_two_gaussians_of_shared_opacity_let_as_much_light_through_as_one(opacity):
    logit = torch.tensor([[opacity]], dtype=torch.float64).logit()
    shared = density.shared_opacity(logit).sigmoid()
    torch.testing.assert_close(1 - (1 - shared) ** 2, torch.full_like(shared, opacity))


def test_large_gaussians_are_replaced_by_two_narrower_ones_drawn_from_them():
    """Scales 0.1 / 1.6; places of spread 0.1 around the old one; opacities stay."""
    given, change = densified([0.9] * 2000, split_above=0.05, room=10_000)
    assert len(change.kept) == 0
    assert change.added["_xyz"].shape == (4000, 3)
    torch.testing.assert_close(
        change.added["_scaling"].exp(), torch.full((4000, 3), 0.1 / 1.6).double()
    )
    offset = change.added["_xyz"] - given["_xyz"].repeat(2, 1)
    assert offset.std(dim=0).tolist() == pytest.approx([0.1] * 3, rel=0.06)
    assert offset.mean(dim=0).abs().max() < 0.01
    assert (offset[:2000] != offset[2000:]).all()
    torch.testing.assert_close(change.added["_opacity"], given["_opacity"].repeat(2, 1))


def test_halves_lie_along_the_turned_axes():
    """A needle along its first axis, turned by 90 degrees about z, points along y."""
    given = values(300)
    given["_scaling"] = torch.tensor([0.5, 1e-6, 1e-6]).double().log().repeat(300, 1)
    half = math.sqrt(0.5)
    given["_rotation"] = torch.tensor([half, 0.0, 0.0, half]).double().repeat(300, 1)
    change = density.densify(given, torch.ones(300), 0.5, 0.1, 600, stream("test", 0))
    spread = (change.added["_xyz"] - given["_xyz"].repeat(2, 1)).std(dim=0)
    assert spread[1].item() == pytest.approx(0.5, rel=0.1) and spread[[0, 2]].max() < 1e-5


def test_room_goes_to_the_largest_gradients():
    _, change = densified([0.6, 0.9, 0.7, 0.8], room=2)
    assert change.added["_xyz"][:, 0].tolist() == [1.0, 3.0]
    _, change = densified([0.6, 0.9], room=-5)
    assert len(change.added["_xyz"]) == 0 and change.kept.tolist() == [0, 1]


def test_doubling_changes_the_picture_far_less_than_doubling_the_light():
    """Opacity is kept at the centre; off it, 1 - (1 - o' g)^2 is a little more than o g."""
    gaussians, (_, _, cameras) = cloud(30, size=(0.1, 0.3)), views()
    before = rasterizer.rasterize(gaussians, cameras).opacity
    twice = {name: torch.cat([value] * 2) for name, value in vars(gaussians).items()}
    naive = rasterizer.rasterize(projection.Gaussians(**twice), cameras).opacity
    shared = density.shared_opacity(gaussians.opacities[:, None].logit())[:, 0].sigmoid()
    twice["opacities"] = torch.cat([shared] * 2)
    kept = rasterizer.rasterize(projection.Gaussians(**twice), cameras).opacity
    assert (kept - before).abs().mean() < 0.4 * (naive - before).abs().mean()


def test_pruning_removes_the_transparent_and_on_request_the_large():
    opacity = torch.arange(101) / 100
    assert density.surviving(opacity, 0.295, None).tolist() == list(range(30, 101))
    radii = torch.ones(101)
    radii[[50, 60]], radii[:10] = 40.0, 0.0
    kept = density.surviving(opacity, 0.295, radii).tolist()
    assert sorted(set(range(30, 101)) - set(kept)) == [50, 60]
    assert len(density.surviving(opacity, 0.295, torch.zeros(101))) == 71


def test_pruning_leaves_the_most_opaque_rather_than_nothing():
    opacity = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 0.1
    kept = density.surviving(opacity, 0.5, None)
    assert len(kept) == density.FEWEST
    assert opacity[kept].min() >= opacity.sort(descending=True).values[density.FEWEST - 1]
    assert len(density.surviving(opacity[:3], 0.5, None)) == 3


def test_steps_at_which_something_is_due():
    due = [step for step in range(40) if density.is_due(step, 10, 30, 5)]
    assert due == [10, 15, 20, 25]
    assert [step for step in range(12) if density.is_due(step, 0, 12, 5)] == [5, 10]


CONFIGS = Path(__file__).resolve().parents[2] / "custom"


@pytest.mark.parametrize(
    ("name", "added", "removed"),
    [
        ("dreamgaussian-*", range(50, 500, 50), range(50, 500, 50)),
        ("blocks-gaussians-*", range(50, 151, 50), range(50, 200, 25)),
        ("sd21-gaussians*", range(600, 5000, 300), range(600, 5000, 300)),
        ("mvdream-sd21-gaussians*", range(1500, 10_000, 300), range(1500, 10_000, 300)),
    ],
)
def test_steps_of_the_configs_at_which_something_is_due(name, added, removed):
    files = sorted(CONFIGS.glob(f"*/configs/{name}.yaml"))
    assert len(files) >= 2
    for file in files:
        config = OmegaConf.load(file)
        cfg, steps = config.system.geometry, range(config.trainer.max_steps)
        for action, expected, interval in (
            ("densify", added, cfg.densification_interval),
            ("prune", removed, cfg.prune_interval),
        ):
            ends = cfg[f"{action}_from_iter"], cfg[f"{action}_until_iter"]
            due = [step for step in steps if density.is_due(step, *ends, interval)]
            assert due == list(expected), (file.name, action)


def test_statistics_count_only_pictures_that_show_a_gaussian():
    """Lengths 5 and 13 in two pictures that show it, none in the third, no number in the last."""
    sums, counts, largest = (torch.zeros(2) for _ in range(3))
    for visible, radius, gradient in (
        ([True, False], [4.0, 0.0], [[3.0, 4.0], [0.0, 0.0]]),
        ([True, True], [2.0, 9.0], [[5.0, 12.0], [0.0, 2.0]]),
        ([False, True], [0.0, 1.0], None),
        ([True, True], [0.0, 0.0], [[float("nan"), 1.0], [float("inf"), 0.0]]),
    ):
        gradient = None if gradient is None else torch.tensor(gradient)
        density.accumulate(
            sums, counts, largest, torch.tensor(visible), torch.tensor(radius), gradient
        )
    assert sums.tolist() == [18.0, 2.0] and counts.tolist() == [2.0, 1.0]
    assert largest.tolist() == [4.0, 9.0]


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(8.0).view(4, 2))
        self.other = torch.nn.Parameter(torch.ones(3))
        groups = [{"params": [self.weight], "name": "w"}, {"params": [self.other], "name": "o"}]
        self.optimizer = torch.optim.Adam(groups, lr=0.1)


def step(module, scale=1.0):
    module.optimizer.zero_grad()
    rows = torch.arange(1.0, len(module.weight) + 1)[:, None]
    (scale * (module.weight * rows).sum() + module.other.sum()).backward()
    module.optimizer.step()


def test_moments_follow_the_rows_and_new_rows_have_none():
    module = Module()
    step(module)
    before = module.optimizer.state[module.weight]
    first, count = before["exp_avg"].clone(), before["step"].clone()
    old = module.weight.detach().clone()
    rows, added = torch.tensor([3, 1]), torch.full((1, 2), 7.0)
    parameters.replace_parameter(module, "weight", rows, added)
    assert torch.equal(module.weight.detach(), torch.cat([old[[3, 1]], added]))
    state = module.optimizer.state[module.weight]
    assert torch.equal(state["exp_avg"], torch.cat([first[[3, 1]], torch.zeros(1, 2)]))
    assert torch.equal(state["step"], count) and len(module.optimizer.state) == 2
    assert module.optimizer.param_groups[0]["params"][0] is module.weight
    step(module)
    assert not torch.equal(module.weight.detach()[2], added[0])


def test_a_kept_row_is_trained_as_if_nothing_had_been_removed():
    removed, whole = Module(), Module()
    for module in (removed, whole):
        step(module)
    parameters.replace_parameter(removed, "weight", torch.tensor([0, 1]), torch.zeros(0, 2))
    for module in (removed, whole):
        step(module)
    assert torch.equal(removed.weight.detach(), whole.weight.detach()[:2])


def test_rows_can_be_replaced_before_the_first_step():
    module = Module()
    parameters.replace_parameter(module, "weight", torch.tensor([0]), torch.zeros(2, 2))
    assert module.weight.shape == (3, 2) and len(module.optimizer.state) == 0
