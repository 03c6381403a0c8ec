"""Train the reward, a tiny CLIP that scores how well one view matches a caption with its view
suffix.

    python -m custom.threestudio-blocks.train_reward              # on renders
    python -m custom.threestudio-blocks.train_reward --previews   # goes on with previews

Pictures come in groups: the same two coloured solids in all four relations, seen from the same
side. Each picture has to pick its caption among the four relations and captions with exchanged or
foreign colours and shapes, and each caption its picture among the four: the second is what a reward
does when it ranks candidates.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from .captions import Solid
from .groups import GROUP, GroupBatch, GroupSampler, draw_groups
from .previews import Previewer
from .renders import IMAGE_SIZE, load_or_render
from .slots import SlotHead, slot_loss, slot_targets, slots_in_view
from .text import END, MAX_TOKENS, START, build_tokenizer, tokenize
from .training import Trainer, mixed_precision, parse, parser

STEPS_RENDERS, STEPS_PREVIEWS = 4000, 300
"""Default lengths of the two trainings."""
PROJECTION = 96
IMAGE_MEAN, IMAGE_STD = 0.5, 0.5
"""Normalisation of pictures in [0, 1], the same for the three channels."""


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
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


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


class RewardLosses:
    """The training losses of the reward on a batch of groups.

    Beside the contrast, both towers have to tell what stands where in the picture. Without that
    they learn colours and shapes in minutes and the relation hardly at all.

    Args:
        reward: What is trained.
        heads: `SlotHead`s "image" and "text" on the projected features; not published.
        tokenizer: Of the text encoder.
        device: Where they compute.
    """

    def __init__(
        self, reward: CLIPModel, heads: nn.ModuleDict, tokenizer: CLIPTokenizer, device: str
    ) -> None:
        self.reward, self.heads = reward, heads
        self.tokenizer, self.device = tokenizer, device

    def __call__(self, batch: GroupBatch) -> dict[str, Tensor]:
        """Encode pictures and captions, compare them within groups, read slots from both."""
        unique = list(dict.fromkeys(batch.texts))
        tokens = tokenize(self.tokenizer, unique).to(self.device)
        pixels = (batch.images.to(self.device) - IMAGE_MEAN) / IMAGE_STD
        with mixed_precision(self.device):
            seen = self.reward.get_image_features(pixel_values=pixels).pooler_output.float()
            read = self.reward.get_text_features(input_ids=tokens).pooler_output.float()
        true = [batch.texts[8 * row + row % GROUP] for row in range(len(seen))]
        where = {"image": (seen, true), "text": (read, unique)}
        losses = {
            name: torch.stack(slot_loss(self.heads[name](x), slot_targets(slots_of(texts)))).sum()
            for name, (x, texts) in where.items()
        }
        read = F.normalize(read, dim=-1)[[unique.index(text) for text in batch.texts]]
        read, seen = read.unflatten(0, (len(seen), -1)), F.normalize(seen, dim=-1)
        contrast = group_losses(seen, read, self.reward.logit_scale.exp(), batch.sided)
        return {"contrast": contrast, **losses}


def slots_of(texts: list[str]) -> list[dict[str, Solid] | None]:
    """Where each caption with view suffix puts its solids in the picture."""
    return [slots_in_view(text) for text in texts]


def main() -> None:
    """Train on renders, or go on with decoded previews, and publish."""
    options = parser(__doc__, steps=None, batch_size=12)
    options.add_argument(
        "--previews", action="store_true", help="mix in decoded previews of the trained prior"
    )
    options = parse(options)
    if options.steps is None:
        options.steps = STEPS_PREVIEWS if options.previews else STEPS_RENDERS
    folder, prior = options.output / "reward", options.output / "prior"
    renders = load_or_render(options.cache, options.num_scenes, options.seed)
    sampler, tokenizer = GroupSampler(renders), build_tokenizer()
    heads = nn.ModuleDict({name: SlotHead(PROJECTION) for name in ("image", "text")})
    modules = nn.ModuleDict({"reward": build_reward(tokenizer), "heads": heads})
    if options.previews:
        previewer = Previewer(prior, options.device)
        modules.load_state_dict(trained_on_renders(options.cache / "reward.pt"))
        trainer = Trainer("reward-previews", dict(modules), options, 3e-4, inputs=[prior])
    else:
        previewer = None
        trainer = Trainer("reward", dict(modules), options, 8e-4)
    trained = trainer.modules["reward"], trainer.modules["heads"]
    reward_losses = RewardLosses(*trained, tokenizer, options.device)

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return reward_losses(draw_groups(sampler, previewer, options.batch_size, generator))

    trainer.fit(losses_of)
    publish(trainer.averages["reward"], tokenizer, folder)


def trained_on_renders(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights, heads included, that the training on renders ended with."""
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is missing: run without --previews first.")
    return torch.load(checkpoint, weights_only=True)["averages"]


def publish(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model, tokenizer and image preprocessing in the layout of a CLIP checkpoint."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size=size,
        image_mean=[IMAGE_MEAN] * 3,
        image_std=[IMAGE_STD] * 3,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
