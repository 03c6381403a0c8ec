"""The hash grid on a CPU by `hash_grid.c`: the values of the torch version, several times faster.

Threads are Python's, not OpenMP's: torch brings an OpenMP of its own, and two of them in a process
get into each other's way. Every output belongs to one thread, which adds in the order of points and
levels, so results are the same to the last bit, whatever the number of threads."""

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.networks.compiled import BuildError, load_library
from threestudio.utils.logging import warn_once

SOURCE = Path(__file__).with_name("hash_grid.c")
MAX_DIMS = 4
"""As in the C code."""
LEAST_POINTS = 1024
"""Points for which it is worth while to start a thread."""
POINTER, COUNT = ctypes.c_void_p, ctypes.c_int64
FUNCTIONS = {
    "encode": [POINTER] * 4 + [COUNT] * 2,
    "table_gradient": [POINTER] * 4 + [COUNT] * 3,
    "points_gradient": [POINTER] * 5 + [COUNT] * 2,
}
"""Name -> types of the arguments."""


class Layout(ctypes.Structure):
    """The C code's description of a grid; made anew for each call, as modules that hold pointers
    could not be copied."""

    _fields_ = [
        *((name, COUNT) for name in ("dims", "features", "levels")),
        *((name, POINTER) for name in ("scales", "factors", "sizes", "starts", "dense")),
    ]

    @classmethod
    def of(cls, grid: Any) -> "Layout":
        """Describe a `HashGrid`."""
        values = {
            "scales": (ctypes.c_float, grid.scales),
            "factors": (ctypes.c_uint64, [f for level in grid.factors for f in level]),
            "sizes": (ctypes.c_uint64, grid.sizes),
            "starts": (ctypes.c_uint64, list(accumulate(grid.sizes, initial=0))),
            "dense": (ctypes.c_uint8, grid.dense),
        }
        arrays = {name: (kind * len(items))(*items) for name, (kind, items) in values.items()}
        pointers = {name: ctypes.cast(array, POINTER) for name, array in arrays.items()}
        layout = cls(grid.n_input_dims, grid.n_features, grid.n_levels, **pointers)
        layout.arrays = arrays  # as long as they are pointed to
        return layout


@functools.cache
def kernel() -> Optional[ctypes.CDLL]:
    """Return the compiled code; None, after a warning, where it cannot be had."""
    try:
        library = load_library(SOURCE)
    except BuildError as error:
        warn_once(
            f"Hash grids are computed in plain torch, several times slower: {error}. Install a C "
            "compiler, for instance gcc, or set `backend: torch` beside the encoding's `otype`."
        )
        return None
    for name, arguments in FUNCTIONS.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = None
    return library


def computes(grid: Any, x: Tensor) -> bool:
    """Tell whether the C code is there and takes these points and this grid: float32 on a CPU, of
    the shapes that it relies on."""
    if x.device.type != "cpu" or grid.params.device.type != "cpu":
        return False
    if x.dtype != torch.float32 or grid.params.dtype != torch.float32:
        warn_once(
            "Hash grids are computed in plain torch, several times slower, where points or "
            "parameters are not float32. Set `backend: torch` beside the encoding's `otype` if "
            "this is wanted."
        )
        return False
    fits = x.ndim == 2 and x.shape[1] == grid.n_input_dims <= MAX_DIMS
    fits = fits and grid.params.numel() == sum(grid.sizes) * grid.n_features
    return fits and kernel() is not None


class HashEncoding(torch.autograd.Function):
    """A `HashGrid` by the C code: forward pass and first derivatives.

    Where the first derivatives are themselves differentiated, they come from the torch version."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "N D"], params: Float[Tensor, " P"], grid: Any
    ) -> Float[Tensor, "N F"]:
        ctx.grid = grid
        ctx.save_for_backward(x, params)
        return encode(grid, x, params)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "N F"]) -> tuple[Any, Any, None]:
        """Return the gradients of points and parameters."""
        x, params = ctx.saved_tensors
        of_x, of_params, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # that is, under `create_graph`
            return (*differentiable_gradients(ctx, x, params, grad), None)
        return (
            points_gradient(ctx.grid, x, params, grad) if of_x else None,
            table_gradient(ctx.grid, x, params, grad) if of_params else None,
            None,
        )


def differentiable_gradients(
    ctx: Any, x: Float[Tensor, "N D"], params: Float[Tensor, " P"], grad: Float[Tensor, "N F"]
) -> list[Optional[Tensor]]:
    """Return the gradients that are wanted, by the torch version, with their graph."""
    # views: the derivative stops at them, even where the points depend on the parameters
    inputs = [x.view_as(x), params.view_as(params)]
    wanted = [i for i in range(2) if ctx.needs_input_grad[i]]
    found = torch.autograd.grad(
        ctx.grid.reference(*inputs), [inputs[i] for i in wanted], grad, create_graph=True
    )
    gradients: list[Optional[Tensor]] = [None, None]
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients


def encode(grid: Any, x: Float[Tensor, "N D"], params: Float[Tensor, " P"]) -> Float[Tensor, "N F"]:
    """Encode points."""
    x, params = x.contiguous(), params.contiguous()
    out = x.new_empty(len(x), grid.n_output_dims)
    in_threads(function("encode", grid, x, params, out), by_points(len(x)))
    return out


def points_gradient(
    grid: Any, x: Float[Tensor, "N D"], params: Float[Tensor, " P"], grad: Float[Tensor, "N F"]
) -> Float[Tensor, "N D"]:
    """Return the gradient of the points."""
    x, params, grad = x.contiguous(), params.contiguous(), grad.contiguous()
    out = torch.zeros_like(x)
    in_threads(function("points_gradient", grid, x, params, grad, out), by_points(len(x)))
    return out


def table_gradient(
    grid: Any, x: Float[Tensor, "N D"], params: Float[Tensor, " P"], grad: Float[Tensor, "N F"]
) -> Float[Tensor, " P"]:
    """Return the gradient of the parameters; a level is the work of one thread."""
    x, grad = x.contiguous(), grad.contiguous()
    out = torch.zeros_like(params, memory_format=torch.contiguous_format)
    step = 1 if len(x) >= LEAST_POINTS else grid.n_levels
    bounds = [*range(0, grid.n_levels, step), grid.n_levels]
    in_threads(function("table_gradient", grid, x, grad, out, len(x)), bounds)
    return out


def function(name: str, grid: Any, *arguments: Any) -> Callable[[int, int], None]:
    """Return a C function with all its arguments but the range; tensors must be without gaps."""
    plain = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    return functools.partial(getattr(kernel(), name), ctypes.byref(Layout.of(grid)), *plain)


def by_points(count: int) -> list[int]:
    """Return the bounds of equal ranges of points, one for each thread that has enough to do."""
    parts = max(1, min(torch.get_num_threads(), count // LEAST_POINTS))
    return [count * part // parts for part in range(parts + 1)]


def in_threads(call: Callable[[int, int], None], bounds: list[int]) -> None:
    """Call for every range between two bounds, on as many threads as torch uses."""
    ranges = list(pairwise(bounds))
    workers = min(torch.get_num_threads(), len(ranges))
    if workers == 1:
        call(bounds[0], bounds[-1])
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(call, bounds[:-1], bounds[1:]))
