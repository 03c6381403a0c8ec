"""Weights in one plain file, as published beside a paper: found, verified, read without code.

Settings that name such a file come in pairs, `<name>_path` and `<name>_sha256`.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor

from ..errors import UserError
from ..model_folders import fetching, folder_faults, is_local, loading, resolve
from ..networks import differing


@dataclass(frozen=True)
class PublishedFile:
    """A weights file of a hub model: its setting names it, the folder it is in, or a hub id."""

    hub_id: str
    """The model that was published."""
    name: str
    key: str
    """The YAML key of the setting, for messages."""
    beside: Tuple[str, ...] = ()
    """Other files of the model that are read where they are there."""

    @property
    def parts(self) -> str:
        """The files, for the command that fetches them."""
        return " ".join([self.name, *self.beside])

    def local(self, path: str) -> Optional[Path]:
        """Return the file that a local path means; None for a hub id."""
        if not is_local(path) and not path.endswith(".pt"):
            return None
        file = Path(path).expanduser()
        return file if file.is_file() or file.suffix == ".pt" else file / self.name

    def faults(self, path: str) -> List[str]:
        """Say why there is no such file, without loading it or touching the network."""
        file, source = self.local(path), fetching(self.hub_id, self.parts)
        if file is None:
            return folder_faults(path, (self.name,), self.key, source, self.parts)
        if file.is_file():
            return []
        return [
            f"`{self.key}` is '{path}', but there is no file '{file}' (looked in {Path.cwd()}). "
            f"{source}, and set `{self.key}` to its folder or {self.name} in it; or give a hub id "
            "(owner/name)."
        ]

    def find(self, path: str) -> Path:
        """Return the file; that of a hub id is fetched, with the others beside it.

        Raises:
            UserError: It cannot be fetched.
        """
        file = self.local(path)
        if file is None:
            from huggingface_hub import hf_hub_download

            with loading(resolve(path), self.name, self.key, self.parts):
                for name in self.beside:
                    hf_hub_download(resolve(path), name)
                file = Path(hf_hub_download(resolve(path), self.name))
        return file


def sha256_key(key: str) -> str:
    """Name the setting that holds the checksum of the file named by `key`."""
    return key.removesuffix("path") + "sha256"


def file_faults(path: str, sha256: str, key: str, source: str) -> List[str]:
    """Say why a weights file cannot be read, without reading it.

    Args:
        path: The file, the value of `key`; "~" is expanded.
        sha256: Its checksum, "" for none.
        key: The YAML key of the path, ending in "path", for the message.
        source: How to get the file, a sentence without its full stop.
    """
    faults = []
    if not path:
        faults.append(f"`{key}` is not set. {source}, and set `{key}` to its place.")
    elif not Path(path).expanduser().is_file():
        faults.append(
            f"`{key}` is '{path}', but there is no such file (looked in {Path.cwd()}). {source}, "
            f"and set `{key}` to its place."
        )
    return faults + checksum_faults(sha256, sha256_key(key))


def checksum_faults(sha256: str, key: str) -> List[str]:
    """Say so if the value of `key` is no checksum and not empty."""
    if not sha256 or re.fullmatch("[0-9a-fA-F]{64}", sha256):
        return []
    return [
        f"`{key}` is '{sha256}', but a SHA-256 checksum has 64 hexadecimal digits. Take what "
        '`sha256sum` prints for a file you trust, or "" for no test.'
    ]


def load_state(path: str, sha256: str, key: str) -> Dict[str, Tensor]:
    """Read the tensors of a weights file, onto the CPU and without running code from it.

    A checkpoint of a training keeps them under `state_dict`; that is opened.

    Args:
        path: The file, the value of `key`; "~" is expanded.
        sha256: Checksum that the file must have; "" for any.
        key: The YAML key of the path, ending in "path", for messages.

    Raises:
        UserError: The checksum is another, or the file holds anything but tensors by name.
    """
    file = os.path.expanduser(path)
    if sha256:
        verify(file, sha256, key, sha256_key(key))
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail in any way
        raise UserError(
            f"The weights '{path}' cannot be read: {type(error).__name__}: {error} The file is "
            f"damaged, or holds more than tensors. Download it again, and set `{key}` to it."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(
            f"The weights '{path}' are not a dictionary of tensors, so `{key}` names another kind "
            "of file. Set it to the published weights."
        )
    return state


def verify(file: str, sha256: str, key: str, checksum_key: str) -> None:
    """Compare the SHA-256 checksum of a file with the one that is expected.

    Args:
        file: The file.
        sha256: Its checksum.
        key: The YAML key of the file, for the message.
        checksum_key: The YAML key of the checksum.

    Raises:
        UserError: They differ.
    """
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    found = digest.hexdigest()
    if found != sha256.lower():
        raise UserError(
            f"The weights '{file}' have the SHA-256 checksum {found}, but `{checksum_key}` is "
            f"{sha256}. The file is damaged or another one: download it again, set `{key}` to the "
            f"right file, or correct `{checksum_key}`."
        )


def name_differences(found: Iterable[str], expected: Iterable[str]) -> str:
    """Say which tensors are missing and which are not expected; "" if there are none."""
    found, expected = set(found), set(expected)
    return differing({"missing": expected - found, "unexpected": found - expected})
