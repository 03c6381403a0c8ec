"""Place of guidances for extensions that import from here; diffusion guidances live in
`custom/`."""

from . import base

__all__ = ["base"]
