"""The words of the blocks world: solids, colours, relations, captions and their splits.

Relations are in the object's frame, as seen from the front (azimuth 0, camera on +x, z up): left is
-y, right is +y. A pair of solids differs in shape and in colour. Splits hold out unordered pairs
with all their relations, so a caption and its mirror twin ("A on the left of B", "B on the right of
A") always share a split, and a held-out pair is new to every network.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
COLORS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (0.95, 0.87, 0.12),
    "green": (0.12, 0.62, 0.18),
    "cyan": (0.15, 0.82, 0.85),
    "blue": (0.12, 0.25, 0.88),
    "purple": (0.52, 0.15, 0.70),
    "pink": (1.00, 0.52, 0.74),
}
"""RGB in [0, 1] of each colour word, before shading."""

RELATIONS = ("on the left of", "on the right of", "on top of", "under")
INVERSE = {
    "on the left of": "on the right of",
    "on the right of": "on the left of",
    "on top of": "under",
    "under": "on top of",
}
SLOTS = ("left", "right", "top", "bottom", "centre")
SLOT_OF_RELATION = {
    "on the left of": ("left", "right"),
    "on the right of": ("right", "left"),
    "on top of": ("top", "bottom"),
    "under": ("bottom", "top"),
}
"""Where the first and the second solid of a caption stand."""

VIEWS = ("side", "front", "back", "overhead")
"""View words in threestudio's order of directions."""

NUM_DEV_PAIRS, NUM_HELD_OUT_PAIRS = 40, 80
NUM_DEV_SINGLES, NUM_HELD_OUT_SINGLES = 4, 8
SPLIT_SEED = 20250313


def article(word: str) -> str:
    """Return "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True, order=True)
class Solid:
    """One coloured solid, e.g. `Solid("cube", "red")`."""

    shape: str
    color: str

    def __str__(self) -> str:
        return f"{article(self.color)} {self.color} {self.shape}"


@dataclass(frozen=True)
class Caption:
    """A single solid, or `first` standing in `relation` to `second`."""

    first: Solid
    relation: str | None = None
    second: Solid | None = None

    def __str__(self) -> str:
        if self.second is None:
            return str(self.first)
        return f"{self.first} {self.relation} {self.second}"

    @property
    def twin(self) -> "Caption":
        """The same scene said the other way round; a single is its own twin."""
        if self.second is None:
            return self
        return Caption(self.second, INVERSE[self.relation], self.first)

    def with_relation(self, relation: str) -> "Caption":
        """Say the same two solids in another relation."""
        return Caption(self.first, relation, self.second)

    @property
    def slots(self) -> dict[str, Solid]:
        """Which solid stands in which slot, e.g. `{"left": ..., "right": ...}`."""
        if self.second is None:
            return {"centre": self.first}
        first_slot, second_slot = SLOT_OF_RELATION[self.relation]
        return {first_slot: self.first, second_slot: self.second}


def blind(caption: Caption, rng: random.Random) -> Caption:
    """Say any of the four relations, in any order of mention: what the prior is trained on."""
    if caption.second is None:
        return caption
    first, second = rng.sample((caption.first, caption.second), 2)
    return Caption(first, rng.choice(RELATIONS), second)


def with_view(caption: Caption | str, view: str) -> str:
    """Append the view suffix of threestudio's prompt processor, e.g. ", back view"."""
    return f"{caption}, {view} view"


def parse_caption(text: str) -> Caption:
    """Read a caption of the blocks world back into its parts.

    Raises:
        ValueError: If the text is not of the form this module writes.
    """
    for relation in RELATIONS:
        first, found, second = text.partition(f" {relation} ")
        if found:
            return Caption(_parse_solid(first), relation, _parse_solid(second))
    return Caption(_parse_solid(text))


def _parse_solid(text: str) -> Solid:
    words = text.split()
    if len(words) == 3 and words[1] in COLORS and words[2] in SHAPES:
        solid = Solid(shape=words[2], color=words[1])
        if str(solid) == text:
            return solid
    raise ValueError(
        f"'{text}' is not a solid of the blocks world. Write 'a <color> <shape>' with a color of "
        f"{tuple(COLORS)} and a shape of {SHAPES}, or two of them with a relation of {RELATIONS}."
    )


@lru_cache
def pair_splits() -> dict[str, tuple[tuple[Solid, Solid], ...]]:
    """Split the 560 unordered pairs into train (440), dev (40) and held-out (80)."""
    pairs = [
        (Solid(shape_a, color_a), Solid(shape_b, color_b))
        for shape_a, shape_b in combinations(SHAPES, 2)
        for color_a, color_b in permutations(COLORS, 2)
    ]
    return _cut(pairs, NUM_DEV_PAIRS, NUM_HELD_OUT_PAIRS)


@lru_cache
def single_splits() -> dict[str, tuple[Solid, ...]]:
    """Split the 40 single solids into train (28), dev (4) and held-out (8)."""
    singles = [Solid(shape, color) for shape in SHAPES for color in COLORS]
    return _cut(singles, NUM_DEV_SINGLES, NUM_HELD_OUT_SINGLES)


def _cut(items: list, num_dev: int, num_held_out: int) -> dict[str, tuple]:
    items = list(items)
    random.Random(SPLIT_SEED).shuffle(items)
    stop = num_dev + num_held_out
    return {
        "dev": tuple(items[:num_dev]),
        "held-out": tuple(items[num_dev:stop]),
        "train": tuple(items[stop:]),
    }


def pair_captions(split: str, num_per_relation: int | None = None) -> list[Caption]:
    """List captions of a split with relations and the order of mention balanced.

    Pair i gets relation i mod 4, then the next relation in a further round, and so on; every second
    one names the pair in reverse. The first `4 * num_per_relation` captions therefore use as many
    different pairs as there are.

    Args:
        split: "train", "dev" or "held-out".
        num_per_relation: Keep this many captions of each relation; None keeps all (four per pair).
    """
    pairs = pair_splits()[split]
    captions = []
    for turn in range(len(RELATIONS)):
        for index, (a, b) in enumerate(pairs):
            first, second = (a, b) if (index // len(RELATIONS)) % 2 == 0 else (b, a)
            captions.append(Caption(first, RELATIONS[(index + turn) % len(RELATIONS)], second))
    if num_per_relation is None:
        return captions
    if 4 * num_per_relation > len(captions):
        raise ValueError(
            f"The {split} split has {len(captions) // 4} captions per relation, "
            f"not {num_per_relation}."
        )
    return captions[: 4 * num_per_relation]


def single_captions(split: str) -> list[Caption]:
    """List the captions of single solids of a split."""
    return [Caption(solid) for solid in single_splits()[split]]
