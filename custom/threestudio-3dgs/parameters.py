"""The parameters of Gaussians as they are stored and trained, by upstream's names.

| name | shape | what |
|---|---|---|
| `_xyz` | [P 3] | centre, world units |
| `_features_dc` | [P 1 3] | constant coefficient of the spherical harmonics |
| `_features_rest` | [P (d + 1)^2 - 1 3] | the other coefficients, band by band |
| `_scaling` | [P 3] | logarithm of the standard deviations |
| `_rotation` | [P 4] | quaternion (w, x, y, z), any length |
| `_opacity` | [P 1] | logit of the opacity |
"""

from typing import Any

import torch
from torch import Tensor, nn

PARAMETERS = {
    "xyz": "_xyz",
    "f_dc": "_features_dc",
    "f_rest": "_features_rest",
    "opacity": "_opacity",
    "scaling": "_scaling",
    "rotation": "_rotation",
}
"""Name of the optimizer's group: name of the parameter."""

ADAM_KEYS = (
    *("params", "name", "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"),
    "decoupled_weight_decay",  # what AdamW is
)
"""Settings of a group of Adam or AdamW that decide what a step does."""

Values = dict[str, Tensor]
"""A value of each parameter, by the parameter's name; P rows each."""


def shapes(count: int, sh_degree: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of `count` Gaussians."""
    return {
        "_xyz": (count, 3),
        "_features_dc": (count, 1, 3),
        "_features_rest": (count, (sh_degree + 1) ** 2 - 1, 3),
        "_opacity": (count, 1),
        "_scaling": (count, 3),
        "_rotation": (count, 4),
    }


def make_optimizer(module: Any) -> torch.optim.Adam:
    """Build Adam with one named group for each parameter; the rates are set before each step."""
    groups = [
        {"params": [getattr(module, attribute)], "name": name}
        for name, attribute in PARAMETERS.items()
    ]
    return torch.optim.Adam(groups, lr=0.0, eps=1e-15)


def add_groups(optimizer: torch.optim.Adam, other: torch.optim.Optimizer) -> torch.optim.Adam:
    """Let Adam train the groups of an Adam or AdamW too, each as it would have been there."""
    for group in other.param_groups:
        own = {key: value for key, value in group.items() if key in ADAM_KEYS}
        optimizer.add_param_group(own)
    return optimizer


def copy_rows(module: Any, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Copy rows of the parameters and of their moments; returns each tensor with its copy.

    Args:
        module: Owner of the parameters, with `optimizer` (None if there is none).
        rows: Rows that are copied.
    """
    tensors = []
    for attribute in PARAMETERS.values():
        parameter = getattr(module, attribute)
        state = module.optimizer.state.get(parameter, {}) if module.optimizer else {}
        moments = [value for value in state.values() if value.shape == parameter.shape]
        tensors += [parameter.detach(), *moments]
    return [(tensor, tensor[rows].clone()) for tensor in tensors]


def replace_parameter(module: nn.Module, attribute: str, rows: Tensor, added: Tensor) -> None:
    """Make a parameter of some of its rows and of new ones.

    If the module has an optimizer, its moments follow: those of kept rows stay, those of new rows
    are zero, as for a parameter that was never stepped.

    Args:
        module: Owner of the parameter, with `optimizer` (None if there is none).
        attribute: Name of the parameter.
        rows: Rows that are kept, in their new order.
        added: New rows behind them.
    """
    old = getattr(module, attribute)
    new = nn.Parameter(torch.cat([old.detach()[rows], added.to(old)]))
    setattr(module, attribute, new)
    if module.optimizer is None:
        return
    for group in module.optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = module.optimizer.state.pop(old, None)
    if state is not None:
        module.optimizer.state[new] = {
            name: _follow(value, old, rows, added) for name, value in state.items()
        }


def _follow(value: Any, old: Tensor, rows: Tensor, added: Tensor) -> Any:
    if not torch.is_tensor(value) or value.shape != old.shape:
        return value  # the count of steps
    return torch.cat([value[rows], torch.zeros_like(added, dtype=value.dtype, device=value.device)])
