"""Arrays to 8-bit RGB pictures: value ranges, colour maps, grids, text. Plain numpy and Pillow."""

from typing import Any, Optional, Sequence, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .typing import Number

Align = Union[str, int, tuple[int, int]]

# Evenly spaced anchors, interpolated linearly.
_COLOR_MAPS = {
    "jet": "00007f 0000ff 007fff 00ffff 7fff7f ffff00 ff7f00 ff0000 7f0000",
    "magma": "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf",
    "spectral": "9e0142 d53e4f f46d43 fdae61 fee08b ffffbf e6f598 abdda4 66c2a5 3288bd 5e4fa2",
}


def to_numpy(data: Any) -> Any:
    """Convert tensors to arrays, recursively in lists and dicts; None and arrays pass.

    Raises:
        TypeError: For anything else.
    """
    if data is None or isinstance(data, np.ndarray):
        return data
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        return (data.float() if data.dtype.is_floating_point else data).numpy()
    if isinstance(data, (list, tuple)):
        return [to_numpy(item) for item in data]
    if isinstance(data, dict):
        return {key: to_numpy(item) for key, item in data.items()}
    raise TypeError(
        f"Pictures and data files are made from tensors and arrays, not {type(data).__name__}."
    )


def rgb_image(
    img: Any, data_format: str = "HWC", data_range: Sequence[Number] = (0, 1), rgba: bool = False
) -> np.ndarray:
    """Make an RGB picture; more than three channels stand side by side in groups.

    Args:
        img: Array or tensor.
        data_format: `"HWC"` or `"CHW"`.
        data_range: Values of black and white.
        rgba: Groups of four channels with alpha instead of three.

    Returns:
        uint8 `[H, W', 3]`, or 4 channels with `rgba`.
    """
    if data_format not in ("HWC", "CHW"):
        raise ValueError(f"data_format is '{data_format}', allowed are 'HWC' and 'CHW'.")
    img = to_numpy(img)
    if data_format == "CHW":
        img = img.transpose(1, 2, 0)
    img = _to_bytes(img, data_range)
    size = 4 if rgba else 3
    groups = [img[..., start : start + size] for start in range(0, img.shape[-1], size)]
    padded = [np.pad(g, ((0, 0), (0, 0), (0, size - g.shape[-1]))) for g in groups]
    return np.concatenate(padded, axis=1)


def grayscale_image(
    img: Any, data_range: Optional[Sequence[Number]] = None, cmap: Optional[str] = "jet"
) -> np.ndarray:
    """Make a picture of one channel `[H, W]`.

    Args:
        img: Array or tensor; NaN is shown as the lowest value.
        data_range: Values at both ends of the colour map; None takes the smallest and largest.
        cmap: `"jet"`, `"magma"`, `"spectral"`, or None for grey.

    Returns:
        uint8 `[H, W, 3]`.
    """
    img = np.nan_to_num(to_numpy(img).astype(np.float32))
    if data_range is None:
        data_range = (img.min(), img.max())
    low, high = data_range
    share = np.clip((img - low) / ((high - low) or 1), 0, 1)
    if cmap is None:
        return np.repeat(_to_bytes(share, (0, 1))[..., None], 3, axis=-1)
    if cmap not in _COLOR_MAPS:
        raise ValueError(f"Unknown colour map '{cmap}'. Use {', '.join(_COLOR_MAPS)} or null.")
    anchors = np.array([list(bytes.fromhex(color)) for color in _COLOR_MAPS[cmap].split()])
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(share, places, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def uv_image(
    img: Any,
    data_format: str = "HWC",
    data_range: Sequence[Number] = (0, 1),
    cmap: str = "checkerboard",
) -> np.ndarray:
    """Make a picture of texture coordinates: a checkerboard, or red and green (`cmap="color"`)."""
    img = to_numpy(img)
    if data_format == "CHW":
        img = img.transpose(1, 2, 0)
    uv = np.clip((img - data_range[0]) / (data_range[1] - data_range[0]), 0, 1)
    if cmap == "checkerboard":
        board = (np.floor(uv * 64).astype(int).sum(axis=-1) % 2).astype(np.float32)
        return np.repeat(_to_bytes(board, (0, 1))[..., None], 3, axis=-1)
    if cmap == "color":
        return rgb_image(uv)
    raise ValueError(f"Unknown texture map '{cmap}'. Use 'checkerboard' or 'color'.")


def grid_image(imgs: Any, align: Align = "max") -> np.ndarray:
    """Put cells side by side and rows on top of each other.

    Args:
        imgs: One row (list of cells) or a list of rows. A cell is a dict: `type` is `"rgb"`, `"uv"`
            or `"grayscale"`, `img` the data, `kwargs` the arguments of the function above.
        align: Size of every cell: `"max"` or `"min"` of the cells' sizes, a number or (H, W).

    Returns:
        uint8 `[H, W, 3]`; short rows are filled up with black.
    """
    rows = imgs if isinstance(imgs[0], (list, tuple)) else [imgs]
    pictures = [[_cell_image(cell) for cell in row] for row in rows]
    height, width = _cell_size([p.shape[:2] for row in pictures for p in row], align)
    strips = [np.concatenate([_resize(p, height, width) for p in row], axis=1) for row in pictures]
    total = max(strip.shape[1] for strip in strips)
    return np.concatenate(
        [np.pad(s, ((0, 0), (0, total - s.shape[1]), (0, 0))) for s in strips], axis=0
    )


def draw_texts(img: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Write lines of text into the upper left corner, white with a dark edge."""
    picture = Image.fromarray(img)
    size = max(10, min(img.shape[:2]) // 20)
    ImageDraw.Draw(picture).multiline_text(
        (size // 2, size // 2),
        "\n".join(str(text) for text in texts),
        font=ImageFont.load_default(size=size),
        fill=(255, 255, 255),
        stroke_width=max(1, size // 10),
        stroke_fill=(40, 40, 40),
    )
    return np.asarray(picture)


def _to_bytes(img: np.ndarray, data_range: Sequence[Number]) -> np.ndarray:
    low, high = data_range
    share = np.nan_to_num((img.astype(np.float32) - low) / (high - low))
    return (np.clip(share, 0, 1) * 255).round().astype(np.uint8)


def _cell_image(cell: dict[str, Any]) -> np.ndarray:
    makers = {"rgb": rgb_image, "uv": uv_image, "grayscale": grayscale_image}
    if cell.get("type") not in makers:
        raise ValueError(f"A cell's type is {cell.get('type')!r}, allowed are {', '.join(makers)}.")
    return makers[cell["type"]](cell["img"], **cell.get("kwargs", {}))


def _cell_size(sizes: list[tuple[int, int]], align: Align) -> tuple[int, int]:
    if isinstance(align, int):
        return align, align
    if isinstance(align, str):
        if align not in ("max", "min"):
            raise ValueError(f"align is '{align}', allowed are 'max', 'min', a number or (H, W).")
        pick = max if align == "max" else min
        return pick(h for h, _ in sizes), pick(w for _, w in sizes)
    height, width = align
    return height, width


def _resize(img: np.ndarray, height: int, width: int) -> np.ndarray:
    if img.shape[:2] == (height, width):
        return img
    return np.asarray(Image.fromarray(img).resize((width, height), Image.Resampling.BILINEAR))
