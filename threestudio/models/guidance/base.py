"""The interface of guidances, under upstream's import path."""

from threestudio.utils.base import BaseModule, BaseObject

__all__ = ["BaseModule", "BaseObject"]
