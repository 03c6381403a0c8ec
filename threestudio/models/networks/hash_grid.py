"""The multi-resolution hash encoding (Mueller et al. 2022) with tiny-cuda-nn's layout.

The torch version is the reference, and runs anywhere. A C kernel (`hash_kernel`) takes its place on
a CPU, tiny-cuda-nn itself (`tcnn`) on CUDA, each where it can be had."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from threestudio.models.networks import hash_kernel, tcnn
from threestudio.models.networks.settings import read_settings, too_small
from threestudio.utils.base import Updateable

PRIMES = (1, 2654435761, 805459861, 3674653429)
BACKENDS = ("auto", "torch")


class WeightedGather(torch.autograd.Function):
    """`out[n] = sum_k weights[n, k] * table[index[n, k]]`, with a backward pass that is fast on
    CPUs."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "T F"],
        index: Int[Tensor, "N K"],
        weights: Float[Tensor, "N K"],
    ) -> Float[Tensor, "N F"]:
        ctx.save_for_backward(table, index, weights)
        return nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "N F"]) -> tuple[Any, None, Any]:
        """Return the gradients of table and weights; made of differentiable steps, for analytic
        normals."""
        table, index, weights = ctx.saved_tensors
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            rows = (grad[:, None, :] * weights[..., None]).flatten(0, 1)
            grad_table = torch.zeros_like(table).index_add(0, index.flatten(), rows)
        if ctx.needs_input_grad[2]:
            grad_weights = (table[index] * grad[:, None, :]).sum(dim=-1)
        return grad_table, None, grad_weights


class HashGrid(nn.Module):
    """Features interpolated from `n_levels` grids, the fine ones stored in hash tables.

    Level l has scale `S = base_resolution * per_level_scale^l - 1` and `ceil(S) + 1` points a side;
    a point x in [0, 1] stands at `x S + 1/2`. Grids of at most `2^log2_hashmap_size` points are
    indexed directly. `params` is flat, level by level, as in tiny-cuda-nn, which makes checkpoints
    exchangeable; one of another size is refused."""

    @dataclass
    class Config:
        n_levels: int = 16
        """Number of grids."""
        n_features_per_level: int = 2
        """Features that each grid stores at a point."""
        log2_hashmap_size: int = 19
        """Logarithm of the largest table's size."""
        base_resolution: int = 16
        """Cells of the coarsest grid along each side."""
        per_level_scale: float = 2.0
        """Growth of the resolution from grid to grid, above 0."""
        backend: str = "auto"
        """auto: the C kernel on a CPU with a C compiler, tiny-cuda-nn on CUDA if it is installed,
        else plain torch; torch: always plain torch."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            counts = {"n_levels": 1, "n_features_per_level": 1, "base_resolution": 1}
            found = too_small(key, self, **counts, log2_hashmap_size=0)
            if not 0.0 < self.per_level_scale < math.inf:
                found.append(
                    f"`{key}.per_level_scale` is {self.per_level_scale}; it must be above 0."
                )
            if self.backend not in BACKENDS:
                found.append(f"`{key}.backend` is {self.backend!r}; it must be auto or torch.")
            return found

        def scales(self) -> list[float]:
            """Return the scale of each level."""
            base, growth = self.base_resolution, self.per_level_scale
            return [base * growth**level - 1.0 for level in range(self.n_levels)]

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        self.n_input_dims = n_input_dims
        self.n_levels, self.n_features = cfg.n_levels, cfg.n_features_per_level
        self.n_output_dims = self.n_levels * self.n_features
        self.backend = cfg.backend
        self.scales = cfg.scales()
        self.resolutions = [math.ceil(scale) + 1 for scale in self.scales]
        points = [r**n_input_dims for r in self.resolutions]
        self.sizes = [min(math.ceil(p / 8) * 8, 2**cfg.log2_hashmap_size) for p in points]
        self.dense = [p <= size for p, size in zip(points, self.sizes, strict=True)]
        self.factors = [
            [r**d if dense else PRIMES[d] for d in range(n_input_dims)]
            for r, dense in zip(self.resolutions, self.dense, strict=True)
        ]
        self.params = nn.Parameter(
            torch.empty(sum(self.sizes) * self.n_features).uniform_(-1e-4, 1e-4)
        )
        self.register_load_state_dict_pre_hook(tcnn.refuse_other_size)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Encode points; features of a level stand together, coarse levels first."""
        if self.backend == "auto" and hash_kernel.computes(self, x):
            return hash_kernel.HashEncoding.apply(x, self.params, self)
        return self.reference(x, self.params)

    def reference(
        self, x: Float[Tensor, "N D"], params: Float[Tensor, " P"]
    ) -> Float[Tensor, "N F"]:
        """Encode points with these parameters, in plain torch."""
        levels = params.split([size * self.n_features for size in self.sizes])
        return torch.cat([self._level(x, i, table) for i, table in enumerate(levels)], dim=-1)

    def _level(self, x: Float[Tensor, "N D"], level: int, params: Tensor) -> Float[Tensor, "N f"]:
        position = x.T * self.scales[level] + 0.5
        lowest = position.detach().floor()
        fraction = position - lowest
        cells = torch.stack([lowest, lowest + 1.0], dim=1).long()
        weights = over_corners(torch.stack([1.0 - fraction, fraction], dim=1), torch.mul)
        table = params.view(-1, self.n_features)
        return WeightedGather.apply(table, self.index(cells, level), weights)

    def index(self, cells: Int[Tensor, "D 2 N"], level: int) -> Int[Tensor, "N K"]:
        """Return the table row of the corners of cells.

        Direct while the level fits into its table, `sum_d cell_d resolution^d`; else hashed,
        `xor_d (cell_d prime_d)`; both modulo the table's size.

        Args:
            cells: Lower and upper grid coordinate in each dimension.
            level: Level of the grid.
        """
        size = self.sizes[level]
        terms = cells * cells.new_tensor(self.factors[level])[:, None, None]
        if self.dense[level]:
            return over_corners(terms, torch.add) % size
        # the size of a hash table is a power of two
        return over_corners(terms, torch.bitwise_xor) & (size - 1)


def over_corners(
    sides: Shaped[Tensor, "D 2 N"], combine: Callable[[Tensor, Tensor], Tensor]
) -> Shaped[Tensor, "N K"]:
    """Combine the lower and upper value of each dimension into one for each of the 2^D corners.

    Points run along the last axis until the end, which is what makes this fast on a CPU.
    """
    total = sides[0]
    for side in sides[1:]:
        total = combine(total[:, None], side).flatten(0, 1)
    return total.T.contiguous()


def hash_grid(n_input_dims: int, config: Any) -> nn.Module:
    """Build the hash grid of the back end that `backend` asks for: tiny-cuda-nn's or ours."""
    cfg = read_settings(HashGrid.Config, config)
    if cfg.backend == "torch" or not tcnn.available():
        return HashGrid(n_input_dims, config)
    settings = asdict(cfg)
    del settings["backend"]
    return tcnn.grid_encoding(n_input_dims, settings)


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """A hash grid whose fine levels are masked until they are due.

    `start_level` levels are open until step `start_step`, then one more every `update_steps` steps.
    """

    @dataclass(kw_only=True)
    class Config(HashGrid.Config):
        start_level: int
        """Levels that are open from the start."""
        start_step: int
        """Step from which on more are opened."""
        update_steps: int
        """Steps between two levels."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            own = too_small(key, self, start_level=0, start_step=0, update_steps=1)
            return super().faults(key) + own

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        grid = {field.name: getattr(cfg, field.name) for field in fields(HashGrid.Config)}
        self.encoding = hash_grid(n_input_dims, grid)
        self.n_levels, self.n_features = cfg.n_levels, cfg.n_features_per_level
        self.scales = cfg.scales()
        self.n_input_dims, self.n_output_dims = n_input_dims, self.encoding.n_output_dims
        self.start_level, self.start_step = cfg.start_level, cfg.start_step
        self.update_steps = cfg.update_steps
        self.current_level = self.start_level

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Encode points; masked levels are zero."""
        open_dims = self.current_level * self.n_features
        mask = torch.arange(self.n_output_dims, device=x.device) < open_dims
        return tcnn.apply(self.encoding, x) * mask

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Open the levels that are due."""
        more = max(global_step - self.start_step, 0) // self.update_steps
        self.current_level = min(self.start_level + more, self.n_levels)
