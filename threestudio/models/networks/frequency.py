"""Encodings without parameters: sines and cosines, spherical harmonics."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.networks.settings import read_settings, too_small
from threestudio.utils.base import Updateable


class Frequency(nn.Module):
    """`sin(2^k pi x), cos(2^k pi x)` for k < `n_frequencies`; per input dimension, k ascending
    (tiny-cuda-nn)."""

    @dataclass
    class Config:
        n_frequencies: int = 12
        """Number of octaves."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            return too_small(key, self, n_frequencies=1)

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        self.n_input_dims = n_input_dims
        self.n_output_dims = n_input_dims * 2 * cfg.n_frequencies
        scales = math.pi * 2.0 ** torch.arange(cfg.n_frequencies)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Encode points."""
        angles = x[..., None] * self.scales
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class ProgressiveBandFrequency(nn.Module, Updateable):
    """`sin(2^k x), cos(2^k x)`, whose bands fade in one after the other over `n_masking_step` steps
    (0: at once)."""

    @dataclass(kw_only=True)
    class Config:
        n_frequencies: int
        """Number of octaves."""
        n_masking_step: int = 0
        """Steps until all are open; 0 opens them at once."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            return too_small(key, self, n_frequencies=1, n_masking_step=0)

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        self.n_input_dims = n_input_dims
        self.n_frequencies, self.n_masking_step = cfg.n_frequencies, cfg.n_masking_step
        self.n_output_dims = n_input_dims * 2 * self.n_frequencies
        bands = torch.arange(self.n_frequencies)
        self.register_buffer("bands", 2.0**bands, persistent=False)
        self.update_step(0, 0)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Encode points; band by band, sine before cosine."""
        angles = x[:, None, :] * self.bands[:, None]
        waves = torch.stack([angles.sin(), angles.cos()], dim=2)
        return (waves * self.mask.to(x)[:, None, None]).flatten(1)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Open the bands that are due: `(1 - cos(pi clamp(share * n - k, 0, 1))) / 2`."""
        share = 1.0 if self.n_masking_step <= 0 else global_step / self.n_masking_step
        opened = (share * self.n_frequencies - torch.arange(self.n_frequencies)).clamp(0.0, 1.0)
        self.mask = (1.0 - torch.cos(math.pi * opened)) / 2.0


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of all bands below `degree`, of unit vectors given as `(v + 1) /
    2`."""

    @dataclass
    class Config:
        degree: int = 4
        """Number of bands; `degree^2` features."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            return too_small(key, self, degree=1)

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        self.n_input_dims = n_input_dims
        self.degree = read_settings(self.Config, config).degree
        self.n_output_dims = self.degree**2
        self.register_buffer("params", torch.zeros(0))  # the key that upstream's checkpoints have

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Encode directions; component (l, m) is at index `l (l + 1) + m`."""
        return spherical_harmonics(x * 2.0 - 1.0, self.degree)


def spherical_harmonics(v: Float[Tensor, "N 3"], degree: int) -> Float[Tensor, "N F"]:
    """Evaluate real spherical harmonics with the Condon-Shortley phase.

    `Y_lm = sqrt(2) K_lm Q_lm(z) Re (x + i y)^m`, `Y_l-m` the same with the imaginary part, and
    `Y_l0 = K_l0 Q_l0(z)`, where `Q_lm` is the associated Legendre function without its factor `(1 -
    z^2)^(m / 2)`, by its three-term recurrence.

    Args:
        v: Unit vectors.
        degree: Number of bands.
    """
    x, y, z = v.unbind(-1)
    out: list[Any] = [None] * degree**2
    real, imaginary, diagonal = torch.ones_like(x), torch.zeros_like(x), 1.0
    for m in range(degree):
        older, newer = torch.zeros_like(z), torch.full_like(z, diagonal)
        for band in range(m, degree):
            scale = (2 * band + 1) / (4 * math.pi)
            scale = math.sqrt(scale * math.factorial(band - m) / math.factorial(band + m))
            center = band * (band + 1)
            out[center + m] = scale * newer * real * (math.sqrt(2.0) if m else 1.0)
            if m:
                out[center - m] = scale * newer * imaginary * math.sqrt(2.0)
            following = ((2 * band + 1) * z * newer - (band + m) * older) / (band + 1 - m)
            older, newer = newer, following
        real, imaginary = x * real - y * imaginary, x * imaginary + y * real
        diagonal *= -(2 * m + 1)
    return torch.stack(out, dim=-1)
