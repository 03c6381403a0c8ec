"""Prompt processors: texts to embeddings, one per view direction, cached on disk."""

from . import base, stable_diffusion

__all__ = ["base", "stable_diffusion"]
