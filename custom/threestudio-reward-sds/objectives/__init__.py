"""Objectives: which residual is distilled."""

from .base import AbstractObjective
from .sds import SDSObjective

__all__ = ["AbstractObjective", "SDSObjective"]
