"""tiny-cuda-nn behind the configurations' names: on CUDA, where the package tinycudann is there.

Its hash grids keep `params` in the order of ours and under the same key, by what is published, so
checkpoints go both ways; this was never compared with the package itself. Its networks keep one
padded vector instead of matrices: their checkpoints do not fit ours, nor ours theirs, and both are
refused with a message."""

import importlib
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.networks.mlp import MLPConfig
from threestudio.models.networks.settings import read_settings
from threestudio.models.packages import optional_package
from threestudio.utils.errors import CheckpointError, UserError
from threestudio.utils.logging import warn_once
from threestudio.utils.misc import get_device
from threestudio.utils.ops import get_activation

PACKAGE = "git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"


def available() -> bool:
    """Tell whether components go on CUDA and tiny-cuda-nn can be imported."""
    if get_device().type != "cuda":
        return False
    try:
        importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:  # OSError: built for other GPUs than the one here
        warn_once(
            f"tiny-cuda-nn cannot be imported ({error}): hash grids and the networks FullyFusedMLP "
            f"and CutlassMLP are computed in plain torch, slower. `pip install '{PACKAGE}'`, or "
            "set `backend: torch` beside HashGrid and `otype: VanillaMLP`."
        )
        return False
    return True


def build(kind: str, *args: Any, **kwargs: Any) -> nn.Module:
    """Build tiny-cuda-nn's `Encoding` or `Network`.

    Raises:
        UserError: If the package is missing, or does not take the settings.
    """
    library = optional_package("tinycudann", f"'{PACKAGE}'", "tiny-cuda-nn's encoding or network")
    try:
        return getattr(library, kind)(*args, **kwargs)
    except RuntimeError as error:
        raise UserError(
            f"tiny-cuda-nn refuses {args} ({error}). Change these settings, or use plain torch: "
            "`backend: torch` beside HashGrid, `otype: VanillaMLP` for a network."
        ) from error


def grid_encoding(n_input_dims: int, settings: dict[str, Any]) -> nn.Module:
    """Build tiny-cuda-nn's hash grid, in float32.

    Args:
        n_input_dims: Dimensions of a point.
        settings: Values of tiny-cuda-nn's keys, without `otype`.
    """
    config = {"otype": "HashGrid", **settings}
    encoding = build("Encoding", n_input_dims, config, dtype=torch.float32)
    encoding.register_load_state_dict_pre_hook(refuse_other_size)
    return encoding


def refuse_other_size(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    """Refuse a checkpoint whose hash grid has another number of parameters."""
    key, own = f"{prefix}params", module.get_parameter("params").numel()
    if key in state and state[key].numel() != own:
        raise CheckpointError(
            f"The checkpoint's hash grid `{key}` has {state[key].numel()} parameters, this one has "
            f"{own}. Give the encoding the `n_levels`, `n_features_per_level`, `base_resolution`, "
            "`per_level_scale` and `log2_hashmap_size` with which the checkpoint was trained; if "
            "they are the same, tiny-cuda-nn and plain torch (`backend: torch`) size this grid "
            "differently, and it needs the one that trained it."
        )


def apply(module: nn.Module, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
    """Apply a module that may be tiny-cuda-nn's, which takes no empty batch."""
    return module(x) if len(x) else module(x.new_zeros(1, x.shape[1]))[:0]


class TCNNNetwork(nn.Module):
    """tiny-cuda-nn's FullyFusedMLP or CutlassMLP: half precision inside, float32 outside.

    `output_activation` is applied here, so that it can be any that the other networks know.
    Checkpoints of VanillaMLP, which stands in elsewhere, do not fit, nor the other way round."""

    Config = MLPConfig

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        inner = {
            "otype": config["otype"],
            "activation": cfg.activation,
            "output_activation": "None",
            "n_neurons": cfg.n_neurons,
            "n_hidden_layers": cfg.n_hidden_layers,
        }
        self.network = build("Network", dim_in, dim_out, inner)
        self.dim_out = dim_out
        self.output_activation = get_activation(cfg.output_activation)
        self.register_load_state_dict_pre_hook(_refuse_matrices)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Apply the network."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            out = apply(self.network, x.float().reshape(-1, x.shape[-1])).float()
            return self.output_activation(out).reshape(*x.shape[:-1], self.dim_out)


def _refuse_matrices(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    if any(key.startswith(f"{prefix}layers.") for key in state):
        raise CheckpointError(
            f"The checkpoint's network `{prefix}layers` was computed in plain torch; tiny-cuda-nn, "
            "which computes it here, has another layout of parameters. Set the network's `otype` "
            "to VanillaMLP."
        )
