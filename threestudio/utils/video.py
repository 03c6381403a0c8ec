"""Videos: mp4 with imageio and av, animated gif with Pillow alone."""

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
    import imageio.v3 as iio

    stack = np.stack(frames)
    odd_height, odd_width = stack.shape[1] % 2, stack.shape[2] % 2
    # yuv420 halves the colour resolution, so both sides must be even
    stack = np.pad(stack, ((0, 0), (0, odd_height), (0, odd_width), (0, 0)), mode="edge")
    iio.imwrite(path, stack, plugin="pyav", codec="libx264", fps=fps, out_pixel_format="yuv420p")
    return path
