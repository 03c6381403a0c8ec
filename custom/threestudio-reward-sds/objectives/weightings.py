"""w(t): how much a timestep counts."""

from typing import Any, Callable, Dict, List

import torch
from torch import Tensor

WEIGHTINGS: Dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sds": lambda alpha, sigma: sigma**2,  # 1 - alpha_bar
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),
    "fantasia3d": lambda alpha, sigma: alpha * sigma**2,  # sqrt(alpha_bar) (1 - alpha_bar)
}
"""By name, from `alpha = sqrt(alpha_bar)` and `sigma = sqrt(1 - alpha_bar)`."""


def weight_of(cfg: Any, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return w(t) of an objective's `weighting_strategy`, in the shape of `alpha`."""
    return WEIGHTINGS[cfg.weighting_strategy](alpha, sigma)


def weighting_faults(cfg: Any) -> List[str]:
    """Say what is wrong with an objective's `weighting_strategy`."""
    if cfg.weighting_strategy in WEIGHTINGS:
        return []
    return [
        f"`weighting_strategy` is '{cfg.weighting_strategy}', but must be one of "
        f"{', '.join(WEIGHTINGS)}."
    ]
