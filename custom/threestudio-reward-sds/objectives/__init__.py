"""Objectives: which residual is distilled."""

from .base import AbstractObjective
from .bridge import BridgeObjective
from .dds import DDSObjective
from .sds import SDSObjective
from .vsd import VSDObjective

__all__ = [
    "AbstractObjective",
    "BridgeObjective",
    "DDSObjective",
    "SDSObjective",
    "VSDObjective",
]
