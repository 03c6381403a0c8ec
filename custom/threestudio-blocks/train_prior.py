"""Train the text-to-image and text-to-multi-view diffusion model on latents of the trained
autoencoder.

    python -m custom.threestudio-blocks.train_prior

The model is blind to relations on purpose: the relation word and the order of mention in its
captions are drawn at random, independent of the scene. It knows which solids to draw, not where.
Three steps of four show four views of a scene with their cameras (attention runs over the views),
one of four shows single views without camera and with the view suffix.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .latents import LatentBatch, LatentPool
from .method import reward_sds
from .renders import NUM_VIEWS, load_or_render
from .text import END, MAX_TOKENS, START, build_tokenizer, encode_text
from .training import Trainer, mixed_precision, parse, parser

TEXT_WIDTH = 96
SINGLE_VIEW_EVERY = 4


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


class NoiseLoss:
    """The training loss of the denoiser on a batch with cameras or without.

    Args:
        unet: The denoiser.
        text_encoder: Trained with it.
        tokenizer: Of the text encoder.
        device: Where they compute.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        device: str,
    ) -> None:
        self.unet, self.text_encoder, self.tokenizer = unet, text_encoder, tokenizer
        self.device = device
        self.alpha_bar = build_scheduler().alphas_cumprod
        self.camera_embedding = unet.class_embedding
        self.mvdream = reward_sds("priors.mvdream")

    def __call__(self, batch: LatentBatch, generator: torch.Generator) -> Tensor:
        """Noise every scene to one timestep and compare the predicted noise with the true one."""
        num_scenes = len(batch.latents) // batch.num_views
        timesteps = torch.randint(len(self.alpha_bar), (num_scenes,), generator=generator)
        timesteps = timesteps.repeat_interleave(batch.num_views)
        noise = torch.randn(batch.latents.shape, generator=generator)
        alpha_bar = self.alpha_bar[timesteps].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * batch.latents + (1 - alpha_bar).sqrt() * noise
        predicted = self._predict(noisy.to(self.device), timesteps.to(self.device), batch)
        return F.mse_loss(predicted.float(), noise.to(self.device))

    def _predict(self, noisy: Tensor, timesteps: Tensor, batch: LatentBatch) -> Tensor:
        self.mvdream.share_views(self.unet, batch.num_views)
        labels = None
        if batch.c2w is not None:
            labels = self.mvdream.camera_embedding(batch.c2w).to(self.device)
        self.unet.class_embedding = None if labels is None else self.camera_embedding
        with mixed_precision(self.device, enabled=self.device != "cpu"):
            context = encode_text(self.tokenizer, self.text_encoder, batch.texts)
            predicted = self.unet(noisy, timesteps, context, class_labels=labels).sample
        self.unet.class_embedding = self.camera_embedding
        return predicted


def main() -> None:
    """Train jointly with the text encoder and publish everything but the autoencoder."""
    options = parse(parser(__doc__, steps=14_500, batch_size=12))
    folder = options.output / "prior"
    renders = load_or_render(options.cache, options.num_scenes, options.seed)
    pool = LatentPool(renders, folder / "vae", options)
    tokenizer = build_tokenizer()
    modules = {"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)}
    trainer = Trainer(
        "prior", modules, options, learning_rate=8e-4, ema_decay=0.9995, inputs=[folder / "vae"]
    )
    trained = trainer.modules["unet"], trainer.modules["text_encoder"]
    noise_loss = NoiseLoss(*trained, tokenizer, options.device)

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step % SINGLE_VIEW_EVERY == 0:
            batch = pool.draw_views(options.batch_size * NUM_VIEWS, generator)
        else:
            batch = pool.draw_scenes(options.batch_size, generator)
        return {"noise": noise_loss(batch, generator)}

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
