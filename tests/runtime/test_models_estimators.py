"""Histograms along rays, the estimator importance, and what samples of uneven length render."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.runtime.ray_scenes import IMPORTANCE, PROPOSAL, blob_grid, rays, render_scene
from threestudio.models.estimators import ImportanceEstimator
from threestudio.models.histograms import (
    PADDING,
    borders,
    interlevel_loss,
    invert,
    returned_light,
)


def random_histogram(count, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(3, count, generator=generator, dtype=torch.float64) + 0.05
    edges = torch.cat([torch.zeros(3, 1, dtype=torch.float64), lengths.cumsum(-1)], dim=-1)
    weights = torch.rand(3, count, generator=generator, dtype=torch.float64)
    return edges / edges[:, -1:], weights / count


def test_borders_cover_everything_and_move_by_the_shift():
    out = borders(4, torch.tensor([0.5, 0.0, 0.75]))
    expected = [
        [0, 0.25, 0.5, 0.75, 1],
        [0, 0.125, 0.375, 0.625, 1],
        [0, 0.3125, 0.5625, 0.8125, 1],
    ]
    torch.testing.assert_close(out, torch.tensor(expected))


def test_light_is_returned_as_in_the_plain_loop():
    edges, density = random_histogram(6, 0)
    density = density * 40.0
    weights = returned_light(density, edges)
    for ray in range(3):
        light = 1.0
        for i in range(6):
            passed = math.exp(-density[ray, i] * (edges[ray, i + 1] - edges[ray, i]))
            assert weights[ray, i].item() == pytest.approx(light * (1.0 - passed), rel=1e-9)
            light *= passed


def test_places_have_the_share_of_an_exponential_below_them():
    """Density 3 on [0, 1]: `1 - exp(-3 t)` of the light is returned before t, plus the padding."""
    edges = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[None]
    levels = torch.linspace(0.0, 1.0, 33, dtype=torch.float64)[None]
    weights = returned_light(torch.full_like(edges[:, 1:], 3.0), edges)
    t = invert(edges, weights, levels)
    share = 1.0 - torch.exp(-3.0 * t) + PADDING * t
    torch.testing.assert_close(share / share[:, -1:], levels, atol=1e-6, rtol=0)


def test_places_on_an_empty_ray_are_even_and_always_in_order():
    levels = borders(50, torch.full((3,), 0.3, dtype=torch.float64))
    edges, weights = random_histogram(7, 1)
    even = torch.linspace(0.0, 2.0, 8, dtype=torch.float64).expand(3, 8)
    torch.testing.assert_close(invert(even, torch.zeros_like(weights), levels), 2.0 * levels)
    peaked = F.one_hot(torch.tensor([0, 3, 6]), 7).float()
    places = invert(edges.float(), peaked, levels.float())
    assert (places.diff(dim=-1) >= 0).all()
    assert (places[:, 0] == 0).all() and (places[:, -1] == edges[:, -1].float()).all()


def test_the_interlevel_loss_is_that_of_the_double_loop():
    edges, weights = random_histogram(9, 2)
    proposal_edges, proposal_weights = random_histogram(5, 3)
    proposal_weights = proposal_weights * 0.3
    total = 0.0
    for ray in range(3):
        for i in range(9):
            start, end = edges[ray, i], edges[ray, i + 1]
            bound = sum(
                proposal_weights[ray, j].item()
                for j in range(5)
                if proposal_edges[ray, j] < end and proposal_edges[ray, j + 1] > start
            )
            weight = weights[ray, i].item()
            total += max(0.0, weight - bound) ** 2 / (weight + 1e-7)
    loss = interlevel_loss(edges, weights, proposal_edges, proposal_weights)
    assert total > 0.01 and loss.item() == pytest.approx(total / 3, rel=1e-9)


def test_a_proposal_that_contains_the_histogram_costs_nothing():
    edges, weights = random_histogram(12, 4)
    loss = interlevel_loss(
        edges, weights, edges[:, ::3].contiguous(), weights.view(3, 4, 3).sum(-1) + 1e-9
    )
    assert loss == 0


def slab(starts, ends):
    """Matter between the distances 1 and 1.2."""
    middle = (starts + ends) / 2
    return 50.0 * ((middle > 1.0) & (middle < 1.2))


def test_importance_sampling_looks_where_matter_is():
    estimator = ImportanceEstimator()
    starts, ends = estimator.sampling([slab], [40], 60, 5, 0.5, 4.5)
    assert starts.shape == ends.shape == (5, 100)
    assert (ends >= starts).all() and torch.equal(starts[:, 1:], ends[:, :-1])
    assert (starts[:, 0] == 0.5).all() and (ends[:, -1] == 4.5).all()
    assert ((starts >= 1.0) & (ends <= 1.21)).sum(dim=-1).min() > 55
    starts, ends = estimator.sampling([slab, slab], [24, 40], 60, 5, 0.5, 4.5)
    assert starts.shape == (5, 100)
    assert ((starts >= 1.0) & (ends <= 1.21)).sum(dim=-1).min() > 85


def test_lindisp_is_even_in_inverse_distance():
    estimator, empty = ImportanceEstimator(), lambda starts, ends: torch.zeros_like(starts)
    near, far = torch.tensor([0.5, 1.0]), torch.tensor([2.0, 8.0])
    starts, ends = estimator.sampling([empty], [8], 4, 2, near, far, sampling_type="lindisp")
    shares = sorted([k / 8 for k in range(9)] + [k / 5 for k in range(1, 5)])
    edges = torch.cat([starts, ends[:, -1:]], dim=-1)
    expected = (1 / near)[:, None] + torch.tensor(shares) * (1 / far - 1 / near)[:, None]
    torch.testing.assert_close(1 / edges, expected)


@pytest.mark.parametrize(
    ("kind", "message"), [("lindisp", "near_plane above 0"), ("log", "'uniform' and 'lindisp'")]
)
def test_impossible_spacings_are_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        ImportanceEstimator().sampling([slab], [8], 4, 2, 0.0, 1.0, sampling_type=kind)


def test_stratified_borders_depend_on_the_step_or_the_generator():
    estimator = ImportanceEstimator()

    def starts(step=0, seed=None):
        estimator.update_step(0, step)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        args = ([slab], [20], 10, 6, 0.5, 4.5)
        return estimator.sampling(*args, stratified=True, generator=generator)[0]

    assert torch.equal(starts(3), starts(3)) and not torch.equal(starts(3), starts(4))
    assert torch.equal(starts(3, seed=1), starts(4, seed=1))
    assert not torch.equal(starts(seed=1), starts(seed=2))
    assert not torch.equal(starts(3)[0], starts(3)[1])


def test_gradients_reach_the_densities_on_request_only():
    scale = torch.tensor(5.0, requires_grad=True)

    def density(starts, ends):
        return scale * (starts < 1.0)

    args = ([density], [10], 10, 2, 0.0, 2.0)
    assert not ImportanceEstimator().sampling(*args)[0].requires_grad
    starts, _ = ImportanceEstimator().sampling(*args, requires_grad=True)
    starts.sum().backward()
    assert scale.grad.abs() > 0


@pytest.mark.parametrize("training", [False, True])
def test_importance_renders_what_even_samples_do(training):
    dense = {"num_samples_per_ray": 1000, "grid_prune": False, "randomized": False}
    whole = render_scene(blob_grid(), dense, training)(**rays())
    few = render_scene(blob_grid(), IMPORTANCE, training)(**rays())
    for key in ("comp_rgb", "opacity", "depth"):
        torch.testing.assert_close(few[key], whole[key], atol=1e-2, rtol=0)


def test_importance_has_the_gradient_of_even_samples():
    gradients = []
    dense = {"num_samples_per_ray": 1000, "grid_prune": False, "randomized": False}
    for settings in (dense, IMPORTANCE):
        grid = blob_grid()
        (render_scene(grid, settings, training=True)(**rays())["comp_rgb"] ** 2).sum().backward()
        gradients.append(grid.grid.grad.flatten())
    assert F.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("settings", [IMPORTANCE, PROPOSAL], ids=["importance", "proposal"])
def test_samples_come_with_their_own_lengths(settings):
    """They fill the way through the box, and the weights are those of the plain loop."""
    out = render_scene(blob_grid(), settings, training=True)(**rays(4))
    count = {"importance": 128, "proposal": 24}[settings["estimator"]]
    t, length, density, weights = (
        out[key].detach().view(16, count)
        for key in ("t_points", "t_intervals", "density", "weights")
    )
    assert torch.equal(out["ray_indices"], torch.arange(16).repeat_interleave(count))
    origins = rays(4)["rays_o"].reshape(-1, 3)[out["ray_indices"]]
    torch.testing.assert_close(origins + out["t_points"] * out["t_dirs"], out["points"])
    middle = (length.cumsum(-1) - length / 2) + (t - length / 2)[:, :1]
    torch.testing.assert_close(t, middle, atol=1e-5, rtol=0)
    assert (length.sum(-1) > 1.5).all() and length.std(dim=-1).min() > 0.005
    light = 1.0
    for i in range(count):
        passed = math.exp(-density[5, i] * length[5, i])
        assert weights[5, i].item() == pytest.approx(light * (1 - passed), rel=1e-4, abs=1e-6)
        light *= passed


@pytest.mark.parametrize("settings", [IMPORTANCE, PROPOSAL], ids=["importance", "proposal"])
def test_rays_that_miss_keep_a_graph_and_chunks_equal_one_piece(settings):
    grid = blob_grid()
    away = {**rays(), "rays_d": -rays()["rays_d"]}
    out = render_scene(grid, settings, training=True)(**away)
    out["comp_rgb"].sum().backward()
    assert out["opacity"].max() == 0 and grid.grid.grad.abs().max() == 0
    whole = render_scene(grid, settings)(**rays())
    parts = render_scene(grid, {**settings, "eval_chunk_size": 700})(**rays())
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, atol=1e-6, rtol=0)
