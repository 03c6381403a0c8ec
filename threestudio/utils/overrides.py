"""Overrides from the command line, `a.b.c=value`, and the suggestions that messages make."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from .errors import ConfigError

_TEXT_KEY = re.compile(r"(^|_)prompt(_(front|side|back|overhead))?$")
"""Keys whose value is a sentence: taken as typed, whatever it looks like in YAML."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` for close matches of `name`, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return " Did you mean " + " or ".join(f"`{match}`" for match in close) + "?" if close else ""


def apply_override(config: DictConfig, override: str) -> None:
    """Set `key=value` in `config`. The value is YAML; prompts are taken as typed.

    Raises:
        ConfigError: If `override` is not `key=value`.
    """
    key, separator, text = override.partition("=")
    if not separator or not re.fullmatch(r"[\w./\[\]-]+", key) or key.startswith("-"):
        raise ConfigError(
            f"'{override}' is neither a flag nor an override `key=value`. If it belongs to a value "
            'with spaces, quote the whole, e.g. "system.prompt_processor.prompt=a red cube". '
            "`--help` lists the flags."
        )
    try:
        OmegaConf.update(config, key, parse_value(key, text), merge=True, force_add=True)
    except Exception as error:
        raise ConfigError(f"'{override}' cannot be set: {str(error).splitlines()[0]}") from error


def parse_value(key: str, text: str) -> Any:
    """Read an override's value: YAML, unless it is a sentence that only looks like it."""
    if _TEXT_KEY.search(key.split(".")[-1]):
        return _parse_sentence(text)
    try:
        # OmegaConf's own loader, so that 1e-3 is a number here as it is in a file.
        value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]
    except Exception:
        return text
    is_container = isinstance(value, (dict, list))
    return text if is_container and text.lstrip()[:1] not in ("[", "{") else value


def _parse_sentence(text: str) -> Any:
    if text == "null":
        return None
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return text
        return value if isinstance(value, str) else text
    return text
