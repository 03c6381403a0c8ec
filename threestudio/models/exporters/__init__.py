"""Exporters: a trained scene to files."""

from . import base

__all__ = ["base"]
