"""The base of prompt processors: view-dependent prompts, and embeddings that are computed once and
kept on disk."""

import os
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from threestudio.models.faults import refuse
from threestudio.models.prompt_processors.cache import (
    CACHE_DIR,
    hash_prompt,
    read_embedding,
    store_embedding,
)
from threestudio.models.prompt_processors.debiasing import (
    bert_view_probabilities,
    debias_prompt,
    debiasing_faults,
)
from threestudio.models.prompt_processors.library import library_faults, resolve_prompt
from threestudio.models.prompt_processors.output import (
    PERP_NEG,
    PromptProcessorOutput,
    perp_neg_faults,
)
from threestudio.models.prompt_processors.scenes import (
    ScenePrompts,
    scene_faults,
    scene_settings,
)
from threestudio.models.prompt_processors.source import folder_faults, resolve
from threestudio.models.prompt_processors.views import (
    DirectionConfig,
    make_directions,
    shift_azimuth_deg,
)
from threestudio.utils.base import BaseObject
from threestudio.utils.errors import UserError
from threestudio.utils.logging import info
from threestudio.utils.misc import barrier, cleanup, get_rank

__all__ = [
    "CACHE_DIR",
    "DirectionConfig",
    "PromptProcessor",
    "PromptProcessorOutput",
    "hash_prompt",
    "shift_azimuth_deg",
    "store_embedding",
]


def text_faults(cfg: Any) -> list[str]:
    """List what is wrong with the settings of the texts, which need no encoder."""
    faults = scene_faults(cfg) + perp_neg_faults(cfg)
    for settings in scene_settings(cfg) if cfg.prompts else [cfg]:
        scene = OmegaConf.create(settings)
        faults += library_faults(scene.prompt) + debiasing_faults(scene)
    return faults


def blank_faults(cfg: Any) -> list[str]:
    """Say so when a text that an encoder reads is empty."""
    key, texts = ("prompts", list(cfg.prompts)) if cfg.prompts else ("prompt", [cfg.prompt])
    blank = [index for index, text in enumerate(texts) if not text.strip()]
    if not blank:
        return []
    where = f"is empty at place {blank[0]} (from 0)" if cfg.prompts else "is empty"
    return [f"`system.prompt_processor.{key}` {where}. Say what to make."]


def model_path(cfg: Any) -> str:
    """Return where a prompt processor's encoder is: a folder, or the hub id of its mirror."""
    return resolve(str(cfg.pretrained_model_name_or_path), cfg.mirrors)


class PromptProcessor(BaseObject):
    """Turn a prompt into embeddings for every view direction.

    A subclass provides `spawn_func`, which computes missing embeddings with its text encoder; it
    runs once, on rank 0, and lets go of the encoder."""

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"
        """What to make; `lib:kw1_kw2` picks an entry of the prompt library."""
        prompts: Optional[list[str]] = None
        """One prompt for each scene of a batch, in place of `prompt`."""
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
        mirrors: dict = field(default_factory=dict)
        """Hub id of a model that left the hub -> where it is now, besides those of Stable
        Diffusion."""
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
        """Leave out of each view's prompt the words that contradict the view (Hong et al. 2023)."""
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        """Masked language model that judges the words: folder of a BERT, or hub id."""
        prompt_debiasing_mask_ids: Optional[list[int]] = None
        """Positions of the words that may be left out, from 0; null for all."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration: a missing model, texts that cannot be made."""
        return folder_faults(model_path(cfg)) + text_faults(cfg) + blank_faults(cfg)

    def configure(self) -> None:
        cfg = self.cfg
        refuse(self.check(cfg))
        self.scenes = [type(self)(scene) for scene in scene_settings(cfg)] if cfg.prompts else []
        if self.scenes:
            return
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
            getattr(cfg, f"prompt_{d.name}") or d.prompt(text)
            for d, text in zip(self.directions, self.prompts_per_view(), strict=True)
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
        return resolve_prompt(prompt)

    def prompts_per_view(self) -> list[str]:
        """Return what each direction's words are added to: the prompt, debiased if that is on."""
        if not self.cfg.use_prompt_debiasing:
            return [self.prompt] * len(self.directions)
        positions = self.cfg.prompt_debiasing_mask_ids
        probabilities = bert_view_probabilities(
            self.cfg.pretrained_model_name_or_path_prompt_debiasing
        )
        texts = debias_prompt(
            self.prompt, probabilities, None if positions is None else list(positions)
        )
        named = (f"{d.name}: '{text}'" for d, text in zip(self.directions, texts, strict=True))
        info(f"Prompts after debiasing: {', '.join(named)}.")
        return texts

    def cache_path(self, prompt: str) -> str:
        """Return the file of a prompt's embedding."""
        cfg = self.cfg
        name = hash_prompt(model_path(cfg), prompt, cfg.revision, self.cache_details())
        return os.path.join(CACHE_DIR, f"{name}.pt")

    def cache_details(self) -> str:
        """Describe the settings of the encoding that change an embedding; part of its name."""
        return ""

    def prepare_text_embeddings(self) -> None:
        """Compute the embeddings that are not on disk, on rank 0."""
        if get_rank() == 0:
            texts = [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
            missing = [
                text
                for text in dict.fromkeys(texts)
                if not self.cfg.use_cache or read_embedding(self.cache_path(text)) is None
            ]
            if missing:
                self.encode_missing(missing)
                cleanup()
        barrier()

    def encode_missing(self, prompts: list[str]) -> None:
        """Compute and store embeddings."""
        self.spawn_func(model_path(self.cfg), prompts, CACHE_DIR)

    def load_from_cache(self, prompt: str) -> Float[Tensor, "S D"]:
        """Return the stored embedding of a prompt."""
        embedding = read_embedding(self.cache_path(prompt))
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

    def __call__(self) -> Union[PromptProcessorOutput, ScenePrompts]:
        """Return the embeddings and texts, of all scenes if there are several `prompts`."""
        if self.scenes:
            return ScenePrompts([scene() for scene in self.scenes])
        cfg = self.cfg
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=cfg.use_perp_neg,
            **{name: tuple(float(v) for v in getattr(cfg, name)) for name in PERP_NEG},
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )
