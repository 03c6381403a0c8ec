"""Mistakes that people make in YAMLs, drawn from a seed."""

import copy
import random
from typing import Any, Iterator

WRONG = ("a word", "", None, [], [1, 2], {"a": 1}, True, -1, 0, 0.5, float("nan"), 10)
"""Values that most keys do not take."""
KINDS = ("drop", "misspell", "retype")


def paths(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List the place of every key, of blocks too."""
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


def misspelt(word: str, rng: random.Random) -> str:
    """Leave out, double or exchange letters."""
    at = rng.randrange(max(len(word) - 1, 1))
    slips = (
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
    )
    return next((slip for slip in rng.sample(slips, len(slips)) if slip != word), word + "s")


def mutate(config: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    """Make one mistake.

    Returns:
        The mutated copy, and the mistake in words.
    """
    rng = random.Random(seed)
    config = copy.deepcopy(config)
    path = rng.choice(list(paths(config)))
    block = config
    for key in path[:-1]:
        block = block[key]
    kind, key, where = rng.choice(KINDS), path[-1], ".".join(path)
    if kind == "drop":
        del block[key]
        return config, f"{where} dropped"
    if kind == "misspell":
        wrong = misspelt(key, rng)
        block[wrong] = block.pop(key)
        return config, f"{where} written as {wrong}"
    value = rng.choice(WRONG)
    block[key] = value
    return config, f"{where} set to {value!r}"
