"""Names and shapes of an original MVDream checkpoint in any size, as published."""

from dataclasses import dataclass

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a checkpoint."""

    linear: bool
    """Linear projections and open_clip's text tower (from 2.1), or convolutions and CLIP's."""
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[bool, ...]
    """Which levels have attention."""
    num_blocks: int
    vae_width: int
    vae_multipliers: tuple[int, ...]
    vae_blocks: int
    context: int
    text_layers: int
    vocabulary: int
    positions: int
    camera: bool = True


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    """Return weight and bias of a layer whose weight has the given shape."""
    return {f"{name}.weight": weight, **({f"{name}.bias": weight[:1]} if bias else {})}


def residual(name: str, inputs: int, outputs: int, emb: int) -> Shapes:
    """Residual block of the UNet."""
    shapes = layer(f"{name}.in_layers.0", inputs) | layer(
        f"{name}.in_layers.2", outputs, inputs, 3, 3
    )
    shapes |= layer(f"{name}.emb_layers.1", outputs, emb) | layer(f"{name}.out_layers.0", outputs)
    shapes |= layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        shapes |= layer(f"{name}.skip_connection", outputs, inputs, 1, 1)
    return shapes


def transformer(name: str, width: int, context: int, linear: bool) -> Shapes:
    """Transformer of the UNet, one block deep."""
    kernel = () if linear else (1, 1)
    shapes = layer(f"{name}.norm", width) | layer(f"{name}.proj_in", width, width, *kernel)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        shapes |= layer(f"{block}.{attention}.to_q", width, width, bias=False)
        shapes |= layer(f"{block}.{attention}.to_k", width, source, bias=False)
        shapes |= layer(f"{block}.{attention}.to_v", width, source, bias=False)
        shapes |= layer(f"{block}.{attention}.to_out.0", width, width)
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= layer(f"{block}.{norm}", width)
    shapes |= layer(f"{block}.ff.net.0.proj", 8 * width, width)
    shapes |= layer(f"{block}.ff.net.2", width, 4 * width)
    return shapes | layer(f"{name}.proj_out", width, width, *kernel)


def blocks(name: str, sizes: Sizes, inputs: int, level: int) -> Shapes:
    """Residual block of a level, and its transformer if the level has attention."""
    outputs = sizes.multipliers[level] * sizes.width
    shapes = residual(f"{name}.0", inputs, outputs, 4 * sizes.width)
    if sizes.attention[level]:
        shapes |= transformer(f"{name}.1", outputs, sizes.context, sizes.linear)
    return shapes


def down_shapes(sizes: Sizes) -> tuple[Shapes, list[int]]:
    """Return the way down and the widths of what it saves for the way up."""
    shapes, saved = layer("input_blocks.0.0", sizes.width, 4, 3, 3), [sizes.width]
    last = len(sizes.multipliers) - 1
    for level, multiplier in enumerate(sizes.multipliers):
        for _ in range(sizes.num_blocks):
            shapes |= blocks(f"input_blocks.{len(saved)}", sizes, saved[-1], level)
            saved.append(multiplier * sizes.width)
        if level < last:
            shapes |= layer(f"input_blocks.{len(saved)}.0.op", saved[-1], saved[-1], 3, 3)
            saved.append(saved[-1])
    return shapes, saved


def up_shapes(sizes: Sizes, saved: list[int]) -> Shapes:
    """The way up; the last block of each level but the first enlarges."""
    shapes: Shapes = {}
    width, index = saved[-1], 0
    for level in reversed(range(len(sizes.multipliers))):
        for _ in range(sizes.num_blocks + 1):
            shapes |= blocks(f"output_blocks.{index}", sizes, width + saved.pop(), level)
            width, index = sizes.multipliers[level] * sizes.width, index + 1
        if level:
            name = f"output_blocks.{index - 1}.{1 + sizes.attention[level]}.conv"
            shapes |= layer(name, width, width, 3, 3)
    return shapes


def unet_shapes(sizes: Sizes) -> Shapes:
    """The UNet, with the camera's embedding if there is one."""
    width, emb = sizes.width, 4 * sizes.width
    shapes = layer("time_embed.0", emb, width) | layer("time_embed.2", emb, emb)
    if sizes.camera:
        shapes |= layer("camera_embed.0", emb, 16) | layer("camera_embed.2", emb, emb)
    down, saved = down_shapes(sizes)
    middle = saved[-1]
    shapes |= down | residual("middle_block.0", middle, middle, emb)
    shapes |= transformer("middle_block.1", middle, sizes.context, sizes.linear)
    shapes |= residual("middle_block.2", middle, middle, emb) | up_shapes(sizes, saved)
    shapes |= layer("out.0", width) | layer("out.2", 4, width, 3, 3)
    return {UNET + name: shape for name, shape in shapes.items()}


def vae_block(name: str, inputs: int, outputs: int) -> Shapes:
    """Residual block of the autoencoder."""
    shapes = layer(f"{name}.norm1", inputs) | layer(f"{name}.conv1", outputs, inputs, 3, 3)
    shapes |= layer(f"{name}.norm2", outputs) | layer(f"{name}.conv2", outputs, outputs, 3, 3)
    if inputs != outputs:
        shapes |= layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)
    return shapes


def vae_ends(name: str, width: int, last: int, inputs: int, outputs: int) -> Shapes:
    """Middle, first and last layers of encoder or decoder."""
    first = last if name == "decoder" else width
    shapes = layer(f"{name}.conv_in", first, inputs, 3, 3)
    shapes |= layer(f"{name}.norm_out", width if name == "decoder" else last)
    shapes |= layer(f"{name}.conv_out", outputs, width if name == "decoder" else last, 3, 3)
    for block in ("block_1", "block_2"):
        shapes |= vae_block(f"{name}.mid.{block}", last, last)
    shapes |= layer(f"{name}.mid.attn_1.norm", last)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= layer(f"{name}.mid.attn_1.{part}", last, last, 1, 1)
    return shapes


def vae_shapes(sizes: Sizes) -> Shapes:
    """The autoencoder, 4 latent channels."""
    widths = [m * sizes.vae_width for m in sizes.vae_multipliers]
    shapes = layer("quant_conv", 8, 8, 1, 1) | layer("post_quant_conv", 4, 4, 1, 1)
    shapes |= vae_ends("encoder", widths[0], widths[-1], 3, 8)
    shapes |= vae_ends("decoder", widths[0], widths[-1], 4, 3)
    for level, width in enumerate(widths):
        before, above = widths[max(level - 1, 0)], widths[min(level + 1, len(widths) - 1)]
        for j in range(sizes.vae_blocks):
            inputs = width if j else before
            shapes |= vae_block(f"encoder.down.{level}.block.{j}", inputs, width)
        for j in range(sizes.vae_blocks + 1):
            shapes |= vae_block(f"decoder.up.{level}.block.{j}", width if j else above, width)
        if level < len(widths) - 1:
            shapes |= layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
        if level:
            shapes |= layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    return {VAE + name: shape for name, shape in shapes.items()}


def open_clip_shapes(sizes: Sizes) -> Shapes:
    """open_clip's text tower, with the parts that only compare texts with images."""
    width, prefix = sizes.context, f"{TEXT}model."
    shapes: Shapes = {"positional_embedding": (sizes.positions, width), "logit_scale": ()}
    shapes |= {"text_projection": (width, width)} | layer("ln_final", width)
    shapes |= layer("token_embedding", sizes.vocabulary, width, bias=False)
    for i in range(sizes.text_layers):
        name = f"transformer.resblocks.{i}"
        shapes |= layer(f"{name}.ln_1", width) | layer(f"{name}.ln_2", width)
        shapes[f"{name}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{name}.attn.in_proj_bias"] = (3 * width,)
        shapes |= layer(f"{name}.attn.out_proj", width, width)
        shapes |= layer(f"{name}.mlp.c_fc", 4 * width, width)
        shapes |= layer(f"{name}.mlp.c_proj", width, 4 * width)
    return {prefix + name: shape for name, shape in shapes.items()}


def clip_shapes(sizes: Sizes) -> Shapes:
    """CLIP's text tower."""
    width, prefix = sizes.context, f"{TEXT}transformer.text_model."
    shapes: Shapes = {"embeddings.position_ids": (1, sizes.positions)}
    shapes |= layer("embeddings.token_embedding", sizes.vocabulary, width, bias=False)
    shapes |= layer("embeddings.position_embedding", sizes.positions, width, bias=False)
    shapes |= layer("final_layer_norm", width)
    for i in range(sizes.text_layers):
        name = f"encoder.layers.{i}"
        shapes |= layer(f"{name}.layer_norm1", width) | layer(f"{name}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= layer(f"{name}.self_attn.{part}", width, width)
        shapes |= layer(f"{name}.mlp.fc1", 4 * width, width)
        shapes |= layer(f"{name}.mlp.fc2", width, 4 * width)
    return {prefix + name: shape for name, shape in shapes.items()}


def all_shapes(sizes: Sizes) -> Shapes:
    """All that is in a file, the buffers of the noise schedule included."""
    text = open_clip_shapes(sizes) if sizes.linear else clip_shapes(sizes)
    buffers = {"betas": (1000,), "alphas_cumprod": (1000,)}
    return {**buffers, **unet_shapes(sizes), **vae_shapes(sizes), **text}
