"""Pictures that a run starts from: what files may be, and reading them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .errors import UserError


def picture_paths(value: Any) -> list[Any]:
    """Return the files of a setting that is one path, a list of paths, or null."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def picture_faults(key: str, value: Any, count: int) -> list[str]:
    """List what is wrong with pictures.

    Args:
        key: The setting, for the messages.
        value: One path, or one for each image.
        count: How many images there are.
    """
    paths = picture_paths(value)
    if not all(isinstance(path, str) for path in paths):
        return [f"`{key}` is {value!r}, but must be the path of a picture, or a list of paths."]
    if not paths:
        return [f"`{key}` names no picture. Give one for all images, or one for each."]
    faults = []
    if len(paths) not in (1, count):
        faults.append(
            f"`{key}` has {len(paths)} pictures for {count} images. Give one for all, or one for "
            "each of `data.seeds`."
        )
    return faults + [fault for path in dict.fromkeys(paths) for fault in _file_faults(key, path)]


def _file_faults(key: str, path: str) -> list[str]:
    if not Path(path).is_file():
        return [f"`{key}` is '{path}', but there is no such file (looked in {Path.cwd()})."]
    try:
        with Image.open(path) as picture:
            (width, height), bands, mode = picture.size, picture.getbands(), picture.mode
            see_through = "A" in bands or "transparency" in picture.info
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # a damaged file may fail in any of these
        return [f"`{key}` is '{path}', which is not a picture that can be read: {error}."]
    faults = []
    if width != height:
        faults.append(
            f"`{key}` is '{path}' of {width} x {height} pixels, but must be square. Crop it first, "
            f"e.g. to {min(width, height)} x {min(width, height)}."
        )
    if mode.startswith(("I", "F")):
        faults.append(
            f"`{key}` is '{path}' with more than 8 bits for a value (mode {mode}). Convert it "
            "first, e.g. `magick in.png -depth 8 out.png`."
        )
    if see_through:
        faults.append(
            f"`{key}` is '{path}', which has an alpha channel: nothing says what lies behind it. "
            "Put it on a background first, e.g. `magick in.png -background white -flatten out.png`."
        )
    return faults


def read_pictures(key: str, value: Any, count: int, size: int) -> Float[Tensor, "B 3 S S"]:
    """Read pictures as RGB in [0, 1] and bring them to `size` pixels (bicubic, antialiased).

    Args:
        key: The setting, for the messages.
        value: One path, or one for each image.
        count: B, how many images there are; one path stands for all of them.
        size: Width and height of the result.

    Raises:
        UserError: With everything that is wrong with the files.
    """
    faults = picture_faults(key, value, count)
    if faults:
        raise UserError("\n".join(faults))
    pictures = [_read(path, size) for path in picture_paths(value)]
    return torch.stack(pictures).expand(count, -1, -1, -1)


def _read(path: str, size: int) -> Float[Tensor, "3 S S"]:
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1) / 255
