"""A trainable low-rank copy of a prior's UNet (LoRA, Hu et al. 2021), in the memory of one UNet.

VSD fits it to the renders while the UNet itself stays frozen (ProlificDreamer, arXiv 2305.16213,
section 3.2). The adapter is on at all times but inside `off()`: a layer that is switched off when
the backward pass runs gets no gradient, silently.
"""

from contextlib import contextmanager
from typing import Any, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

CAMERA_DIM = 16
"""Numbers per camera: a 4x4 matrix."""

ADAPTED_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
"""Projections of every self- and cross-attention."""


class CameraEmbedding(nn.Module):
    """Maps the numbers of a camera to what is added to the time embedding, in its own type."""

    def __init__(self, width: int):
        from diffusers.models.embeddings import TimestepEmbedding

        super().__init__()
        self.mlp = TimestepEmbedding(CAMERA_DIM, width)

    def forward(self, numbers: Float[Tensor, "N 16"]) -> Float[Tensor, "N D"]:
        return self.mlp(numbers.to(self.mlp.linear_1.weight.dtype))


class LoRAAdapter(nn.Module):
    """Low-rank terms beside the attention projections of a UNet2DConditionModel.

    A UNet without a camera embedding gets one of its own, which only the adapted network has; it
    is trained with the rest. All trainable tensors are registered here and are single precision
    or better; the UNet is not registered.

    Args:
        unet: The frozen network; the terms are added to it and start at 0.
        rank: Rank of each term, 1 or more.
    """

    def __init__(self, unet: Any, rank: int):
        from peft import LoraConfig

        super().__init__()
        unet.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=rank,  # the terms are added as they are
                init_lora_weights="gaussian",
                target_modules=ADAPTED_LAYERS,
            )
        )
        trainable = {n: p for n, p in unet.named_parameters() if p.requires_grad}
        for parameter in trainable.values():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        self.layers = nn.ParameterDict({n.replace(".", "-"): p for n, p in trainable.items()})
        self.camera = None
        if unet.class_embedding is None:
            width = unet.time_embedding.linear_2.out_features
            self.camera = CameraEmbedding(width).to(unet.device)
        self._unet = (unet,)  # a tuple keeps the frozen network out of the state dict

    @contextmanager
    def off(self) -> Iterator[None]:
        """Make the UNet the pretrained one in this block."""
        (unet,) = self._unet
        unet.disable_adapters()
        try:
            yield
        finally:
            unet.enable_adapters()

    @contextmanager
    def sees_cameras(self) -> Iterator[None]:
        """Give the UNet the adapter's own camera embedding in this block, if there is one."""
        (unet,) = self._unet
        pretrained = unet.class_embedding
        unet.class_embedding = pretrained if self.camera is None else self.camera
        try:
            yield
        finally:
            unet.class_embedding = pretrained
