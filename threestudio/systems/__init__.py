"""Systems: what is optimised, and how one training step goes."""

from . import base, dreamfusion, image, magic3d, mvdream, prolificdreamer

__all__ = ["base", "dreamfusion", "image", "magic3d", "mvdream", "prolificdreamer"]
