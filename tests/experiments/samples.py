"""Rows to start from."""

from rows import PictureRow, Row

ROW = Row(
    method="sds",
    caption='a "red" cube, left',
    seed=3,
    shape_ok=True,
    color_ok=False,
    relation_ok=True,
    reward=0.25,
    unet_calls=1600,
    seconds=61.5,
    config="a.yaml@12345678",
    torch="2.13.0",
    threads=1,
    device="cpu",
    verdict="left: red cube",
)
PICTURE = PictureRow(**vars(ROW), outside=None, picture="0123456789ab")
