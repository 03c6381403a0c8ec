"""Errors that are the user's to fix: the launcher prints their message without a traceback."""


class UserError(ValueError):
    """Something the user asked for cannot be done; the message says what to change."""


class ConfigError(UserError):
    """The configuration is wrong. One error lists every fault that was found."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not fit."""


class NonFiniteError(UserError):
    """A render, loss or gradient is NaN or infinite in the middle of a run."""
