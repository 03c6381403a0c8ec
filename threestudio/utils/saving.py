"""`SaverMixin`: everything a run writes under its `save/` folder."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import torch
from PIL import Image

from .images import (
    Align,
    draw_texts,
    grayscale_image,
    grid_image,
    rgb_image,
    to_numpy,
    uv_image,
)
from .logging import warn
from .saving_meshes import MeshSaverMixin
from .typing import Number


class SaverMixin(MeshSaverMixin):
    """Saves pictures, videos and data under one folder, for a class that has its own constructor.

    Pictures are RGB arrays throughout (upstream's helpers hold BGR between drawing and writing).
    """

    _save_dir: Optional[str] = None
    _wandb_logger: Optional[Any] = None

    DEFAULT_RGB_KWARGS: dict[str, Any] = {"data_format": "HWC", "data_range": (0, 1)}
    DEFAULT_UV_KWARGS: dict[str, Any] = {**DEFAULT_RGB_KWARGS, "cmap": "checkerboard"}
    DEFAULT_GRAYSCALE_KWARGS: dict[str, Any] = {"data_range": None, "cmap": "jet"}
    DEFAULT_GRID_KWARGS: dict[str, Any] = {"align": "max"}

    def set_save_dir(self, save_dir: str) -> None:
        """Choose the folder that file names are relative to."""
        self._save_dir = save_dir

    def get_save_dir(self) -> str:
        """Return the folder that file names are relative to."""
        if self._save_dir is None:
            raise ValueError("There is no folder to save to: call `set_save_dir` first.")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        """Return the full path of a file and make its folder."""
        path = os.path.join(self.get_save_dir(), filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """Convert tensors to arrays, recursively in lists and dicts."""
        return to_numpy(data)

    def create_loggers(self, cfg_loggers: Any) -> None:
        """Make the loggers that the `loggers` block switches on."""
        wandb = cfg_loggers.get("wandb") or {}
        if wandb.get("enable"):
            from pytorch_lightning.loggers import WandbLogger

            self._wandb_logger = WandbLogger(project=wandb.get("project"), name=wandb.get("name"))

    def get_loggers(self) -> list[Any]:
        """Return the loggers made by `create_loggers`."""
        return [] if self._wandb_logger is None else [self._wandb_logger]

    def get_rgb_image_(
        self, img: Any, data_format: str, data_range: Any, rgba: bool = False
    ) -> Any:
        """Return the picture of `save_rgb_image`, uint8."""
        return rgb_image(img, data_format, data_range, rgba)

    def get_uv_image_(self, img: Any, data_format: str, data_range: Any, cmap: str) -> Any:
        """Return the picture of `save_uv_image`, uint8."""
        return uv_image(img, data_format, data_range, cmap)

    def get_grayscale_image_(self, img: Any, data_range: Any, cmap: Optional[str]) -> Any:
        """Return the picture of `save_grayscale_image`, uint8."""
        return grayscale_image(img, data_range, cmap)

    def get_image_grid_(self, imgs: Any, align: Align) -> np.ndarray:
        """Return the picture of `save_image_grid`, uint8."""
        return grid_image(imgs, align)

    def save_rgb_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: Sequence[Number] = (0, 1),
        name: Optional[str] = None,
        step: Optional[int] = None,
    ) -> str:
        """Save an RGB image, see `images.rgb_image`."""
        return self._write(filename, rgb_image(img, data_format, data_range), name, step)

    def save_uv_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: Sequence[Number] = (0, 1),
        cmap: str = "checkerboard",
    ) -> str:
        """Save texture coordinates, see `images.uv_image`."""
        return self._write(filename, uv_image(img, data_format, data_range, cmap))

    def save_grayscale_image(
        self,
        filename: str,
        img: Any,
        data_range: Optional[Sequence[Number]] = None,
        cmap: Optional[str] = "jet",
        name: Optional[str] = None,
        step: Optional[int] = None,
    ) -> str:
        """Save one channel, see `images.grayscale_image`."""
        return self._write(filename, grayscale_image(img, data_range, cmap), name, step)

    def save_image_grid(
        self,
        filename: str,
        imgs: Any,
        align: Align = "max",
        name: Optional[str] = None,
        step: Optional[int] = None,
        texts: Optional[Sequence[str]] = None,
    ) -> str:
        """Save a row or rows of cells as one picture, see `images.grid_image`.

        Args:
            filename: Relative to the save folder.
            imgs: Cells, or rows of cells.
            align: How cells of different sizes are brought to one.
            name: Name in Weights & Biases, when that is on.
            step: Step in Weights & Biases.
            texts: Lines written into the upper left corner.
        """
        img = grid_image(imgs, align)
        return self._write(filename, draw_texts(img, texts) if texts else img, name, step)

    def save_image(self, filename: str, img: Any) -> str:
        """Save an 8-bit array `[H, W]`, `[H, W, 3]` or `[H, W, 4]` as it is; 16 bits for grey."""
        img = to_numpy(img)
        if img.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"save_image takes uint8 or uint16 arrays, not {img.dtype}. Use "
                "save_rgb_image for floats."
            )
        return self._write(filename, img)

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: int = 30,
        name: Optional[str] = None,
        step: Optional[int] = None,
    ) -> str:
        """Make a video of the images in a folder.

        Args:
            filename: Relative to the save folder; the format's suffix is added.
            img_dir: Folder of the frames, relative to the save folder.
            matcher: Regular expression whose first group is the frame number.
            save_format: `"mp4"` or `"gif"`; without the package `av` an mp4 becomes a gif.
            fps: Frames per second.
            name: Name in Weights & Biases, when that is on.
            step: Step in Weights & Biases.
        """
        from .video import write_video

        if save_format not in ("mp4", "gif"):
            raise ValueError(f"save_format is '{save_format}', allowed are 'mp4' and 'gif'.")
        stem = filename.removesuffix(f".{save_format}")
        found = [
            (re.search(matcher, p.name), p) for p in Path(self.get_save_dir(), img_dir).iterdir()
        ]
        frames = sorted((int(match.group(1)), path) for match, path in found if match)
        if not frames:
            raise ValueError(
                f"No file in '{img_dir}' matches '{matcher}': there is no video to make."
            )
        pictures = [np.asarray(Image.open(path).convert("RGB")) for _, path in frames]
        path = write_video(self.get_save_path(stem), pictures, save_format, fps)
        if name and self._wandb_logger is not None:
            self._log_to_wandb(name, "Video", path, step)
        return path

    def save_data(self, filename: str, data: Any) -> str:
        """Save arrays: a dict as `.npz`, one array as `.npy`."""
        data = to_numpy(data)
        suffix = ".npz" if isinstance(data, dict) else ".npy"
        path = self.get_save_path(filename if filename.endswith(suffix) else filename + suffix)
        np.savez(path, **data) if isinstance(data, dict) else np.save(path, data)
        return path

    def save_state_dict(self, filename: str, data: Any) -> str:
        """Save with `torch.save`."""
        path = self.get_save_path(filename)
        torch.save(data, path)
        return path

    def save_json(self, filename: str, payload: Any) -> str:
        """Save as JSON."""
        path = self.get_save_path(filename)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(payload, file, indent=2, ensure_ascii=False)
        return path

    def save_file(self, filename: str, src: str) -> str:
        """Copy a file."""
        return shutil.copyfile(src, self.get_save_path(filename))

    def save_cubemap(
        self,
        filename: str,
        img: Any,
        data_range: Sequence[Number] = (0, 1),
        rgba: bool = False,
    ) -> str:
        """Save six faces `[6, S, S, C]` (+x, -x, +y, -y, +z, -z) as an unfolded cube of 3 x 4."""
        faces = [rgb_image(face, "HWC", data_range, rgba) for face in to_numpy(img)]
        empty = np.zeros_like(faces[0])
        rows = ((None, 2, None, None), (1, 4, 0, 5), (None, 3, None, None))
        strips = [[empty if face is None else faces[face] for face in row] for row in rows]
        return self._write(filename, np.concatenate([np.concatenate(s, 1) for s in strips], 0))

    def _write(
        self, filename: str, img: np.ndarray, name: Optional[str] = None, step: Optional[int] = None
    ) -> str:
        path = self.get_save_path(filename)
        Image.fromarray(img).save(path)
        if name and self._wandb_logger is not None:
            self._log_to_wandb(name, "Image", path, step)
        return path

    def _log_to_wandb(self, name: str, kind: str, path: str, step: Optional[int]) -> None:
        import wandb

        try:
            self._wandb_logger.experiment.log({name: getattr(wandb, kind)(path), "step": step})
        except Exception as error:  # a run must not die of its logger
            warn(f"'{name}' could not be sent to Weights & Biases: {error}")
