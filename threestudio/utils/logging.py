"""Log helpers on Lightning's logger, usable before torch is imported."""

import functools
import logging
import os

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")

logger = logging.getLogger("pytorch_lightning")


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
