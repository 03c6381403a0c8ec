"""The length of prompts in tokens."""

from typing import Any

from threestudio.utils.logging import warn


def warn_if_cut(tokenizer: Any, prompts: list[str], length: int) -> None:
    """Report prompts that have more than `length` tokens: the encoder does not see their end."""
    for prompt in prompts:
        count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
        if count > length:
            warn(
                f"A prompt has {count} tokens, but the text encoder reads {length}: the end is "
                f"ignored ('{prompt[:40]}...'). Shorten `system.prompt_processor.prompt` to "
                "silence this."
            )
