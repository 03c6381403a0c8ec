"""`dummy-prompt-processor`: for guidances that read no text."""

from dataclasses import dataclass
from typing import Any

import torch

from threestudio.models.prompt_processors.base import PromptProcessor, text_faults
from threestudio.registry import register


@register("dummy-prompt-processor")
class DummyPromptProcessor(PromptProcessor):
    """Hand on embeddings of no tokens, [1 0 0], without an encoder.

    For guidances that are conditioned on something else, such as a picture: a system always has a
    prompt processor. The texts are there as with any other, so a reward may still read a `prompt`.
    Upstream registers the name too, but cannot construct it."""

    @dataclass
    class Config(PromptProcessor.Config):
        prompt: str = ""
        """Usually empty; only what reads texts sees it."""
        pretrained_model_name_or_path: str = ""
        """Accepted for upstream's YAMLs; nothing is loaded."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with the texts; there is no model to miss."""
        return text_faults(cfg)

    def prepare_text_embeddings(self) -> None:
        """Leave the disk alone: there is nothing to compute."""

    def load_text_embeddings(self) -> None:
        """Set embeddings of no tokens."""
        views = len(self.directions)
        self.text_embeddings = torch.zeros(1, 0, 0, device=self.device)
        self.uncond_text_embeddings = torch.zeros(1, 0, 0, device=self.device)
        self.text_embeddings_vd = torch.zeros(views, 0, 0, device=self.device)
        self.uncond_text_embeddings_vd = torch.zeros(views, 0, 0, device=self.device)
