"""Rows to start from."""

import dataclasses

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
CAPTIONS = ("a red cube on top of a blue cone", "a red cube under a blue cone")


def row(method, caption, seed, relation, looks=True):
    fields = {"method": method, "caption": caption, "seed": seed, "config": "a.yaml@1"}
    oks = {"relation_ok": relation, "shape_ok": looks, "color_ok": True}
    return dataclasses.replace(ROW, **fields, **oks)


def two_methods():
    """sds is right in 1 of 4 runs, reward-sds in 3 of 4 and looks wrong once."""
    sds = [row("sds", c, s, relation=(c, s) == (CAPTIONS[0], 0)) for c in CAPTIONS for s in (0, 1)]
    reward = [
        row(
            "reward-sds",
            c,
            s,
            relation=(c, s) != (CAPTIONS[1], 1),
            looks=s == 0 or c == CAPTIONS[0],
        )
        for c in CAPTIONS
        for s in (0, 1)
    ]
    return {"sds": sds, "reward-sds": reward}
