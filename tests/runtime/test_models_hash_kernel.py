"""The hash grid's C kernel against the torch version, and against finite differences of it."""

import copy
import sys

import pytest
import torch

from tests.helpers.compilers import needs_compiler
from threestudio.models.networks import HashGrid, ProgressiveBandHashGrid, hash_kernel
from threestudio.utils import logging

GRID = {
    "n_levels": 4,
    "log2_hashmap_size": 8,
    "base_resolution": 4,
    "per_level_scale": 1.9,
}


@pytest.fixture
def said(monkeypatch):
    """Warnings, with nothing compiled nor warned about before."""
    messages = []
    hash_kernel.kernel.cache_clear()
    logging.warn_once.cache_clear()
    monkeypatch.setattr(logging, "warn", messages.append)
    yield messages
    hash_kernel.kernel.cache_clear()
    logging.warn_once.cache_clear()


def pair(dims=3, features=2):
    """The same grid by the kernel and by torch; dense and hashed levels."""
    torch.manual_seed(0)
    fast = HashGrid(dims, {**GRID, "n_features_per_level": features})
    torch.nn.init.normal_(fast.params)
    slow = copy.deepcopy(fast)
    slow.backend = "torch"
    assert len(set(fast.dense)) == 2
    return fast, slow


def gradients(grid, x, direction):
    """Output, and gradients of points and parameters."""
    x = x.clone().requires_grad_()
    out = grid(x)
    return out, *torch.autograd.grad(out, (x, grid.params), direction)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(
    ("dims", "features"), [(3, 2), (3, 4), (2, 1), (4, 3)], ids=lambda number: str(number)
)
def test_the_kernel_equals_torch_inside_and_outside_of_the_cube(dims, features, two_threads):
    fast, slow = pair(dims, features)
    x = torch.cat([torch.rand(2500, dims) * 2.4 - 0.7, torch.rand(500, dims).round()])
    assert hash_kernel.computes(fast, x) and not torch.equal(x, x.clamp(0.0, 1.0))
    direction = torch.randn(len(x), fast.n_output_dims)
    found, expected = (gradients(grid, x, direction) for grid in (fast, slow))
    errors = [
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True)
    ]
    sys.stdout.write(f"kernel - torch, out, points, table: {errors}\n")
    assert errors[0] < 1e-6 and max(errors) < 1e-5


@needs_compiler
def test_first_derivatives_equal_finite_differences_in_float64():
    fast, slow = pair()
    exact = copy.deepcopy(slow).double()
    x = torch.rand(64, 3)
    direction = torch.randn(64, 8)
    _, by_points, by_params = gradients(fast, x, direction)

    def loss(points, params):
        return (exact.reference(points.double(), params) * direction).sum()

    with torch.no_grad():
        params, step = exact.params.detach(), torch.randn(exact.params.shape).double()
        slope = (loss(x, params + step) - loss(x, params - step)) / 2
        torch.testing.assert_close((by_params * step).sum(), slope, rtol=1e-5, atol=1e-4)
        # so short a way that no point leaves its cell
        shift = 1e-6 * torch.randn(64, 3).double()
        slope = (loss(x + shift, params) - loss(x - shift, params)) / 2
        torch.testing.assert_close((by_points * shift).sum(), slope, rtol=1e-4, atol=1e-8)


@needs_compiler
def test_analytic_normals_are_differentiated_as_in_torch():
    """Second derivatives, of points that depend on the table themselves."""
    found = []
    for grid in pair():
        weights = torch.linspace(-1.0, 1.0, 8).requires_grad_()
        points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
        x = points + 0.01 * grid.params[:150].view(50, 3)
        (normals,) = torch.autograd.grad((grid(x) * weights).tanh().sum(), x, create_graph=True)
        wanted = (grid.params, weights)
        found.append((normals, *torch.autograd.grad(normals.square().sum(), wanted)))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_points_that_are_nowhere_do_no_harm(bad):
    fast, slow = pair()
    x = torch.rand(40, 3)
    x[7, 1], x[9] = bad, bad
    x.requires_grad_()
    out, expected = fast(x), slow(x)
    good = torch.ones(40, dtype=torch.bool)
    good[[7, 9]] = False
    torch.testing.assert_close(out[good], expected[good], rtol=0, atol=1e-6)
    assert torch.equal(out.isnan(), expected.isnan())
    assert out[~good].isfinite().all() == (abs(bad) == 1e30)
    by_points, by_params = torch.autograd.grad(out.sum(), (x, fast.params))
    assert by_points[good].isfinite().all() and by_params.shape == fast.params.shape


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads(two_threads):
    fast, _ = pair()
    x, direction = torch.rand(5000, 3), torch.randn(5000, 8)
    several = [gradients(fast, x, direction) for _ in range(3)]
    torch.set_num_threads(1)
    one = gradients(fast, x, direction)
    assert all(torch.equal(a, b) for again in several for a, b in zip(again, one, strict=True))


@needs_compiler
def test_strided_points_and_gradients_and_empty_batches():
    fast, slow = pair()
    x = torch.rand(3, 20).T
    direction = torch.rand(8, 20).T
    for a, b in zip(gradients(fast, x, direction), gradients(slow, x, direction), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    out, by_points, by_params = gradients(fast, torch.zeros(0, 3), torch.zeros(0, 8))
    assert out.shape == (0, 8) and by_points.shape == (0, 3) and by_params.count_nonzero() == 0


@needs_compiler
def test_only_what_is_wanted_is_computed(monkeypatch):
    fast, _ = pair()
    monkeypatch.setattr(hash_kernel, "points_gradient", None)
    fast(torch.rand(5, 3)).sum().backward()
    assert fast.params.grad.abs().sum() > 0
    monkeypatch.undo()
    monkeypatch.setattr(hash_kernel, "table_gradient", None)
    fast.requires_grad_(False)
    x = torch.rand(5, 3, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad.abs().sum() > 0


@needs_compiler
def test_progressive_bands_use_the_kernel(monkeypatch):
    torch.manual_seed(0)
    settings = {**GRID, "start_level": 2, "start_step": 0, "update_steps": 1}
    bands = ProgressiveBandHashGrid(3, settings)
    x, calls = torch.rand(6, 3), []
    kernel = hash_kernel.encode
    monkeypatch.setattr(hash_kernel, "encode", lambda *args: calls.append(1) or kernel(*args))
    fast = bands(x)
    bands.encoding.backend = "torch"
    torch.testing.assert_close(fast, bands(x), rtol=0, atol=1e-6)
    assert calls == [1] and fast[:, 4:].count_nonzero() == 0


def test_shapes_that_do_not_fit_never_reach_the_kernel(said):
    fast, _ = pair()
    assert not hash_kernel.computes(fast, torch.rand(4, 2))
    fast.params.data = fast.params.data[:-2]
    assert not hash_kernel.computes(fast, torch.rand(4, 3))
    assert said == []


def test_other_types_are_computed_in_torch_and_it_is_said_once(said):
    fast, slow = pair()
    fast, slow = fast.double(), slow.double()
    x = torch.rand(4, 3).double()
    assert torch.equal(fast(x), slow(x)) and torch.equal(fast(x[:2]), slow(x[:2]))
    assert len(said) == 1 and "not float32. Set `backend: torch`" in said[0]


def test_without_a_compiler_torch_computes_and_it_is_said_once(said, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    fast, slow = pair()
    x, direction = torch.rand(9, 3), torch.randn(9, 8)
    found, expected = (gradients(grid, x, direction) for grid in (fast, slow))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(said) == 1
    assert "plain torch, several times slower: there is no C compiler (cc, gcc, clang)" in said[0]
    assert "Install a C compiler, for instance gcc, or set `backend: torch`" in said[0]


def test_backend_torch_asks_for_no_kernel(said, monkeypatch):
    monkeypatch.setenv("PATH", "")
    HashGrid(3, {**GRID, "backend": "torch"})(torch.rand(2, 3))
    assert said == []
