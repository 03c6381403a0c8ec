"""The length of prompts in tokens."""

from typing import Any

from threestudio.utils.logging import warn

SHOWN = 40
"""Characters of a prompt that a warning shows."""


def warn_if_cut(tokenizer: Any, prompts: list[str], length: int) -> None:
    """Report prompts that have more than `length` tokens: the encoder does not see their end.

    Of prompts that begin alike, a prompt and what it is for the views, the first is reported.
    """
    reported: tuple[str, ...] = ()
    for prompt in prompts:
        count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
        if count > length and not prompt.startswith(reported):
            reported += (prompt[:SHOWN],)
            warn(
                f"A prompt has {count} tokens, but the text encoder reads {length}: the end is "
                f"ignored ('{prompt[:SHOWN]}...'). Shorten `system.prompt_processor.prompt` to "
                "silence this."
            )
