"""Frozen networks from folders of diffusers and transformers: complete, in their number type."""

from typing import Any, Collection, Dict, Iterable, List

import torch

from .errors import UserError

HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Values of `half_precision_type`."""

HALF_DEVICES = ("cuda",)
"""Kinds of device that compute in half precision if asked for; others are single."""

NAMES_SHOWN = 4
"""Tensor names that a message lists before it only counts."""

BUFFERS = ("position_ids",)
"""Ends of names that are in some published files and not in others: numbers that the classes make
themselves."""


def number_type(device: Any, cfg: Any) -> torch.dtype:
    """Return the type of a component's frozen networks.

    Args:
        device: Where they go, see `HALF_DEVICES`.
        cfg: Settings with `half_precision_weights` and `half_precision_type`.
    """
    half = cfg.half_precision_weights and torch.device(device).type in HALF_DEVICES
    return HALF_TYPES[cfg.half_precision_type] if half else torch.float32


def number_type_faults(cfg: Any, block: str) -> List[str]:
    """Say so if a component at `block` of the YAML asks for a type that does not exist."""
    if cfg.half_precision_type in HALF_TYPES:
        return []
    return [
        f"`{block}.half_precision_type` is '{cfg.half_precision_type}', but must be "
        f"{' or '.join(HALF_TYPES)}. For single precision set `{block}.half_precision_weights: "
        "false`."
    ]


def load_network(cls: Any, path: str, key: str, **options: Any) -> Any:
    """Call `from_pretrained`, and make sure that the file has all tensors of the class, no others.

    Both libraries only warn: a missing tensor would be random or have no memory at all.

    Args:
        cls: A model class of diffusers or transformers.
        path: Local folder or hub id, the value of `key`.
        key: The YAML key, for the message.
        options: Further arguments of `from_pretrained`.

    Raises:
        UserError: The weights are those of another network, or incomplete.
    """
    model, info = cls.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    names = {
        "missing": _without_buffers(info["missing_keys"]),
        "unexpected": _without_buffers(info["unexpected_keys"]),
        "of another shape": [name for name, *_ in info["mismatched_keys"]],
    }
    differences = differing(names)
    if differences:
        place = f"'{path}'" + (f" (`{options['subfolder']}`)" if "subfolder" in options else "")
        raise UserError(
            f"`{key}` is {place}, but its weights are not those of the {cls.__name__} that its "
            f"config.json describes: {differences}. Download the model again, or give one of the "
            "right kind."
        )
    return model


def _without_buffers(names: Iterable[str]) -> List[str]:
    return [name for name in names if not name.endswith(BUFFERS)]


def differing(names: Dict[str, Collection[str]]) -> str:
    """Say what is wrong with which tensors, "missing a, b; unexpected c"; "" for none."""
    return "; ".join(f"{what} {listed(sorted(some))}" for what, some in names.items() if some)


def listed(names: List[str]) -> str:
    """Join the first few names, and count the rest."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
