"""Prompt debiasing: a word that contradicts a view is left out of that view's prompt.

From Hong, Ahn and Kim 2023, "Debiasing scores and prompts of 2D diffusion for view-consistent
text-to-3D generation" (arXiv 2303.15413): "smiling" goes against "back view", and the conflict
makes faces on all sides. A masked language model tells which words do.
"""

from pathlib import Path
from typing import Any, Callable, Optional

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.models.prompt_processors.library import library_faults, resolve_prompt
from threestudio.models.prompt_processors.source import is_local, resolve
from threestudio.models.prompt_processors.views import NAMES
from threestudio.utils.errors import UserError

TEMPLATE = "This image is depicting a {mask} view of {prompt}"
THRESHOLD = 0.95
"""A word with a lower ratio `P(view | word) / P(view)` contradicts the view."""
RENAMED = {"bert-base-uncased": "google-bert/bert-base-uncased"}
"""Hub ids from before they had an owner."""
EXAMPLE = "google-bert/bert-base-uncased"

ViewProbabilities = Callable[[str], Float[Tensor, " 4"]]
"""Gives the probabilities of the views, in the order of `views.NAMES`, for a prompt."""


def contradicts(
    with_word: Float[Tensor, " 4"], without_word: Float[Tensor, " 4"]
) -> Bool[Tensor, " 4"]:
    """Tell which views a word contradicts.

    With a fair coin for whether the prompt has the word, P(view) is the mean of both cases, and
    the log of `P(view | word) / P(view)` is the pointwise mutual information of the two.

    Args:
        with_word: Probabilities of the views for the whole prompt.
        without_word: The same for the prompt without the word.
    """
    return with_word / torch.lerp(without_word, with_word, 0.5) < THRESHOLD


def debias_prompt(
    prompt: str, view_probabilities: ViewProbabilities, positions: Optional[list[int]] = None
) -> list[str]:
    """Return the prompt of each view, in the order of `views.NAMES`, without contradicting words.

    Each word is judged against the whole prompt, whatever is done with the others. A view that
    would lose all words keeps them.

    Args:
        prompt: Words with spaces between them.
        view_probabilities: The language model.
        positions: Which words may go, from 0; None for all.
    """
    words = prompt.split()
    with_word = view_probabilities(" ".join(words))
    removed = [set() for _ in NAMES]
    for position in range(len(words)) if positions is None else positions:
        without = " ".join(words[:position] + words[position + 1 :])
        gone = contradicts(with_word, view_probabilities(without))
        for view in gone.nonzero().flatten().tolist():
            removed[view].add(position)
    kept = [[word for i, word in enumerate(words) if i not in gone] for gone in removed]
    return [" ".join(rest) or prompt for rest in kept]


def bert_view_probabilities(path: str) -> ViewProbabilities:
    """Load a masked language model, and return its opinion on the view of an image.

    The probabilities are those of the four words at the mask, given that it is one of the four.

    Raises:
        UserError: If the model is not there, or lacks one of the words.
    """
    tokenizer, model = load_language_model(path)
    missing = [name for name in NAMES if name not in tokenizer.get_vocab()]
    if missing:
        raise UserError(
            f"The language model '{path}' has no word '{missing[0]}' in its vocabulary, so it "
            "cannot judge views. Give an English BERT with lower-case words, such as "
            f"{EXAMPLE}, as "
            "`system.prompt_processor.pretrained_model_name_or_path_prompt_debiasing`."
        )
    views = tokenizer.convert_tokens_to_ids(list(NAMES))

    @torch.no_grad()
    def view_probabilities(prompt: str) -> Float[Tensor, " 4"]:
        tokens = tokenizer(
            TEMPLATE.format(mask=tokenizer.mask_token, prompt=prompt),
            truncation=True,
            max_length=model.config.max_position_embeddings,
            return_tensors="pt",
        )
        # The first mask: a prompt may contain the same letters.
        place = (tokens.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
        return model(**tokens).logits[0, place, views].float().softmax(dim=-1)

    return view_probabilities


def load_language_model(path: str) -> tuple[Any, Any]:
    """Load tokenizer and masked language model from a folder or the hub.

    The model stays on the CPU: it reads a dozen short sentences, and all ranks must agree.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    source = resolve(_current_name(path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        fetch = (
            "It must be a transformers folder of a masked language model"
            if is_local(_current_name(path))
            else f"On a machine with a network run `hf download {source}`, then give the folder or "
            "the same id"
        )
        raise UserError(
            f"The language model '{path}' of the prompt debiasing cannot be loaded: {error}. "
            f"{fetch} (`system.prompt_processor.pretrained_model_name_or_path_prompt_debiasing`), "
            "or set `system.prompt_processor.use_prompt_debiasing: false`."
        ) from error
    return tokenizer, model.eval().requires_grad_(False)


def debiasing_faults(cfg: Any) -> list[str]:
    """List what is wrong with the debiasing's settings in a prompt processor's block."""
    if not cfg.use_prompt_debiasing:
        return []
    faults = _model_faults(str(cfg.pretrained_model_name_or_path_prompt_debiasing))
    given = [key for key in ("prompt_side", "prompt_back", "prompt_overhead") if getattr(cfg, key)]
    if given:
        keys = " and ".join(f"`{key}`" for key in given)
        faults.append(
            "`system.prompt_processor.use_prompt_debiasing` writes the prompts of the views, but "
            f"{keys} would replace them. Remove {keys}, or set `use_prompt_debiasing: false`."
        )
    if cfg.prompt_debiasing_mask_ids is None or library_faults(cfg.prompt):
        return faults
    count = len(resolve_prompt(cfg.prompt).split())
    outside = [i for i in cfg.prompt_debiasing_mask_ids if not 0 <= i < count]
    if outside:
        faults.append(
            f"`system.prompt_processor.prompt_debiasing_mask_ids` contains {outside[0]}, but the "
            f"prompt has {count} words, counted from 0. Give numbers from 0 to {count - 1}, or "
            "null for all words."
        )
    return faults


def _model_faults(path: str) -> list[str]:
    folder = Path(resolve(_current_name(path)))
    if not is_local(_current_name(path)) or (folder / "config.json").is_file():
        return []
    return [
        "`system.prompt_processor.pretrained_model_name_or_path_prompt_debiasing` is "
        f"'{path}', but there is no such folder with a config.json in it (looked in {Path.cwd()}). "
        f"Give the folder of a BERT, or a hub id such as {EXAMPLE}: `hf download {EXAMPLE}` "
        "fetches it."
    ]


def _current_name(path: str) -> str:
    return path if Path(path).exists() else RENAMED.get(path, path)
