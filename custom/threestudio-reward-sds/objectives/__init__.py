"""Objectives: which residual is distilled."""

from .base import AbstractObjective
from .sds import SDSObjective
from .vsd import VSDObjective

__all__ = ["AbstractObjective", "SDSObjective", "VSDObjective"]
