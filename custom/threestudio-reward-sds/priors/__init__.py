"""Priors: pretrained diffusion models behind one small interface (`base.py`)."""

from .base import AbstractPrior, Cameras, Conditioning, Denoiser
from .deep_floyd import DeepFloydPrior
from .mvdream import MVDreamPrior
from .prediction import NoisePrediction
from .stable_diffusion import StableDiffusionPrior

__all__ = [
    "AbstractPrior",
    "Cameras",
    "Conditioning",
    "DeepFloydPrior",
    "Denoiser",
    "MVDreamPrior",
    "NoisePrediction",
    "StableDiffusionPrior",
]
