"""The judge: a network that no guidance ever sees, and the verdict it gives on a scene.

It looks at four canonical views (azimuth 0, 90, 180, 270 degrees, elevation 15, grey background)
or, for 2D pictures, at one front view, and says for each slot (left, right, top, bottom, centre)
which shape and colour it sees there, or that it is empty.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .captions import SHAPES, SLOTS, Caption, Solid, parse_caption
from .slots import COLOR_NAMES, EMPTY, Logits, SlotHead

BACKGROUND = 0.5
"""Grey level behind the views that the judge is shown."""


@dataclass(frozen=True)
class Verdict:
    """What the judge saw, compared with a caption.

    Attributes:
        shape_ok: The shapes seen are exactly the caption's.
        color_ok: The colours seen are exactly the caption's.
        relation_ok: Exactly the caption's slots are filled, and exchanging the two solids would
            agree less with what was seen. For a single solid: only the centre is filled.
        seen: Solid found in each filled slot.
    """

    shape_ok: bool
    color_ok: bool
    relation_ok: bool
    seen: dict[str, Solid]

    @property
    def text(self) -> str:
        """One line for a person, e.g. "left: a red cube, right: a blue cone"."""
        return ", ".join(f"{slot}: {solid}" for slot, solid in self.seen.items()) or "nothing"


def compare(seen: dict[str, Solid], caption: Caption) -> Verdict:
    """Compare what was seen with what was asked for (see `Verdict`)."""
    asked = caption.slots

    def same(attribute: str) -> bool:
        found, wanted = (
            Counter(getattr(s, attribute) for s in slots.values()) for slots in (seen, asked)
        )
        return found == wanted

    relation_ok = set(seen) == set(asked)
    if relation_ok and caption.second is not None:
        swapped = Caption(caption.second, caption.relation, caption.first).slots
        relation_ok = _agreement(seen, asked) > _agreement(seen, swapped)
    return Verdict(same("shape"), same("color"), relation_ok, seen)


def _agreement(seen: dict[str, Solid], asked: dict[str, Solid]) -> int:
    return sum(
        (seen[slot].shape == solid.shape) + (seen[slot].color == solid.color)
        for slot, solid in asked.items()
    )


class JudgeNetwork(nn.Module):
    """A convolutional trunk shared by the views, then one layer over all of them.

    Args:
        num_views: 4 for canonical views of a scene, 1 for a front view.
    """

    def __init__(self, num_views: int = 4) -> None:
        super().__init__()
        self.num_views = num_views
        layers, width = [nn.Conv2d(3, 32, 4, 2, 1), nn.GELU()], 32
        for out in (64, 96, 128):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.GroupNorm(8, out), nn.GELU()]
            layers += [nn.Conv2d(out, out, 4, 2, 1), nn.GELU()]
            width = out
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 128), nn.GELU())
        self.mix = nn.Sequential(nn.Linear(128 * num_views, 256), nn.GELU())
        self.head = SlotHead(256)

    def forward(self, views: Float[Tensor, "N V 3 64 64"]) -> Logits:
        """Return the logits of shape (the last one is "empty") and colour for every slot."""
        features = self.trunk(views.flatten(0, 1) * 2 - 1).view(len(views), -1)
        return self.head(self.mix(features))


class Judge:
    """A loaded judge.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path = "load/blocks/judge") -> "Judge":
        """Load a judge from its folder.

        Raises:
            FileNotFoundError: If the folder holds no judge; says which command makes one.
        """
        folder = Path(path)
        if not (folder / "config.json").exists():
            raise FileNotFoundError(
                f"No judge in '{folder}'. The repository ships one in load/blocks/judge; "
                "`python -m custom.threestudio-blocks.train_judge` makes it again."
            )
        network = JudgeNetwork(**json.loads((folder / "config.json").read_text()))
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({key: value.float() for key, value in state.items()})
        return cls(network)

    def save(self, path: str | Path) -> None:
        """Write the weights in half precision."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps({"num_views": self.network.num_views}) + "\n"
        )
        state = {key: value.half().contiguous() for key, value in self.network.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    @torch.no_grad()
    def see(self, views: Float[Tensor, "N V 3 64 64"]) -> list[dict[str, Solid]]:
        """Say what stands in each slot of N scenes."""
        device = next(self.network.parameters()).device
        shapes, colors = (
            logits.argmax(-1).tolist() for logits in self.network(views.float().to(device))
        )
        return [
            {
                slot: Solid(SHAPES[shape], COLOR_NAMES[color])
                for slot, shape, color in zip(SLOTS, row_shapes, row_colors, strict=True)
                if shape != EMPTY
            }
            for row_shapes, row_colors in zip(shapes, colors, strict=True)
        ]

    def __call__(self, views: Float[Tensor, "V 3 64 64"], caption: str | Caption) -> Verdict:
        """Judge one scene against its caption.

        Args:
            views: RGB in [0, 1], canonical views on grey (`BACKGROUND`).
            caption: Text of the blocks world, without view suffix.
        """
        parsed = caption if isinstance(caption, Caption) else parse_caption(caption)
        return compare(self.see(views[None])[0], parsed)
