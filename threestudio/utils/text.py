"""Text that ends up in file names."""

import hashlib
import re
import unicodedata

MAX_CHARS = 80
"""Longest slug, before the digest of a shortened one."""
MAX_BYTES = 160
"""Longest slug in UTF-8; file systems allow 255 for a name, and a timestamp or suffix follows."""


def slug(text: str, default: str = "untitled", keep: str = "") -> str:
    """Turn any text into one safe file name; harmless text stays as it is.

    Slashes, quotes, control characters and the like become `_`, leading dots and dashes go, and a
    long text is cut and marked with a digest, so that two long prompts with one beginning keep two
    names.

    Args:
        text: Any text, such as a prompt.
        default: Returned when nothing is left.
        keep: Characters to leave alone that would be replaced, e.g. `"/"`.
    """
    text = unicodedata.normalize("NFC", str(text))
    safe = "".join(
        c if c in keep or c.isalnum() or c in "_-.,+=@()" or _is_symbol(c) else "_" for c in text
    )
    safe = re.sub(r"\.{2,}", ".", re.sub(r"_{3,}", "__", safe)).strip("/")
    safe = safe.lstrip(".-").rstrip(".")
    if len(safe) > MAX_CHARS or len(safe.encode()) > MAX_BYTES:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        short = safe[:MAX_CHARS].encode()[:MAX_BYTES].decode(errors="ignore")
        safe = f"{short}-{digest}"
    return safe or default


def _is_symbol(char: str) -> bool:
    """Tell whether a character is an emoji, a skin tone or a combining mark."""
    return unicodedata.category(char) in ("So", "Sk", "Mn", "Mc")
