"""The prompt library: `prompt: lib:kw1_kw2` stands for the one entry with all these keywords."""

import json
import os
import re
from difflib import SequenceMatcher
from pathlib import Path

from threestudio.utils.errors import ConfigError

LIBRARY = "load/prompt_library.json"
"""Lists of prompts by name, `{"objects": [...], ...}`; all lists are searched."""
PREFIX = "lib:"
SHOWN = 5
"""Entries that a message lists."""


def library_prompt(keywords: str) -> str:
    """Find the one entry of the prompt library that contains all keywords, given as `kw1_kw2`.

    A keyword matches anywhere in an entry, also inside a word; case does not matter.

    Raises:
        ConfigError: If none or several match, with entries that come close.
    """
    named = f"`system.prompt_processor.prompt` is '{PREFIX}{keywords}'"
    if not os.path.isfile(LIBRARY):
        raise ConfigError(
            f"{named}, but there is no {LIBRARY} in {Path.cwd()}. Start in the repository's root, "
            "or write the prompt itself."
        )
    entries = _entries()
    words = keywords.lower().split("_")
    found = [entry for entry in entries if all(word in entry.lower() for word in words)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{named}, which matches {len(found)} entries of {LIBRARY}: "
            f"{'; '.join(found[:SHOWN])}{'; ...' if len(found) > SHOWN else ''}. Add keywords "
            "until one is left."
        )
    raise ConfigError(
        f"{named}, which matches no entry of {LIBRARY}. The closest are: "
        f"{'; '.join(closest_entries(words, entries))}. Use other keywords, or write the prompt "
        "itself."
    )


def library_faults(prompt: str) -> list[str]:
    """Say why a `lib:` prompt cannot be resolved; nothing for other prompts."""
    try:
        resolve_prompt(prompt)
    except ConfigError as error:
        return [str(error)]
    return []


def resolve_prompt(prompt: str) -> str:
    """Replace a `lib:` prompt by its entry, and leave others as they are."""
    return library_prompt(prompt[len(PREFIX) :]) if prompt.startswith(PREFIX) else prompt


def closest_entries(words: list[str], entries: list[str], count: int = 3) -> list[str]:
    """Return the entries whose words are most like the given ones, the closest first."""

    def likeness(entry: str) -> float:
        parts = re.findall(r"\w+", entry.lower())
        best = (max((_ratio(word, part) for part in parts), default=0.0) for word in words)
        return sum(best)

    return sorted(entries, key=likeness, reverse=True)[:count]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def _entries() -> list[str]:
    """Read all lists; an entry that is in two of them counts once."""
    try:
        lists = json.loads(Path(LIBRARY).read_text(encoding="utf-8")).values()
        return list(dict.fromkeys(str(entry) for entries in lists for entry in entries))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"The prompt library {LIBRARY} cannot be read: {error}. It needs lists of prompts by "
            'name, {"objects": ["a prompt", ...]}; `git checkout ' + LIBRARY + "` restores it."
        ) from error
