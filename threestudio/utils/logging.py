"""Log helpers on Lightning's logger, usable before torch is imported."""

import functools
import logging
import os

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")

logger = logging.getLogger("pytorch_lightning")

COLORS = {logging.DEBUG: 90, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
"""ANSI colour of each level: grey, yellow, red; information keeps the terminal's own."""


class ColorFormatter(logging.Formatter):
    """Colours a message by its level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message between ANSI codes."""
        text, color = super().format(record), COLORS.get(record.levelno)
        return text if color is None else f"\033[{color}m{text}\033[0m"


def color_logs(terminal: bool) -> None:
    """Colour what the logger prints on a terminal, unless `NO_COLOR` is set."""
    if terminal and not os.environ.get("NO_COLOR"):
        for handler in logger.handlers:
            handler.setFormatter(ColorFormatter())


def get_rank() -> int:
    """Return this process's rank from the environment, 0 for a single process."""
    for variable in _RANK_VARIABLES:
        value = os.environ.get(variable)
        if value is not None:
            return int(value)
    return 0


def debug(message: str, *args: object, **kwargs: object) -> None:
    """Log on rank 0, shown with `--verbose`."""
    _log(logging.DEBUG, message, *args, **kwargs)


def info(message: str, *args: object, **kwargs: object) -> None:
    """Log on rank 0."""
    _log(logging.INFO, message, *args, **kwargs)


def warn(message: str, *args: object, **kwargs: object) -> None:
    """Log a warning on rank 0."""
    _log(logging.WARNING, message, *args, **kwargs)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning on rank 0 the first time that this message comes."""
    warn(message)


def _log(level: int, message: str, *args: object, **kwargs: object) -> None:
    if get_rank() == 0:
        logger.log(level, message, *args, **kwargs)
