"""Train the text-to-image and text-to-multi-view diffusion model on latents of the trained
autoencoder.

    python -m custom.threestudio-blocks.train_prior

The model is blind to relations on purpose: the relation word and the order of mention in its
captions are drawn at random, independent of the scene. It knows which solids to draw, not where.
Three steps of four show four views of a scene with their cameras (attention runs over the views),
one of four shows single views without camera and with the view suffix.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .batches import caption_of, colored_batch, draw_colors, view_of
from .captions import RELATIONS, Caption, with_view
from .method import reward_sds
from .renders import NUM_VIEWS, Renders, load_or_render
from .tokenizer import END, MAX_TOKENS, START, build_tokenizer
from .training import Trainer, mixed_precision, parser

TEXT_WIDTH = 96
TEXT_DROPOUT = 0.12
SINGLE_VIEW_EVERY = 4
POOL_VARIANTS = 4


def build_unet() -> UNet2DConditionModel:
    """Build the untrained denoiser: two levels, one layer each, a camera embedding, 4.3 M
    parameters."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the untrained text encoder, two layers wide enough for forty words."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.convert_tokens_to_ids(START),
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            pad_token_id=tokenizer.convert_tokens_to_ids(END),
        )
    )


def build_scheduler() -> DDIMScheduler:
    """Build Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def encode_text(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]
) -> Float[Tensor, "N S D"]:
    """Encode texts as Stable Diffusion does: padded to the longest length, last hidden state."""
    unique = list(dict.fromkeys(texts))
    tokens = tokenizer(unique, padding="max_length", truncation=True, return_tensors="pt").input_ids
    hidden = encoder(tokens.to(encoder.device)).last_hidden_state
    return hidden[[unique.index(text) for text in texts]]


def blind(caption: Caption, rng: random.Random) -> Caption:
    """Replace the relation by any of the four and name the solids in any order."""
    if caption.second is None:
        return caption
    first, second = rng.sample((caption.first, caption.second), 2)
    return Caption(first, rng.choice(RELATIONS), second)


class LatentPool:
    """Latents of every rendered scene in several colourings, encoded once and kept in the cache."""

    def __init__(self, renders: Renders, vae: AutoencoderKL, options: argparse.Namespace) -> None:
        self.renders = renders
        path = Path(options.cache) / f"latents-{len(renders)}-seed{options.seed}.pt"
        if not path.exists():
            torch.save(self._encode(vae, options), path)
        state = torch.load(path, weights_only=True)
        self.latents, self.colors = state["latents"], state["colors"]

    def _encode(
        self, vae: AutoencoderKL, options: argparse.Namespace, chunk: int = 50
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(options.seed)
        latents, colors = [], []
        starts = [s for _ in range(POOL_VARIANTS) for s in range(0, len(self.renders), chunk)]
        for start in tqdm(starts, desc="encoding renders", mininterval=5):
            index = torch.arange(start, min(start + chunk, len(self.renders)))
            chosen = draw_colors(self.renders, index, generator)
            images = colored_batch(self.renders, index, generator, colors=chosen).images.to(
                options.device
            )
            with torch.no_grad(), mixed_precision(options.device):
                mean = vae.encode(images.flatten(0, 1) * 2 - 1).latent_dist.mean
            latents.append(
                (mean.float() * vae.config.scaling_factor)
                .half()
                .cpu()
                .view(len(index), NUM_VIEWS, 4, 8, 8)
            )
            colors.append(chosen)
        return {"latents": torch.cat(latents), "colors": torch.cat(colors)}

    def draw(
        self, num: int, generator: torch.Generator
    ) -> tuple[Tensor, list[Caption], Int[Tensor, " N"]]:
        """Draw scenes: latents `[N, V, 4, 8, 8]`, true captions, and which rendered scene each
        one is."""
        chosen = torch.randint(len(self.latents), (num,), generator=generator)
        index = chosen % len(self.renders)
        captions = [
            caption_of(self.renders.scenes, i, self.colors[c])
            for i, c in zip(index.tolist(), chosen, strict=True)
        ]
        return self.latents[chosen].float(), captions, index


def main() -> None:
    """Train jointly with the text encoder and publish everything but the autoencoder."""
    options = parser(__doc__, steps=9000, batch_size=12).parse_args()
    renders = load_or_render(options.cache, options.num_scenes, options.seed)
    folder = options.output / "prior"
    vae = (
        AutoencoderKL.from_pretrained(folder / "vae")
        .to(options.device)
        .eval()
        .requires_grad_(False)
    )
    pool = LatentPool(renders, vae, options)
    tokenizer = build_tokenizer()
    torch.manual_seed(options.seed)
    modules: dict[str, nn.Module] = {
        "unet": build_unet(),
        "text_encoder": build_text_encoder(tokenizer),
    }
    trainer = Trainer("prior", modules, options, learning_rate=8e-4, ema_decay=0.9995)
    unet, text_encoder = trainer.modules["unet"], trainer.modules["text_encoder"]
    alpha_bar = build_scheduler().alphas_cumprod
    camera_embedding = unet.class_embedding
    mvdream = reward_sds("priors.mvdream")

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        multi_view = step % SINGLE_VIEW_EVERY != 0
        rng = random.Random(options.seed * 1_000_003 + step)
        num_scenes = options.batch_size if multi_view else options.batch_size * NUM_VIEWS
        latents, captions, index = pool.draw(num_scenes, generator)
        captions = [blind(caption, rng) for caption in captions]
        if multi_view:
            texts = [str(c) for c in captions for _ in range(NUM_VIEWS)]
            latents, cameras = (
                latents.flatten(0, 1),
                mvdream.camera_embedding(renders.c2w[index].flatten(0, 1)),
            )
        else:
            view = torch.randint(NUM_VIEWS, (num_scenes,), generator=generator)
            azimuths = renders.azimuth_deg[index, view].tolist()
            texts = [with_view(c, view_of(a)) for c, a in zip(captions, azimuths, strict=True)]
            latents, cameras = latents[torch.arange(num_scenes), view], None
        num_joint = NUM_VIEWS if multi_view else 1
        dropped = [rng.random() < TEXT_DROPOUT for _ in range(num_scenes)]
        texts = ["" if dropped[i // num_joint] else text for i, text in enumerate(texts)]
        timesteps = torch.randint(1000, (num_scenes,), generator=generator).repeat_interleave(
            num_joint
        )
        noise = torch.randn(latents.shape, generator=generator)
        kept = alpha_bar[timesteps].view(-1, 1, 1, 1)
        noisy = (kept.sqrt() * latents + (1 - kept).sqrt() * noise).to(options.device)
        mvdream.share_views(unet, num_joint)
        unet.class_embedding = camera_embedding if multi_view else None
        labels = None if cameras is None else cameras.to(options.device)
        with mixed_precision(options.device, enabled=options.device != "cpu"):
            context = encode_text(tokenizer, text_encoder, texts)
            predicted = unet(
                noisy, timesteps.to(options.device), context, class_labels=labels
            ).sample
        unet.class_embedding = camera_embedding
        loss = F.mse_loss(predicted.float(), noise.to(options.device))
        return {"noise": loss}

    trainer.fit(losses_of)
    publish(trainer, tokenizer, folder)


def publish(trainer: Trainer, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write UNet, text encoder, tokenizer and scheduler in the layout of a diffusers pipeline."""
    trainer.averages["unet"].half().save_pretrained(folder / "unet")
    trainer.averages["text_encoder"].half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    build_scheduler().save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {"_class_name": "StableDiffusionPipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
