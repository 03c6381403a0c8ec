"""Prompts that an objective has besides those of the system, and the processor that encodes them.

The objective's block repeats that of the system's prompt processor; only the texts are replaced:

    prompt_processor_type: ${system.prompt_processor_type}
    prompt_processor: ${system.prompt_processor}
"""

from typing import Any, Callable, Dict, List

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio

HOW = (
    "Add `prompt_processor_type: ${system.prompt_processor_type}` and "
    "`prompt_processor: ${system.prompt_processor}` to `system.guidance`."
)


def text_faults(cfg: Any) -> List[str]:
    """Say what is missing to encode further prompts."""
    if cfg.prompt_processor_type not in threestudio.__modules__:
        return [
            f"`system.guidance.prompt_processor_type` is '{cfg.prompt_processor_type}', which does "
            f"not exist, but this objective encodes prompts of its own. {HOW}"
        ]
    if not targets(cfg):
        return [f"`system.guidance.prompt_processor` has no prompt. {HOW}"]
    return []


def targets(cfg: Any) -> List[str]:
    """Return the prompts of the system: one for all scenes, or one for each."""
    block = cfg.prompt_processor
    if block.get("prompts"):
        return list(block["prompts"])
    return [block["prompt"]] if block.get("prompt") else []


def encode(cfg: Any, texts: List[str]) -> Any:
    """Return the prompt processor's output for other prompts, one or as many as scenes."""
    block: Dict[str, Any] = {**cfg.prompt_processor, "prompt": texts[0]}
    block.pop("prompts", None)
    if len(texts) > 1:
        block["prompts"] = texts
    return threestudio.find(cfg.prompt_processor_type)(block)()


class PromptPair:
    """Prompt processor output whose negative prompt is another prompt, with its view."""

    use_perp_neg = False

    def __init__(self, positive: Any, negative: Any):
        self.positive, self.negative = positive, negative

    def get_text_embeddings(
        self, elevation: Float[Tensor, " B"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "M S D"]:
        """Return B embeddings of the positive prompt, then B of the negative one."""
        ask: Callable[..., Tensor]
        rows = []
        for ask in (self.positive.get_text_embeddings, self.negative.get_text_embeddings):
            rows.append(ask(elevation, *args, **kwargs)[: len(elevation)])
        return torch.cat(rows)
