"""Write the model card of the blocks world from what `evaluate` measured.

The card is generated, so that no number in it can drift from its measurement:

    python -m custom.threestudio-blocks.model_card
"""

import json
from pathlib import Path

from .captions import RELATIONS
from .training import WEIGHTS

INTRODUCTION = """# The blocks models

Four small networks trained on scenes that `custom/threestudio-blocks` renders: one or two solids
(sphere, cube, cylinder, cone, torus) in eight colours, alone or on the left of, on the right of, on
top of or under one another. Weights are fp16 safetensors.

| folder | what | made by |
|---|---|---|
| `prior/vae` | `AutoencoderKL`, 64x64 pictures to 4x8x8 latents | `train_vae` |
| `prior/unet`, `prior/text_encoder` | diffusion of four views or one | `train_prior` |
| `reward` | `CLIPModel`, one view against a caption | `train_reward [--previews]` |
| `judge` | reads four canonical views; never seen by a guidance | `train_judge` |
| `judge-front` | reads one front view | `train_judge --front` |

The commands are `python -m custom.threestudio-blocks.<name>`. They resume where they were stopped,
use a GPU if there is one, and keep renders and checkpoints in `.cache/blocks`. Loss curves are in
`curves/`, samples of the prior in `samples-prior-*.png`, renders before and after the autoencoder
in `samples-autoencoder-*.png`.

**How the shipped weights came about.** Not each in one run of its command: the autoencoder took
5,200 steps at a peak learning rate of 7e-4 and went on to 10,000 at 3e-4; the prior took
`--steps 9000` and went on with `--steps 14500`; the reward's previews are those of the prior at
step 9,000.

**What the prior does not know.** The relation word in its training captions is drawn at random: it
knows which solids to draw, not where. A prior trained on partly wrong captions would not do:
classifier-free guidance turns a slight preference into a nearly certain one.

**What to expect of them.** They know 27 words and plain backgrounds. They are made to show and test
a method in minutes, not to make pictures.
"""

HEADINGS = {
    "held-out": "## Measured on held-out captions\n\nNo choice was made on them; new scenes: "
    "`python -m custom.threestudio-blocks.evaluate --split held-out`.",
    "dev": "## Measured on dev captions\n\n`python -m custom.threestudio-blocks.evaluate`.",
}

REWARD_LEGEND = """How often the reward prefers the right relation to a wrong one (%).
"Captions" compares captions of one picture, "pictures" compares pictures for one caption, which is
what ranking candidates needs; "inverse" counts left against right and top against under only. Left
and right are asked of front and back views, top and under of all."""


def main() -> None:
    """Write the card."""
    (WEIGHTS / "README.md").write_text(card(WEIGHTS), encoding="utf-8")


def card(folder: Path) -> str:
    """Compose the card from the measurements in a folder."""
    parts = [INTRODUCTION]
    for split, heading in HEADINGS.items():
        path = folder / f"evaluation-{split}.json"
        if path.exists():
            parts += [heading + "\n", tables(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(parts)


def tables(numbers: dict) -> str:
    """Show the measurements of one split, all rates in percent."""
    lines = ["| measure | % | of |", "|---|---|---|"]

    def row(what: str, share: float, count: int) -> None:
        lines.append(f"| {what} | {share} | {count} |")

    if judge := numbers.get("judge"):
        row("judge: clean render fully right", judge["fully_right"], judge["renders"])
    if front := numbers.get("judge-front"):
        row("judge-front: clean front view fully right", front["fully_right"], front["renders"])
        what = "judge-front: the same after encoding and decoding"
        row(what, front["fully_right_decoded"], front["renders"])
    if autoencoder := numbers.get("autoencoder"):
        what = "judge: render fully right after encoding and decoding"
        row(what, autoencoder["fully_right"], autoencoder["renders"])
    if prior := numbers.get("prior"):
        row("prior: shape and colour of a single", prior["singles_right"], prior["singles"])
        row("prior: shapes and colours of a pair", prior["pairs_right"], prior["pairs"])
        for relation in RELATIONS:
            what = f'prior: shows "{relation}" when asked (chance is 25)'
            row(what, prior[f"relation_right {relation}"], prior["pairs"] // len(RELATIONS))
    if autoencoder:
        lines += ["", f"Mean error of the autoencoder: {autoencoder['error']} of 255 grey levels."]
    if reward := numbers.get("reward"):
        lines += ["", REWARD_LEGEND, ""]
        lines += [
            "| seen on | captions | captions, inverse | pictures | pictures, inverse |",
            "|---|---|---|---|---|",
        ]
        for name, shares in reward.items():
            lines.append(" | ".join([f"| {name}", *map(str, shares.values())]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
