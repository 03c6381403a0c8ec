"""Systems: what is optimised, and how one training step goes."""

from . import base, mvdream

__all__ = ["base", "mvdream"]
