"""Measure judge, autoencoder, prior and reward on captions that they were not trained on.

The dev captions are for working, the held-out captions give the numbers of the model card:

    python -m custom.threestudio-blocks.evaluate
    python -m custom.threestudio-blocks.evaluate --split held-out
"""

import argparse
import json
from itertools import permutations
from pathlib import Path
from typing import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from threestudio.utils.misc import set_cpu_only

from .batches import QUADRANTS, PictureBatch, front_first
from .captions import (
    COLORS,
    INVERSE,
    RELATIONS,
    Caption,
    pair_captions,
    pair_splits,
    single_captions,
    with_view,
)
from .decoded import through_autoencoder
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
from .training import WEIGHTS, python_rng

PREVIEW_TIMESTEPS = (100, 200, 300, 400, 500, 600, 700, 800, 900, 950)
SEED = 20251
CHUNK = 16
PRIOR_PAIRS = 40
"""Captions of each relation that the prior is sampled with."""
PREFERENCES = ("text", "text_inverse", "picture", "picture_inverse")
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


def measure_judge_front(options: argparse.Namespace) -> dict[str, float]:
    """The same of the judge that reads one front view, also after encoding and decoding."""
    captions = single_captions(options.split) * 8 + pair_captions(options.split)
    views = rendered(captions, SEED, canonical=True).images[:, :1]
    vae, judge = options.weights / "prior" / "vae", Judge.load(options.weights / "judge-front")
    decoded = through_autoencoder(views[:, 0], vae, options.device)[:, None]
    shares = {}
    for name, pictures in (("fully_right", views), ("fully_right_decoded", decoded)):
        seen = judge.see(pictures)
        shares[name] = percent([s == c.slots for s, c in zip(seen, captions, strict=True)])
    return {"renders": len(views), **shares}


def measure_autoencoder(options: argparse.Namespace) -> dict[str, float]:
    """Encode and decode clean renders: mean absolute error in grey levels of 255, and what the
    judge still reads fully right."""
    captions = single_captions(options.split) * 4 + pair_captions(options.split)
    views = rendered(captions, SEED, canonical=True).images
    vae = options.weights / "prior" / "vae"
    seen_through = through_autoencoder(views.flatten(0, 1), vae, options.device).view_as(views)
    pairs = torch.stack([views[-12:], seen_through[-12:]], dim=1).flatten(0, 1)
    save_sheet(pairs, options.weights / f"samples-autoencoder-{options.split}.png")
    seen = Judge.load(options.weights / "judge").see(seen_through)
    right = [s == caption.slots for s, caption in zip(seen, captions, strict=True)]
    error = 255 * (views - seen_through).abs().mean().item()
    return {"renders": len(right), "fully_right": percent(right), "error": round(error, 2)}


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
    """How often the reward prefers the right relation, on clean views and on previews by timestep.

    Cameras and backgrounds are drawn as in a distillation. Only views that show the relation
    count: front and back between left and right, all otherwise.
    """
    captions = relation_groups(options.split)
    batch = front_first(rendered(captions, SEED + 1, canonical=False))
    reward_class = reward_sds("rewards.clip").CLIPRewardModel
    reward = reward_class({"pretrained_model_name_or_path": str(options.weights / "reward")})
    previewer = Previewer(options.weights / "prior", options.device)
    numbers: dict[str, object] = {"clean": preferences(reward, batch.images, captions)}
    few = PREVIEW_GROUPS * len(RELATIONS)
    starts = range(0, min(few, len(captions)), 8)
    for steps in (1, 4):
        for timestep in tqdm(PREVIEW_TIMESTEPS, desc=f"previews S={steps}", mininterval=5):
            generator = torch.Generator().manual_seed(timestep)
            shown = []
            for rows in (slice(start, start + 8) for start in starts):
                part = batch.images[rows], batch.c2w[rows], captions[rows]
                rng = python_rng(generator)
                shown.append(previewer.preview(*part, generator, rng, timestep, steps))
            numbers[f"S={steps} t={timestep}"] = preferences(reward, torch.cat(shown), captions)
    return numbers


def relation_groups(split: str) -> list[Caption]:
    """List all captions of the pairs of a split: groups of one pair in the order of RELATIONS."""
    pairs = pair_captions(split)[: len(pair_splits()[split])]  # the first turn names each pair once
    return [pair.with_relation(relation) for pair in pairs for relation in RELATIONS]


def preferences(
    reward: Callable[[Tensor, list[str]], Tensor],
    images: Float[Tensor, "N V 3 h w"],
    captions: list[Caption],
) -> dict[str, float]:
    """Percent of comparisons of a right with a wrong relation that the right one wins.

    Args:
        reward: Scores pictures against texts.
        images: Groups of four scenes in the order of RELATIONS; views in the order of QUADRANTS.
        captions: At least one per scene.

    Returns:
        `text`: captions compared on a picture; `picture`: pictures compared for a caption, which
        is what ranking candidates needs; `..._inverse`: only left with right and top with under.
    """
    wins: dict[str, list[bool]] = {key: [] for key in PREFERENCES}
    for view, name in enumerate(QUADRANTS):
        pictures = images[:, view].unflatten(0, (-1, 4))  # [groups, relation of the picture, ...]
        groups = [captions[start : start + 4] for start in range(0, len(images), 4)]
        texts = [with_view(c, name) for group in groups for _ in group for c in group]
        scores = reward(pictures.repeat_interleave(4, dim=1).flatten(0, 1), texts)
        scores = scores.view(-1, 4, 4)  # [groups, picture, caption]
        for right, wrong in permutations(range(4), 2):
            inverse = INVERSE[RELATIONS[right]] == RELATIONS[wrong]
            if right < 2 and name == "side":
                continue  # left and right hide one another
            best = scores[:, right, right]
            outcome = {"text": best > scores[:, right, wrong]}
            outcome["picture"] = best > scores[:, wrong, right]
            for key, won in outcome.items():
                wins[key] += won.tolist()
                wins[f"{key}_inverse"] += won.tolist() if inverse else []
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


MEASUREMENTS = {
    "judge": measure_judge,
    "judge-front": measure_judge_front,
    "autoencoder": measure_autoencoder,
    "prior": measure_prior,
    "reward": measure_reward,
}


def main() -> None:
    """Run every measurement and write `evaluation-<split>.json` and sample sheets."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--split", choices=("dev", "held-out"), default="dev")
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    options.add_argument("--scenes-per-caption", type=int, default=2)
    options.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=tuple(MEASUREMENTS))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = options.parse_args()
    set_cpu_only(options.device == "cpu")
    path = options.weights / f"evaluation-{options.split}.json"
    numbers = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        numbers[name] = MEASUREMENTS[name](options)
        path.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
