"""Videos: mp4 with av, animated gif with Pillow alone."""

import importlib.util
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .logging import warn


def write_video(stem: str, frames: Sequence[np.ndarray], save_format: str, fps: int) -> str:
    """Write RGB frames `[H, W, 3]` of one size to `stem.<save_format>`.

    Returns:
        Path of the file; a gif where an mp4 was asked for but the package `av` is missing.
    """
    if save_format == "mp4" and importlib.util.find_spec("av") is None:
        warn("mp4 videos need the package av (`pip install av`); a gif is written instead.")
        save_format = "gif"
    path = f"{stem}.{save_format}"
    if save_format == "gif":
        first, *others = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=others, duration=1000 / fps, loop=0)
        return path
    _write_mp4(path, frames, fps)
    return path


def _write_mp4(path: str, frames: Sequence[np.ndarray], fps: int) -> None:
    """Encode H.264 with av itself: imageio collects garbage twice a file, which takes long."""
    import av

    height, width = frames[0].shape[:2]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"  # what every player knows; its colours need even sides
        stream.height, stream.width = height + height % 2, width + width % 2
        for frame in frames:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
