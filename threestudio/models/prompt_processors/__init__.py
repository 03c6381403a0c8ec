"""Prompt processors: texts to embeddings, one per view direction, cached on disk."""

from . import base, deep_floyd, dummy, stable_diffusion

__all__ = ["base", "deep_floyd", "dummy", "stable_diffusion"]
