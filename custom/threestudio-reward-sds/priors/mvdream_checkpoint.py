"""Original MVDream checkpoints: how to get them, what is in them, loading.

`MVDream/MVDream` on the hub has two, grown from Stable Diffusion 2.1 base and 1.5. A file is read
without running code it may contain, and mapped into memory rather than copied where its format
allows it, so that the text encoder of a file that the prior loads is never read.
"""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, List, Optional, Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import UserError, refuse
from ..model_folders import hub_file
from .folder import LatentDiffusion, freeze_unet, freeze_vae
from .mvdream_parts import build_scheduler, build_unet, build_vae
from .mvdream_sizes import CAMERA, TEXT, UNET, VAE, StateDict, part

HUB_ID = "MVDream/MVDream"
PUBLISHED = ("sd-v2.1-base-4view", "sd-v1.5-4view")
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
DAMAGE = (pickle.UnpicklingError, EOFError, RuntimeError, SafetensorError)
"""What the readers raise on files that are cut off, something else, or contain code."""
FETCHED = "models/mvdream"
"""Folder that the messages suggest."""
PARTS = {UNET: "UNet", VAE: "autoencoder", TEXT: "text encoder"}


def fetch_command(wanted: str = "") -> str:
    """Return the shell command that fetches the published checkpoint that `wanted` names (5 GB).

    Args:
        wanted: Name or path; one without a published name means the first.
    """
    name = next((name for name in PUBLISHED if name in wanted), PUBLISHED[0])
    return f"`hf download {HUB_ID} {name}.pt --local-dir {FETCHED}`"


def cached_checkpoint(name: str) -> Optional[str]:
    """Return a published checkpoint's file in the local hub cache, or None."""
    return hub_file(HUB_ID, f"{name}.pt")


def is_checkpoint(path: str) -> bool:
    """Whether `path` means a checkpoint file rather than a folder or hub id."""
    return path.endswith(SUFFIXES) or Path(path).expanduser().is_file()


def read_checkpoint(path: str) -> StateDict:
    """Read the state dict of a checkpoint: the file's top level, or what it has as `state_dict`.

    Raises:
        UserError: No such file, damaged, or not a state dict of tensors.
    """
    file = os.path.expanduser(path)
    if not Path(file).is_file():
        raise UserError(
            f"There is no file '{path}' (looked in {Path.cwd()}). The original checkpoint is "
            f"fetched with {fetch_command(path)}."
        )
    try:
        state = _read(file)
    except DAMAGE as error:
        raise UserError(_unreadable(path)) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"The file '{path}' holds no state dict. The original checkpoint is fetched with "
            f"{fetch_command()}."
        )
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _read(file: str) -> Any:
    """Read a file; only files of the old torch format (before 1.6) go into memory as a whole."""
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)


def _unreadable(path: str) -> str:
    """Explain a file that cannot be read: a whole archive was refused for what it contains."""
    if zipfile.is_zipfile(os.path.expanduser(path)):
        return (
            f"The checkpoint '{path}' was not loaded: besides tensors it contains Python objects, "
            "and loading those may run any code. Use the published file, fetched with "
            f"{fetch_command(path)}, or save the state dict alone."
        )
    return (
        f"The file '{path}' is damaged, or no checkpoint. Copy it again, or fetch it with "
        f"{fetch_command(path)}."
    )


def contents_faults(
    state: StateDict, subject: str, needed: Sequence[str] = (UNET, VAE)
) -> List[str]:
    """Say which parts a checkpoint lacks.

    Args:
        state: Its tensors.
        subject: Beginning of the sentences, e.g. "The file 'x.pt'".
        needed: Prefixes of the parts that must be there.
    """
    lacking = [f"{PARTS[p]} (`{p}`)" for p in needed if not part(state, p)]
    if lacking:
        return [
            f"{subject} has no {' and no '.join(lacking)}: it is not an original checkpoint of "
            f"MVDream. That one is fetched with {fetch_command()}."
        ]
    if not part(state, CAMERA):
        return [
            f"{subject} has no camera embedding (`{CAMERA}`): it is a single-view model. Use "
            '`prior_type: "stable-diffusion-prior"` and a diffusers folder for it, or the '
            f"multi-view checkpoint, fetched with {fetch_command()}."
        ]
    return []


def checkpoint_faults(path: str, key: str) -> List[str]:
    """Say why a file cannot be loaded, from its table of contents; `key` is the YAML's."""
    try:
        state = read_checkpoint(path)
    except UserError as error:
        return [f"`{key}`: {error}"]
    return contents_faults(state, f"`{key}` is '{path}', but that file")


def load_checkpoint(path: str, device: Any, dtype: torch.dtype) -> LatentDiffusion:
    """Load UNet, VAE and noise schedule from an original checkpoint, frozen.

    Args:
        path: The file.
        device: Where the networks go.
        dtype: Their number type.

    Raises:
        UserError: The file is not one, or not of this architecture.
    """
    state = read_checkpoint(path)
    refuse(contents_faults(state, f"The file '{path}'"))
    networks = {n: tensor.to(dtype) for n, tensor in state.items() if n.startswith((UNET, VAE))}
    model = freeze_unet(build_unet(networks), build_scheduler(), device)
    return freeze_vae(model, build_vae(networks), device)
