"""Errors that are the user's to fix: the launcher prints them without a traceback where it can."""

from typing import List

try:
    from threestudio.utils.errors import UserError
except ImportError:  # an upstream checkout has no such class

    class UserError(ValueError):
        """Something the user asked for cannot be done; the message says what to change."""


class GuidanceConfigError(UserError):
    """The guidance block is wrong; one error lists every fault that was found."""


class GradientError(UserError):
    """The distillation gradient is NaN or infinite in the middle of a run."""


def refuse(faults: List[str]) -> None:
    """Raise one error that lists the faults of a component's settings; without any, do nothing."""
    if faults:
        raise GuidanceConfigError(" ".join(faults))


__all__ = ["GradientError", "GuidanceConfigError", "UserError", "refuse"]
