"""Reading pictures: sizes, several at once, and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from threestudio.utils.errors import UserError
from threestudio.utils.pictures import picture_faults, read_pictures


def save(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", color=(255, 0, 51)) -> str:
    Image.new(mode, size, color).save(path)
    return str(path)


def cut(path: str) -> str:
    """Leave the file's header and some of its pixels."""
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) - 30])
    return path


def test_a_picture_is_rgb_in_zero_to_one_and_brought_to_size(tmp_path: Path):
    path = save(tmp_path / "a.png", (16, 16))
    pictures = read_pictures("x", path, 3, 8)
    assert pictures.shape == (3, 3, 8, 8)
    expected = torch.tensor([1.0, 0.0, 0.2]).view(1, 3, 1, 1).expand_as(pictures)
    torch.testing.assert_close(pictures, expected)


def test_a_picture_of_the_right_size_is_read_as_it_is(tmp_path: Path):
    values = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    Image.fromarray(values.numpy()).save(tmp_path / "a.png")
    read = read_pictures("x", str(tmp_path / "a.png"), 1, 8)
    assert torch.equal((read[0] * 255).round().to(torch.uint8), values.permute(2, 0, 1))


def test_each_image_may_have_its_own(tmp_path: Path):
    paths = [save(tmp_path / "a.png"), save(tmp_path / "b.png", color=(0, 255, 0))]
    assert read_pictures("x", paths, 2, 8)[:, 1, 0, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: str(p / "none.png"), "no such file"),
        (lambda p: save(p / "wide.png", (16, 8)), "16 x 8 pixels, but must be square"),
        (lambda p: save(p / "a.png", mode="RGBA", color=(1, 2, 3, 4)), "alpha channel.*background"),
        (lambda p: save(p / "g.png", mode="LA", color=(1, 2)), "alpha channel"),
        (lambda p: save(p / "d.png", mode="I;16", color=9), r"more than 8 bits .*\(mode I;16\)"),
        (lambda p: [], "`system.image.picture` names no picture"),
        (lambda p: [save(p / "a.png")] * 2, "2 pictures for 3 images"),
        (lambda p: cut(save(p / "c.png", (64, 64))), "is not a picture that can be read"),
        (lambda p: [1, 2, 3], "must be the path of a picture"),
        (lambda p: (p / "t.png").write_text("no picture") and str(p / "t.png"), "cannot be|can be"),
    ],
    ids=[
        "missing",
        "not-square",
        "alpha",
        "grey-alpha",
        "deep",
        "none",
        "count",
        "damaged",
        "numbers",
        "text",
    ],
)
def test_what_is_refused(make, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        read_pictures("system.image.picture", make(tmp_path), 3, 8)


def test_every_bad_file_is_named_once(tmp_path: Path):
    faults = picture_faults("x", [str(tmp_path / name) for name in ("a", "b", "a")], 3)
    assert len(faults) == 2
