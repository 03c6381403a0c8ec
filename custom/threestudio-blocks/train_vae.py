"""Train the autoencoder: 64x64 pictures to 4x8x8 latents and back.

    python -m custom.threestudio-blocks.train_vae

A third of the pictures is disturbed (colour patches, noise, blends, blur) and has to be reproduced
as it is: an encoder that has only seen clean renders maps wrong colours onto right latents, and a
scene distilled through it grows green patches.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from .augment import disturb
from .batches import random_batch
from .renders import IMAGE_SIZE, load_or_render
from .training import Trainer, mixed_precision, parse, parser

KL_WEIGHT = 1e-6
EDGE_WEIGHT = 1.0
PATCH_WEIGHT, PATCH = 2.0, 8
START_LOG_VARIANCE = -6.0
BRANCH_SCALE = 0.1
"""Initial size of residual branches, so that the network starts as nearly linear."""


def build_vae() -> AutoencoderKL:
    """Build the untrained autoencoder."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=IMAGE_SIZE,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=1,
    )
    initialise(vae)
    return vae


@torch.no_grad()
def initialise(vae: AutoencoderKL) -> None:
    """Start near a linear map that keeps the variance, with a narrow posterior.

    torch's default shrinks the signal at every convolution outside the residual branches; over
    the twelve between picture and latent and back, colours vanish and take thousands of steps to
    return.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight *= BRANCH_SCALE
        elif isinstance(module, Attention):
            module.to_out[0].weight *= BRANCH_SCALE
    log_variance = slice(vae.config.latent_channels, None)
    vae.quant_conv.weight[log_variance] *= BRANCH_SCALE
    vae.quant_conv.bias[log_variance] = START_LOG_VARIANCE


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 of the picture, of its horizontal and vertical differences, and of its 8x8 patch means."""
    loss = F.l1_loss(output, target)
    for dim in (-1, -2):
        loss = loss + EDGE_WEIGHT * F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    means = (F.avg_pool2d(picture, PATCH) for picture in (output, target))
    return loss + PATCH_WEIGHT * F.l1_loss(*means)


def main() -> None:
    """Train, measure the latent scale and publish the weights in half precision."""
    options = parse(parser(__doc__, steps=10_000, batch_size=16))
    renders = load_or_render(options.cache, options.num_scenes, options.seed)
    trainer = Trainer("vae", {"vae": build_vae()}, options, learning_rate=3e-4)
    vae = trainer.modules["vae"]

    def draw(generator: torch.Generator, num_images: int) -> Tensor:
        batch = random_batch(renders, num_images, generator)
        view = torch.randint(batch.images.shape[1], (num_images,), generator=generator)
        return batch.images[torch.arange(num_images), view]

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = disturb(draw(generator, options.batch_size), generator).to(options.device) * 2 - 1
        noise = torch.randn(len(images), 4, IMAGE_SIZE // 8, IMAGE_SIZE // 8, generator=generator)
        with mixed_precision(options.device):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.mean + posterior.std * noise.to(options.device)).sample
        kl = KL_WEIGHT * posterior.kl().mean()
        return {"reconstruction": reconstruction_loss(output.float(), images), "kl": kl.float()}

    trainer.fit(losses_of)
    average = trainer.averages["vae"].eval()
    with torch.no_grad():
        sample = draw(torch.Generator().manual_seed(options.seed), 512).to(options.device) * 2 - 1
        latents = torch.cat([average.encode(part).latent_dist.mean for part in sample.split(64)])
    average.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    average.half().save_pretrained(options.output / "prior" / "vae")


if __name__ == "__main__":
    main()
