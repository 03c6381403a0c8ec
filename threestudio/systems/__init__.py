"""Systems: what is optimised, and how one training step goes."""

from . import base, dreamfusion, magic3d, mvdream, prolificdreamer

__all__ = ["base", "dreamfusion", "magic3d", "mvdream", "prolificdreamer"]
