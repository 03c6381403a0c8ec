"""The base of prompt processors: view-dependent prompts, and embeddings that are computed once and
kept on disk."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import refuse
from threestudio.models.prompt_processors.output import PromptProcessorOutput
from threestudio.models.prompt_processors.source import fingerprint, folder_faults
from threestudio.models.prompt_processors.views import (
    DirectionConfig,
    make_directions,
    shift_azimuth_deg,
)
from threestudio.utils.base import BaseObject
from threestudio.utils.errors import ConfigError, UserError
from threestudio.utils.misc import barrier, cleanup, get_rank

__all__ = [
    "DirectionConfig",
    "PromptProcessor",
    "PromptProcessorOutput",
    "hash_prompt",
    "shift_azimuth_deg",
    "store_embedding",
]

CACHE_DIR = ".threestudio_cache/text_embeddings"
LIBRARY = "load/prompt_library.json"


def hash_prompt(model: str, prompt: str, revision: Optional[str] = None) -> str:
    """Name the cache entry of a prompt; a changed model folder or another revision gets another
    name."""
    return hashlib.md5(f"{fingerprint(model, revision)}-{prompt}".encode()).hexdigest()


def store_embedding(embedding: Float[Tensor, "S D"], path: str) -> None:
    """Write an embedding so that a reader never sees half a file."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        torch.save(embedding.detach().cpu().clone(), file)
    os.replace(partial, path)


def library_prompt(keywords: str) -> str:
    """Find the one entry of the prompt library that contains all keywords, given as `kw1_kw2`."""
    if not os.path.isfile(LIBRARY):
        raise ConfigError(
            f"`prompt: lib:{keywords}` needs the prompt library, but there is no {LIBRARY}. "
            "Write the prompt itself."
        )
    entries = json.loads(Path(LIBRARY).read_text(encoding="utf-8"))["dreamfusion"]
    words = keywords.lower().split("_")
    found = [entry for entry in entries if all(word in entry.lower() for word in words)]
    if len(found) != 1:
        raise ConfigError(
            f"`prompt: lib:{keywords}` must match one entry of {LIBRARY}, but matches {len(found)}"
            + (f": {'; '.join(found[:5])}. Add keywords." if found else ". Use other keywords.")
        )
    return found[0]


class PromptProcessor(BaseObject):
    """Turn a prompt into embeddings for every view direction.

    A subclass provides `spawn_func`, which computes missing embeddings with its text encoder; it
    runs once, on rank 0, and lets go of the encoder."""

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"
        """What to make; `lib:kw1_kw2` picks an entry of the prompt library."""
        prompt_front: Optional[str] = None
        """Replaces the whole prompt for the front view; the same for the three below."""
        prompt_side: Optional[str] = None
        """Whole prompt of the side views, in place of the suffix form."""
        prompt_back: Optional[str] = None
        """Whole prompt of the back views."""
        prompt_overhead: Optional[str] = None
        """Whole prompt of the views from above."""
        negative_prompt: str = ""
        """What to avoid; the same for all views."""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        """Folder with `text_encoder` and `tokenizer`, or hub id; models that left the hub load from
        their mirror."""
        revision: Optional[str] = None
        """Revision of a hub id."""
        overhead_threshold: float = 60.0
        """Elevation above which a camera is overhead, degrees."""
        front_threshold: float = 45.0
        """Absolute azimuth below which a camera is in front, degrees."""
        back_threshold: float = 45.0
        """Distance from azimuth 180 below which a camera is behind, degrees."""
        view_dependent_prompt_front: bool = False
        """Write "front view of ..." instead of "..., front view"."""
        use_cache: bool = True
        """Whether embeddings found on disk are used."""
        spawn: bool = True
        """Accepted for upstream's YAMLs; the encoder always runs in this process and is freed
        afterwards."""
        use_perp_neg: bool = False
        """Whether guidances shall use Perp-Neg."""
        perp_neg_f_sb: Any = (1, 0.5, -0.606)
        """`(a, b, c)` of `a exp(-b r) + c`: weight of the side between side and back."""
        perp_neg_f_fsb: Any = (1, 0.5, 0.967)
        """Weight of the front between side and back."""
        perp_neg_f_fs: Any = (4, 0.5, -2.426)
        """Weight of the front between front and side."""
        perp_neg_f_sf: Any = (4, 0.5, -2.426)
        """Weight of the side between front and side."""
        use_prompt_debiasing: bool = False
        """Not available here; must be false."""
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        """Kept for upstream's YAMLs: language model of the debiasing."""
        prompt_debiasing_mask_ids: Optional[list[int]] = None
        """Kept for upstream's YAMLs: positions of the words that may be debiased."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration: unsupported settings, a missing model folder."""
        faults = folder_faults(str(cfg.pretrained_model_name_or_path))
        if cfg.use_prompt_debiasing:
            faults.append(
                "`system.prompt_processor.use_prompt_debiasing` is not available. Set it to false, "
                "or write the prompts of the views yourself (`prompt_front`, `prompt_side`, "
                "`prompt_back`)."
            )
        return faults

    def configure(self) -> None:
        cfg = self.cfg
        refuse(self.check(cfg))
        self.directions = make_directions(
            cfg.front_threshold,
            cfg.back_threshold,
            cfg.overhead_threshold,
            cfg.view_dependent_prompt_front,
        )
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        self.prompt = self.preprocess_prompt(cfg.prompt)
        self.negative_prompt = cfg.negative_prompt
        self.prompts_vd = [
            getattr(cfg, f"prompt_{d.name}") or d.prompt(self.prompt) for d in self.directions
        ]
        self.negative_prompts_vd = [
            d.negative_prompt(self.negative_prompt) for d in self.directions
        ]
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        """Write the embedding [S D] of each prompt to `cache_dir/<hash_prompt(model,
        prompt)>.pt`."""
        raise NotImplementedError

    def preprocess_prompt(self, prompt: str) -> str:
        """Resolve `lib:` prompts."""
        return library_prompt(prompt[4:]) if prompt.startswith("lib:") else prompt

    def cache_path(self, prompt: str) -> str:
        """Return the file of a prompt's embedding."""
        name = hash_prompt(self.cfg.pretrained_model_name_or_path, prompt, self.cfg.revision)
        return os.path.join(CACHE_DIR, f"{name}.pt")

    def prepare_text_embeddings(self) -> None:
        """Compute the embeddings that are not on disk, on rank 0."""
        if get_rank() == 0:
            texts = [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
            missing = [
                text
                for text in dict.fromkeys(texts)
                if not self.cfg.use_cache or self._read(text) is None
            ]
            if missing:
                self.encode_missing(missing)
                cleanup()
        barrier()

    def encode_missing(self, prompts: list[str]) -> None:
        """Compute and store embeddings."""
        self.spawn_func(self.cfg.pretrained_model_name_or_path, prompts, CACHE_DIR)

    def _read(self, prompt: str) -> Optional[Tensor]:
        try:
            return torch.load(self.cache_path(prompt), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # a damaged cache entry is as good as none
            return None

    def load_from_cache(self, prompt: str) -> Float[Tensor, "S D"]:
        """Return the stored embedding of a prompt."""
        embedding = self._read(prompt)
        if embedding is None:
            raise UserError(
                f"The text embedding {self.cache_path(prompt)} was not written. Delete "
                f"{CACHE_DIR} and start again; if that does not help, the disk may be full or "
                "read-only."
            )
        return embedding.to(self.device)

    def load_text_embeddings(self) -> None:
        """Read all embeddings from disk."""
        self.text_embeddings = self.load_from_cache(self.prompt)[None]
        self.uncond_text_embeddings = self.load_from_cache(self.negative_prompt)[None]
        self.text_embeddings_vd = torch.stack([self.load_from_cache(p) for p in self.prompts_vd])
        self.uncond_text_embeddings_vd = torch.stack(
            [self.load_from_cache(p) for p in self.negative_prompts_vd]
        )

    def __call__(self) -> PromptProcessorOutput:
        """Return the embeddings and texts."""
        cfg = self.cfg
        names = ("perp_neg_f_sb", "perp_neg_f_fsb", "perp_neg_f_fs", "perp_neg_f_sf")
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=cfg.use_perp_neg,
            **{name: tuple(float(v) for v in getattr(cfg, name)) for name in names},
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )
