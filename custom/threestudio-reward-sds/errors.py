"""Errors that are the user's to fix: the launcher prints them without a traceback where it can."""

from typing import List

try:
    from threestudio.utils.errors import NonFiniteError, UserError
except ImportError:  # an upstream checkout has no such classes

    class UserError(ValueError):
        """Something the user asked for cannot be done; the message says what to change."""

    class NonFiniteError(UserError):
        """A gradient is NaN or infinite in the middle of a run."""


class GuidanceConfigError(UserError):
    """The guidance block is wrong; one error lists every fault that was found."""


def refuse(faults: List[str]) -> None:
    """Raise one error that lists the faults of a component's settings; without any, do nothing."""
    if faults:
        raise GuidanceConfigError(" ".join(faults))


__all__ = ["GuidanceConfigError", "NonFiniteError", "UserError", "refuse"]
