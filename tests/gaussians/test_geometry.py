"""The Gaussians as a geometry: activations, schedules, bounds, and states of any number."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F

from tests.gaussians.scenes import projection
from threestudio.registry import find
from threestudio.systems.utils import parse_optimizer

harmonics = importlib.import_module("threestudio-3dgs.spherical_harmonics")


def geometry(**settings):
    return find("gaussian-splatting")({"init_num_pts": 40, **settings})


def trained(model, steps=3):
    """Take steps on random gradients, so that the optimizer has something to remember."""
    optimizer = model.optimizer or model.training_setup()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return model


def picture(model, slope=1.0):
    """What a renderer would report of a picture that shows all Gaussians."""
    count = len(model._xyz)
    points = torch.zeros(count, 2, requires_grad=True)
    points.grad = torch.full((count, 2), slope / 2**0.5)
    return [torch.ones(count, dtype=torch.bool)], [torch.ones(count)], [points]


def test_activations_by_hand():
    model = geometry(sh_degree=1, color_clip=1.5)
    with torch.no_grad():
        model._scaling[:] = torch.tensor([0.1, 0.2, 0.3]).log()
        model._opacity[:] = 0.0
        model._rotation[:] = torch.tensor([2.0, 0.0, 0.0, 0.0])
        model._features_dc[:] = 3.0
    torch.testing.assert_close(model.get_scaling[0], torch.tensor([0.1, 0.2, 0.3]))
    assert model.get_opacity[0].item() == 0.5
    assert model.get_rotation[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert (model.get_features == 1.5).all()  # color_clip
    assert model.get_normal[0].abs().tolist() == [1.0, 0.0, 0.0]
    expected = torch.diag(torch.tensor([0.04, 0.16, 0.36]))
    torch.testing.assert_close(model.get_covariance(2.0)[0], expected)
    drawn = model.gaussians()
    assert isinstance(drawn, projection.Gaussians) and drawn.opacities.shape == (40,)


def test_spheres_have_one_scale():
    """The geometric mean of 0.1, 0.1 and 0.8 is 0.2."""
    model = geometry(sphere=True)
    with torch.no_grad():
        model._scaling[:] = torch.tensor([0.1, 0.1, 0.8]).log()
    torch.testing.assert_close(model.get_scaling, torch.full((40, 3), 0.2))


def test_schedules_follow_the_step():
    """Geometric from 0.1 to 0.001 over 100 steps: 0.01 in the middle; colours linearly."""
    model = geometry(
        position_lr=[0, 0.1, 0.001, 100],
        color_clip=[0, 0.5, 1.5, 100],
        sh_degree=3,
        sh_degree_interval=20,
    )
    groups = {group["name"]: group for group in model.training_setup().param_groups}
    assert list(groups) == ["xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation"]
    assert all(group["eps"] == 1e-15 for group in groups.values())
    model.do_update_step(0, 50)
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx(
        {
            "xyz": 0.01,
            "f_dc": 0.01,
            "f_rest": 0.0005,
            "opacity": 0.05,
            "scaling": 0.005,
            "rotation": 0.005,
        }
    )
    assert model.color_clip == 1.0 and model.active_sh_degree == 2
    assert model.get_features.shape == (40, 9, 3)
    model.spatial_lr_scale = 3.0
    model.update_learning_rate(100)
    assert groups["xyz"]["lr"] == pytest.approx(0.003) and model.active_sh_degree == 3


def test_other_parts_are_trained_by_the_same_optimizer_with_their_own_settings():
    model = geometry()
    model.training_setup()
    network = torch.nn.Linear(2, 2)
    config = {
        "name": "AdamW",
        "args": {"lr": 0.1, "betas": [0.5, 0.6]},
        "params": {"weight": {"lr": 0.3}},
    }
    merged = model.merge_optimizer(parse_optimizer(config, network))
    assert merged is model.optimizer
    group = merged.param_groups[-1]
    assert group["lr"] == 0.3 and list(group["betas"]) == [0.5, 0.6] and group["name"] == "weight"
    model.update_learning_rate(10)
    assert group["lr"] == 0.3


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("more", [{}, {"maximize": True}, {"amsgrad": True}])
def test_merged_parts_take_the_steps_of_their_own_optimizer(name, more):
    """Weight decay with a gradient of 0 is where Adam and AdamW differ most; then one of 1."""
    config = {"name": name, "args": {"lr": 0.1, "weight_decay": 0.5, "eps": 1e-8, **more}}
    ends = []
    for merged in (True, False):
        network = torch.nn.Linear(2, 2)
        with torch.no_grad():
            network.weight.fill_(3.0)
        optimizer = parse_optimizer({**config, "params": {"weight": {"lr": 0.3}}}, network)
        if merged:
            model = geometry()
            model.training_setup()
            optimizer = model.merge_optimizer(optimizer)
        for slope in (0.0, 1.0):
            network.weight.grad = torch.full((2, 2), slope)
            optimizer.step()
        ends.append(network.weight.detach())
    assert torch.equal(*ends) and (ends[0] != 3.0).all()


def test_density_control_keeps_to_its_steps():
    model = trained(
        geometry(
            densification_interval=2,
            densify_from_iter=4,
            densify_until_iter=8,
            densify_grad_threshold=0.5,
            split_thresh=10.0,
            prune_from_iter=100,
        )
    )
    counts = []
    for step in range(10):
        model.update_states(step, *picture(model))
        counts.append(len(model._xyz))
    assert counts == [40] * 4 + [80, 80, 160, 160, 160, 160]
    assert all(len(p) == 160 for p in model.parameters())
    assert (model.slope_count == 3).all()  # since step 6


def test_nothing_is_added_beyond_max_num_or_below_the_threshold():
    settings = {"densify_from_iter": 1, "densification_interval": 1, "split_thresh": 10.0}
    model = trained(geometry(max_num=55, **settings))
    model.update_states(1, *picture(model, slope=0.009))
    assert len(model._xyz) == 40
    model.update_states(2, *picture(model, slope=5.0))
    assert len(model._xyz) == 55
    model.update_states(3, *picture(model, slope=5.0))
    assert len(model._xyz) == 55


def test_pruning_removes_with_the_statistics_and_the_moments():
    model = trained(geometry(init_num_pts=200, prune_from_iter=1, prune_interval=1))
    model.update_states(0, *picture(model))
    with torch.no_grad():
        model._opacity[:100] = -9.0
    kept = model._xyz[100:].detach().clone()
    moments = model.optimizer.state[model._xyz]["exp_avg"][100:].clone()
    model.update_states(1, *picture(model))
    assert torch.equal(model._xyz, kept) and (model.slope_count == 2).all()
    assert torch.equal(model.optimizer.state[model._xyz]["exp_avg"], moments)
    assert model.optimizer.param_groups[0]["params"][0] is model._xyz


def test_opacities_are_reset_with_their_moments():
    model = trained(geometry(opacity_reset_interval=5, opacity_init=0.5, densify_from_iter=900))
    model.update_states(4, *picture(model))
    assert model.get_opacity.min() > 0.3
    model.update_states(5, *picture(model))
    torch.testing.assert_close(model.get_opacity, torch.full((40, 1), 0.01))
    assert (model.optimizer.state[model._opacity]["exp_avg"] == 0).all()
    assert (model.optimizer.state[model._xyz]["exp_avg"] != 0).any()


def test_parameters_stay_where_pictures_have_a_gradient():
    model = geometry(radius=2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-50, 50, parameter.numel()).view(parameter.shape))
    assert model.bound() == 40 and model.bound() == 0
    opacity, scale = model.get_opacity, model.get_scaling
    assert [x.item() for x in opacity.aminmax()] == pytest.approx([0.004, 0.99])
    assert [x.item() for x in scale.aminmax()] == pytest.approx([2e-4, 2.0])
    assert model._features_dc.abs().max().item() == pytest.approx(1.7724, abs=1e-4)
    assert model._xyz.abs().max() == 50


def test_colours_are_held_only_if_they_are_black_or_white_from_everywhere():
    """Seen from ten thousand directions, also by a channel of the constant alone."""
    model, generator = geometry(sh_degree=3, init_num_pts=400), torch.Generator().manual_seed(0)
    with torch.no_grad():
        model._features_rest.normal_(std=0.5, generator=generator)
        model._features_rest[:20] = 0.0
        model._features_dc.uniform_(-9.0, 9.0, generator=generator)
    directions = torch.randn(10_000, 3, generator=generator)
    basis = harmonics.spherical_harmonics(F.normalize(directions, dim=1), 4)

    def extremes():
        shown = torch.einsum("dk,pkc->dpc", basis, model.get_features.detach()) + 0.5
        return shown.amin(dim=0), shown.amax(dim=0)

    before, (darkest, brightest) = model._features_dc[:, 0].clone(), extremes()
    assert 100 < model.bound() < 400 and model.bound() == 0
    after = model._features_dc[:, 0]
    # between the directions that `bound` looks from a colour may be a little brighter
    assert (before == after)[(brightest > 0.1) & (darkest < 0.9)].all()
    assert (after > before)[brightest < 0].all() and (after < before)[darkest > 1].all()
    darkest, brightest = extremes()
    assert (brightest[:20] > 0).all() and (darkest[:20] < 1).all()
    assert (brightest > -0.01).all() and (darkest < 1.01).all()
    assert (brightest[after > before] < 0.1).all() and (darkest[after < before] > 0.9).all()


def test_the_harmonics_of_a_file_are_used_at_once_and_others_by_schedule():
    model = geometry(sh_degree=3, sh_degree_interval=10)
    for step, degree in ((0, 0), (10, 1), (39, 3)):
        model.update_step(0, step)
        assert model.active_sh_degree == degree
    with torch.no_grad():
        model._features_rest[7, 5, 2] = 1e-3  # the third of degree 2
    for step, degree in ((0, 2), (20, 2), (30, 3)):
        model.update_step(0, step)
        assert model.active_sh_degree == degree and model.get_features.shape[1] == (degree + 1) ** 2


def test_only_gaussians_that_leave_their_bounds_are_counted():
    model = geometry()
    with torch.no_grad():
        model._opacity[3], model._scaling[3, 1], model._features_dc[7, 0, 2] = 30.0, 9.0, -9.0
    assert model.bound() == 2


def broken_step(model, broken):
    """Take a step on gradients of one, with NaN or infinity at (name, row)."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for (name, row), value in broken.items():
        getattr(model, name).grad[row] = value
    found = model.drop_broken_gradients()
    model.optimizer.step()
    model.restore_dropped()
    return found


def snapshot(model):
    """Copy the parameters and their moments."""
    state = model.optimizer.state
    moments = {f"{n} {k}": v for n, p in model.named_parameters() for k, v in state[p].items()}
    return {n: v.detach().clone() for n, v in [*model.named_parameters(), *moments.items()]}


def test_gaussians_with_a_broken_gradient_are_left_out_of_the_step():
    """After steps of others: Adam would move them by what it remembers. The rest is stepped."""
    model, other = trained(geometry(sh_degree=1)), trained(geometry(sh_degree=1))
    before = snapshot(model)
    assert broken_step(model, {("_xyz", 4): torch.nan, ("_opacity", 9): torch.inf}) == 2
    assert broken_step(other, {}) == 0
    rest = [row for row in range(40) if row not in (4, 9)]
    expected = snapshot(other)
    for name, value in snapshot(model).items():
        if value.ndim:
            assert torch.equal(value[[4, 9]], before[name][[4, 9]]), name
            assert torch.equal(value[rest], expected[name][rest]), name
    assert broken_step(model, {}) == 0
    assert (model._xyz[[4, 9]] != before["_xyz"][[4, 9]]).all(), "they are in the next step"


def test_gradients_stay_if_all_are_broken():
    model = trained(geometry(), steps=0)
    assert model.drop_broken_gradients() == 0, "there are no gradients yet"
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model._scaling.grad[:] = torch.nan
    assert model.drop_broken_gradients() == 40
    assert model._scaling.grad.isnan().all(), "they stay, for the check of the whole"


def test_a_state_of_any_number_is_loaded_with_its_statistics():
    model = trained(geometry(split_thresh=10.0, densify_from_iter=1, densification_interval=1))
    model.update_states(1, *picture(model))
    model.update_states(0, *picture(model))
    other = geometry(init_num_pts=3)
    other.training_setup()
    other.load_state_dict(model.state_dict())
    assert len(other._xyz) == 80 and other.optimizer is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert (other.slope_count == 1).all()


def test_a_step_after_loading_equals_the_step_without():
    """Optimizer state included, across a change of the number of Gaussians."""
    settings = {"split_thresh": 0.0001, "densify_from_iter": 1, "densification_interval": 1}
    model = trained(geometry(**settings))
    model.update_states(1, *picture(model))
    state, moments = model.state_dict(), copy.deepcopy(model.optimizer.state_dict())
    other = geometry(**settings)
    other.load_state_dict(state)
    other.training_setup().load_state_dict(moments)
    for one in (model, other):
        one.update_learning_rate(2)
        trained(one)
        one.update_states(2, *picture(one))
    assert len(model._xyz) == 160
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
