"""Embeddings on disk: computed once per text and encoder, then read by every later run."""

import hashlib
import os
import tempfile
from typing import Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.prompt_processors.source import fingerprint

CACHE_DIR = ".threestudio_cache/text_embeddings"


def hash_prompt(model: str, prompt: str, revision: Optional[str] = None, details: str = "") -> str:
    """Name the cache entry of a prompt.

    A changed model folder, another revision and other details get another name.

    Args:
        model: Folder or hub id.
        prompt: Text as the encoder sees it.
        revision: Revision of a hub id.
        details: Settings of the encoding that change the embedding, as text.
    """
    source = f"{fingerprint(model, revision)}{details}"
    return hashlib.md5(f"{source}-{prompt}".encode()).hexdigest()


def store_embedding(embedding: Float[Tensor, "S D"], path: str) -> None:
    """Write an embedding so that a reader never sees half a file."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        torch.save(embedding.detach().cpu().clone(), file)
    os.replace(partial, path)


def read_embedding(path: str) -> Optional[Float[Tensor, "S D"]]:
    """Read an embedding, None if there is none."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged cache entry is as good as none
        return None
