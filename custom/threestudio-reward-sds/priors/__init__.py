"""Priors: pretrained diffusion models behind one small interface (`base.py`)."""

from .base import AbstractPrior, Cameras, Denoiser, NoisePrediction
from .mvdream import MVDreamPrior
from .stable_diffusion import StableDiffusionPrior

__all__ = [
    "AbstractPrior",
    "Cameras",
    "Denoiser",
    "MVDreamPrior",
    "NoisePrediction",
    "StableDiffusionPrior",
]
