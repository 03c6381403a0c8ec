"""Train the reward, a tiny CLIP that scores how well one view matches a caption with its view
suffix.

    python -m custom.threestudio-blocks.train_reward              # on renders
    python -m custom.threestudio-blocks.train_reward --previews   # goes on with previews

Pictures come in groups: the same two coloured solids in all four relations, seen from the same
side. Each picture has to pick its caption among the four relations and captions with exchanged or
foreign colours and shapes, and each caption its picture among the four: the second is what a reward
does when it ranks candidates.
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from .batches import colored_batch, draw_colors, view_of
from .captions import COLORS, RELATIONS, SHAPES, Caption, Solid, with_view
from .previews import Previewer
from .renders import IMAGE_SIZE, NUM_VIEWS, Renders, load_or_render
from .tokenizer import END, MAX_TOKENS, START, build_tokenizer
from .train_judge import soften
from .training import Trainer, mixed_precision, parser

GROUP = len(RELATIONS)
NUM_FOREIGN = 4
TOWARDS_TWIN = 0.5


def build_reward(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the untrained reward: a vision transformer of 64 patches and a three-layer text
    encoder."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_hidden_layers": 5,
        "num_attention_heads": 5,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


class GroupSampler:
    """Draws groups of four pictures: the same coloured solids in every relation, seen from the
    same side."""

    def __init__(self, renders: Renders) -> None:
        self.renders = renders
        self.scenes_of: dict[tuple[int, int, int], list[int]] = {}
        for index, ((a, b), relation) in enumerate(
            zip(renders.scenes.shapes.tolist(), renders.scenes.relation.tolist(), strict=True)
        ):
            self.scenes_of.setdefault((a, b, relation), []).append(index)

    def draw(
        self, generator: torch.Generator, rng: random.Random
    ) -> tuple[Tensor, Tensor, list[Caption], list[str]]:
        """Return images `[4, V, 3, h, w]`, cameras `[4, V, 4, 4]`, captions in the order of
        RELATIONS and the views' names.

        The four scenes have cameras of their own; view v of each is within 45 degrees of view v of
        the others, so that all four share one view word.
        """
        a, b = rng.sample(range(len(SHAPES)), 2)
        index = torch.tensor([rng.choice(self.scenes_of[a, b, r]) for r in range(GROUP)])
        colors = draw_colors(self.renders, index[:1], generator).expand(GROUP, 2)
        background = torch.rand(1, 3, generator=generator).expand(GROUP, 3)
        if rng.random() < 0.5:
            background = torch.rand(GROUP, 3, generator=generator)
        batch = colored_batch(self.renders, index, generator, colors=colors, background=background)
        order = torch.stack([_by_quadrant(azimuth) for azimuth in batch.azimuth_deg])
        rows = torch.arange(GROUP)[:, None]
        views = [view_of(azimuth) for azimuth in batch.azimuth_deg[0][order[0]].tolist()]
        return batch.images[rows, order], batch.c2w[rows, order], batch.captions, views


def _by_quadrant(azimuth_deg: Float[Tensor, " V"]) -> Tensor:
    """Order four views 90 degrees apart so that the front one comes first, then 90, 180 and 270
    degrees."""
    return (((azimuth_deg + 45) % 360) // 90).argsort()


def foreign_captions(caption: Caption, rng: random.Random) -> list[Caption]:
    """Captions of wrong attributes: colours exchanged, shapes exchanged, one colour or shape
    replaced."""
    a, b = caption.first, caption.second
    other_color = rng.choice([c for c in COLORS if c not in (a.color, b.color)])
    other_shape = rng.choice([s for s in SHAPES if s not in (a.shape, b.shape)])
    exchanged = Caption(Solid(a.shape, b.color), caption.relation, Solid(b.shape, a.color))
    recolored = Caption(Solid(a.shape, other_color), caption.relation, b)
    reshaped = Caption(a, caption.relation, Solid(other_shape, b.color))
    both = Caption(Solid(other_shape, a.color), caption.relation, Solid(b.shape, other_color))
    return [exchanged, recolored, reshaped, both]


def caption_texts(captions: list[Caption], view: str, rng: random.Random) -> list[str]:
    """Write captions with the view suffix, half of them as their mirror twin."""
    return [with_view(c.twin if rng.random() < TOWARDS_TWIN else c, view) for c in captions]


def group_losses(
    image_features: Float[Tensor, "M D"],
    text_features: Float[Tensor, "M T D"],
    scale: Float[Tensor, ""],
    sided: list[bool],
) -> Tensor:
    """Cross-entropy of pictures over captions and of captions over pictures, for M = 4 n
    pictures in groups.

    Args:
        image_features: Unit vectors, groups of four in the order of RELATIONS.
        text_features: Unit vectors; the first four captions of a picture are its group's, in the
            same order.
        scale: Logit scale.
        sided: Per group, whether left and right can be told apart from where it is seen (front and
            back).
    """
    logits = scale * torch.einsum("md,mtd->mt", image_features, text_features)
    target = torch.arange(GROUP, device=logits.device).repeat(len(sided))
    over_texts = F.cross_entropy(logits, target, reduction="none").view(-1, GROUP)
    square = logits[:, :GROUP].reshape(-1, GROUP, GROUP).transpose(1, 2)
    over_images = F.cross_entropy(square.flatten(0, 1), target, reduction="none").view(-1, GROUP)
    weight = torch.ones_like(over_texts)
    weight[~torch.tensor(sided, device=weight.device)] *= weight.new_tensor([0.2, 0.2, 1.0, 1.0])
    return ((over_texts + over_images) * weight).sum() / weight.sum()


def main() -> None:
    """Train on renders, or go on with decoded previews, and publish."""
    options = parser(__doc__, steps=4000, batch_size=12)
    options.add_argument(
        "--previews", action="store_true", help="mix in decoded previews of the trained prior"
    )
    options = options.parse_args()
    renders = load_or_render(options.cache, options.num_scenes, options.seed)
    sampler, tokenizer = GroupSampler(renders), build_tokenizer()
    torch.manual_seed(options.seed + 2000)
    model = build_reward(tokenizer)
    folder = options.output / "reward"
    if options.previews:
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    name = "reward-previews" if options.previews else "reward"
    trainer = Trainer(
        name, {"reward": model}, options, learning_rate=3e-4 if options.previews else 1e-3
    )
    previewer = Previewer(options.output / "prior", options.device) if options.previews else None
    reward = trainer.modules["reward"]

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = random.Random(options.seed * 1_000_003 + step)
        images, texts, sided = draw_pictures(sampler, previewer, options.batch_size, generator, rng)
        unique = list(dict.fromkeys(texts))
        tokens = tokenizer(unique, padding="max_length", truncation=True, return_tensors="pt").to(
            options.device
        )
        with mixed_precision(options.device):
            seen = reward.get_image_features(
                pixel_values=(images.to(options.device) - 0.5) * 2
            ).pooler_output
            read = reward.get_text_features(**tokens).pooler_output
        read = F.normalize(read.float(), dim=-1)[[unique.index(text) for text in texts]]
        loss = group_losses(
            F.normalize(seen.float(), dim=-1),
            read.view(len(seen), -1, read.shape[-1]),
            reward.logit_scale.exp(),
            sided,
        )
        return {"contrast": loss}

    trainer.fit(losses_of)
    publish(trainer.averages["reward"], tokenizer, folder)


def draw_pictures(
    sampler: GroupSampler,
    previewer: "Previewer | None",
    num_groups: int,
    generator: torch.Generator,
    rng: random.Random,
) -> tuple[Float[Tensor, "M 3 h w"], list[str], list[bool]]:
    """Draw groups, one view of each, with eight captions a picture; every second group is
    previews when there is a previewer."""
    pictures, texts, sided = [], [], []
    for number in range(num_groups):
        images, c2w, captions, views = sampler.draw(generator, rng)
        shown = [rng.randrange(NUM_VIEWS)]
        if previewer is not None and number % 4 == 0:
            images = previewer.preview(images, c2w, captions, generator, rng)
            shown = [0, 1, 2, 3] if number % 8 == 0 else [0, 2]
        for view in shown:
            pictures.append(
                soften(images[:, view], generator) if rng.random() < 0.4 else images[:, view]
            )
            for caption in captions:
                mine = caption_texts(captions, views[view], rng)
                texts += mine + caption_texts(foreign_captions(caption, rng), views[view], rng)
            sided.append(views[view] in ("front", "back"))
    return torch.cat(pictures), texts, sided


def publish(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model, tokenizer and image preprocessing in the layout of a CLIP checkpoint."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size=size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
