"""Measure judge, prior and reward on captions that they were not trained on.

The dev captions are for working, the held-out captions give the numbers of the model card:

    python -m custom.threestudio-blocks.evaluate
    python -m custom.threestudio-blocks.evaluate --split held-out
"""

import argparse
import json
import random
from itertools import permutations
from pathlib import Path
from typing import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .batches import PictureBatch, view_of
from .captions import COLORS, INVERSE, RELATIONS, Caption, pair_captions, single_captions, with_view
from .judge import BACKGROUND, Judge
from .method import reward_sds
from .previews import Previewer
from .renders import (
    NUM_VIEWS,
    RandomCameras,
    Scenes,
    canonical_cameras,
    compose,
    render_layers,
    scenes_of,
)
from .training import REPOSITORY, WEIGHTS

PREVIEW_TIMESTEPS = (100, 200, 300, 400, 500, 600, 700, 800, 900, 950)
SEED = 20251
CHUNK = 16
PRIOR_PAIRS = 40
"""Captions of each relation that the prior is sampled with."""
PREVIEW_GROUPS = 16
"""Pairs of solids whose four relations are previewed at every timestep."""


def rendered(captions: list[Caption], seed: int, canonical: bool) -> PictureBatch:
    """Render one new scene per caption on a random plain background (canonical views: on grey)."""
    generator = torch.Generator().manual_seed(seed)
    scenes = scenes_of(captions, generator)
    cameras = canonical_cameras if canonical else RandomCameras(seed)
    parts: dict[str, list[Tensor]] = {"layers": [], "c2w": [], "azimuth": []}
    for number, start in enumerate(range(0, len(captions), CHUNK)):
        rows = slice(start, min(start + CHUNK, len(captions)))
        part = Scenes(**{key: getattr(scenes, key)[rows] for key in Scenes.__annotations__})
        batch = cameras(number, len(part.relation))
        parts["layers"].append(render_layers(part, batch["rays_o"], batch["rays_d"]))
        parts["c2w"].append(batch["c2w"])
        parts["azimuth"].append(batch["azimuth"])
    layers, c2w, azimuth = (torch.cat(values) for values in parts.values())
    background = torch.rand(len(captions), 3, generator=generator)
    if canonical:
        background = torch.full_like(background, BACKGROUND)
    images = compose(layers, caption_colors(captions)[:, None], background[:, None])
    return PictureBatch(images, captions, torch.arange(len(captions)), c2w, azimuth)


def caption_colors(captions: list[Caption]) -> Float[Tensor, "N 2 3"]:
    """RGB of the first and the second solid; a missing second one repeats the first."""
    return torch.tensor(
        [[COLORS[s.color] for s in (c.first, c.second or c.first)] for c in captions]
    )


def measure_judge(options: argparse.Namespace) -> dict[str, float]:
    """Share of clean renders that the judge reads fully right, in percent."""
    captions = single_captions(options.split) * 8 + pair_captions(options.split)
    batch = rendered(captions * options.scenes_per_caption, SEED, canonical=True)
    seen = Judge.load(options.weights / "judge").see(batch.images)
    right = [s == caption.slots for s, caption in zip(seen, batch.captions, strict=True)]
    return {"renders": len(right), "fully_right": percent(right)}


def measure_prior(options: argparse.Namespace) -> dict[str, float]:
    """Judge samples of the prior: attributes of singles and pairs, relation by the word that was
    asked."""
    judge, previewer = (
        Judge.load(options.weights / "judge"),
        Previewer(options.weights / "prior", options.device),
    )
    singles, pairs = single_captions(options.split) * 8, pair_captions(options.split)
    pairs = pairs[: PRIOR_PAIRS * len(RELATIONS)]
    c2w = canonical_cameras(0, 1)["c2w"][0]
    generator = torch.Generator().manual_seed(SEED)
    verdicts, sheet = [], []
    captions = singles + pairs
    for start in tqdm(range(0, len(captions), 8), desc="sampling the prior", mininterval=5):
        part = captions[start : start + 8]
        views = c2w.expand(len(part), NUM_VIEWS, 4, 4)
        images = previewer.sample([str(caption) for caption in part], views, generator)
        verdicts += [judge(image, caption) for image, caption in zip(images, part, strict=True)]
        sheet.append(images)
    save_sheet(torch.cat(sheet)[::8][:24], options.weights / f"samples-prior-{options.split}.png")
    attributes = [verdict.shape_ok and verdict.color_ok for verdict in verdicts]
    numbers: dict[str, float] = {"guidance_scale": 7.5, "steps": 25}
    numbers |= {"singles": len(singles), "singles_right": percent(attributes[: len(singles)])}
    numbers |= {"pairs": len(pairs), "pairs_right": percent(attributes[len(singles) :])}
    for relation in RELATIONS:
        chosen = [v for v, c in zip(verdicts, captions, strict=True) if c.relation == relation]
        numbers[f"relation_right {relation}"] = percent([v.relation_ok for v in chosen])
    return numbers


def measure_reward(options: argparse.Namespace) -> dict[str, object]:
    """How often the reward prefers the right relation: on clean views and on previews by timestep.

    `text`: the true caption scores above one with a wrong relation, on the same picture. `picture`:
    for a caption, the picture of the right relation scores above one of a wrong relation. Only
    views that show the relation count: front and back for left and right, all for top and under.
    """
    pairs = pair_captions(options.split)
    count = len(pairs) // len(RELATIONS)
    groups = [pairs[i].with_relation(r) for i in range(count) for r in RELATIONS]
    batch = rendered(groups, SEED + 1, canonical=True)
    reward = reward_sds("rewards.clip").CLIPRewardModel(
        {"pretrained_model_name_or_path": str(options.weights / "reward")}
    )
    previewer = Previewer(options.weights / "prior", options.device)
    numbers: dict[str, object] = {"clean": preferences(reward, batch.images, batch)}
    chosen = torch.arange(min(PREVIEW_GROUPS, count) * len(RELATIONS))
    part = PictureBatch(
        batch.images[chosen],
        groups[: len(chosen)],
        chosen,
        batch.c2w[chosen],
        batch.azimuth_deg[chosen],
    )
    for steps in (1, 4):
        for timestep in tqdm(PREVIEW_TIMESTEPS, desc=f"previews S={steps}", mininterval=5):
            generator, rng = torch.Generator().manual_seed(timestep), random.Random(timestep)
            shown = [
                previewer.preview(images, c2w, captions, generator, rng, timestep, steps)
                for images, c2w, captions in _by_eight(part)
            ]
            numbers[f"S={steps} t={timestep}"] = preferences(reward, torch.cat(shown), part)
    return numbers


def _by_eight(batch: PictureBatch) -> list[tuple[Tensor, Tensor, list[Caption]]]:
    starts = range(0, len(batch.captions), 8)
    return [
        (batch.images[s : s + 8], batch.c2w[s : s + 8], batch.captions[s : s + 8]) for s in starts
    ]


def preferences(
    reward: Callable[[Tensor, list[str]], Tensor],
    images: Float[Tensor, "N V 3 h w"],
    batch: PictureBatch,
) -> dict[str, float]:
    """Percent of comparisons that the right relation wins; captions come in groups of four
    relations."""
    wins: dict[str, list[bool]] = {"text": [], "picture": []}
    views = [view_of(azimuth) for azimuth in batch.azimuth_deg[0].tolist()]
    for view, name in enumerate(views):
        pictures = images[:, view].unflatten(
            0, (-1, 4)
        )  # [groups, relation of the picture, 3, h, w]
        rows = pictures.repeat_interleave(4, dim=1).flatten(0, 1)
        texts = [
            with_view(c, name)
            for start in range(0, len(images), 4)
            for _ in range(4)
            for c in batch.captions[start : start + 4]
        ]
        scores = reward(rows, texts).view(-1, 4, 4)  # [groups, picture, caption]
        for right, wrong in permutations(range(4), 2):
            sided = INVERSE[RELATIONS[right]] == RELATIONS[wrong] and right < 2
            if name in ("front", "back") or not sided:
                wins["text"] += (scores[:, right, right] > scores[:, right, wrong]).tolist()
                wins["picture"] += (scores[:, right, right] > scores[:, wrong, right]).tolist()
    return {key: percent(values) for key, values in wins.items()}


def percent(values: list[bool]) -> float:
    """Share of true values in percent, one decimal."""
    return round(100 * sum(values) / max(len(values), 1), 1)


def save_sheet(images: Float[Tensor, "N V 3 h w"], path: Path) -> None:
    """Write scenes as rows of views, two scenes a row."""
    num = len(images) // 2 * 2
    rows = images[:num].unflatten(0, (-1, 2)).permute(0, 4, 1, 2, 5, 3)  # [rows h 2 V w 3]
    rows = rows.reshape(num // 2 * images.shape[-2], -1, 3)
    pixels = (rows.clamp(0, 1) * 255).byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), 0).save(
        path, optimize=True
    )


MEASUREMENTS = {"judge": measure_judge, "prior": measure_prior, "reward": measure_reward}


def main() -> None:
    """Run every measurement and write `evaluation-<split>.json` and sample sheets."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--split", choices=("dev", "held-out"), default="dev")
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    options.add_argument("--scenes-per-caption", type=int, default=2)
    options.add_argument("--only", nargs="*", default=("judge", "prior", "reward"))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = options.parse_args()
    path = options.weights / f"evaluation-{options.split}.json"
    numbers = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        numbers[name] = MEASUREMENTS[name](options)
        path.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))
    print(f"written to {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
