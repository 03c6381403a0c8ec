"""Pictures, videos and data files."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from threestudio.utils import images
from threestudio.utils.saving import SaverMixin


@pytest.fixture
def saver(tmp_path: Path) -> SaverMixin:
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def cell(value: float, height: int = 4, width: int = 4) -> dict:
    return {"type": "rgb", "img": torch.full((height, width, 3), value), "kwargs": {}}


def test_rgb_scales_clips_and_puts_groups_side_by_side():
    img = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).expand(2, 2, 5)
    out = images.rgb_image(img)
    assert out.shape == (2, 4, 3)
    assert out[0, 0].tolist() == [0, 0, 128] and out[0, 2].tolist() == [255, 255, 0]
    same = images.rgb_image(img.permute(2, 0, 1), data_format="CHW")
    assert np.array_equal(out, same)
    assert images.rgb_image(torch.zeros(1, 1, 3), data_range=(-1, 1))[0, 0].tolist() == [128] * 3


def test_grayscale_uses_the_whole_map_and_survives_constants_and_nan():
    ramp = torch.linspace(5, 7, 9)[None]
    assert images.grayscale_image(ramp, cmap=None)[0, :, 0].tolist()[::8] == [0, 255]
    jet = images.grayscale_image(ramp, cmap="jet")
    assert jet[0, 0].tolist() == [0, 0, 127] and jet[0, -1].tolist() == [127, 0, 0]
    assert images.grayscale_image(torch.full((2, 2), 3.0), cmap=None).max() == 0
    assert images.grayscale_image(torch.tensor([[float("nan"), 1.0]]), cmap=None)[0, 0, 0] == 0
    with pytest.raises(ValueError, match="Unknown colour map 'jetty'"):
        images.grayscale_image(ramp, cmap="jetty")


def test_grid_of_rows_with_sizes_brought_to_the_largest():
    grid = images.grid_image([[cell(1.0), cell(0.0, 8, 6)], [cell(0.5)]])
    assert grid.shape == (16, 12, 3)
    assert grid[0, 0, 0] == 255 and grid[0, 6, 0] == 0 and grid[8, 0, 0] == 128
    assert images.grid_image([cell(1.0), cell(0.0, 8, 6)], align="min").shape == (4, 8, 3)
    assert images.grid_image([cell(1.0)], align=(2, 3)).shape == (2, 3, 3)


def test_texts_change_the_picture_and_take_any_character():
    blank = np.zeros((64, 64, 3), dtype=np.uint8)
    assert images.draw_texts(blank, ["t 300", "é 🤖"]).sum() > 0 and blank.sum() == 0


def test_files_are_written_in_rgb_order(saver: SaverMixin, tmp_path: Path):
    red = torch.zeros(4, 4, 3)
    red[..., 0] = 1
    path = saver.save_rgb_image("a/b.png", red)
    assert path == str(tmp_path / "a/b.png")
    assert np.asarray(Image.open(path))[0, 0].tolist() == [255, 0, 0]


def test_save_image_keeps_bytes_and_refuses_floats(saver: SaverMixin):
    data = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(np.asarray(Image.open(saver.save_image("x.png", data))), data)
    with pytest.raises(ValueError, match="save_rgb_image"):
        saver.save_image("y.png", np.zeros((2, 2), dtype=np.float32))


@pytest.mark.parametrize("save_format", ["mp4", "gif"])
def test_video_has_all_frames_in_order_of_their_numbers(saver: SaverMixin, save_format: str):
    for index in range(12):
        saver.save_image_grid(f"v/{index}.png", [cell(index / 11, 17, 33)])
    path = saver.save_img_sequence("v", "v", r"(\d+)\.png", save_format, fps=10)
    assert path.endswith(f"v.{save_format}")
    plugin = "pyav" if save_format == "mp4" else "pillow"
    frames = iio.imread(path, plugin=plugin)
    brightness = frames[..., :3].mean(axis=(1, 2, 3))
    assert len(frames) == 12 and (np.diff(brightness) > 0).all()


def test_video_falls_back_to_gif_without_av(saver: SaverMixin, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    saver.save_image_grid("v/0.png", [cell(0.0)])
    assert saver.save_img_sequence("v", "v", r"(\d+)\.png").endswith(".gif")


def test_video_of_nothing_is_an_error(saver: SaverMixin, tmp_path: Path):
    (tmp_path / "v").mkdir()
    with pytest.raises(ValueError, match="No file in 'v' matches"):
        saver.save_img_sequence("v", "v", r"(\d+)\.png")


def test_data_json_and_mesh(saver: SaverMixin):
    assert np.load(saver.save_data("a", torch.arange(3))).tolist() == [0, 1, 2]
    assert np.load(saver.save_data("b", {"x": torch.ones(2)}))["x"].tolist() == [1, 1]
    assert json.loads(Path(saver.save_json("c.json", {"k": "🤖"})).read_text()) == {"k": "🤖"}
    triangle = torch.eye(3), torch.tensor([[0, 1, 2]])
    assert "f 1 2 3" in Path(saver.save_mesh("d.obj", *triangle)).read_text()
    with pytest.raises(TypeError, match="not str"):
        saver.save_data("e", "text")


def test_saving_needs_a_folder():
    with pytest.raises(ValueError, match="set_save_dir"):
        SaverMixin().get_save_path("a.png")
